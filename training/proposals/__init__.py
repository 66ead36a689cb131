"""Measuring proposals: how well anomalies, and more of what was labelled, are found."""
