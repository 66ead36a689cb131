"""Measuring with simulated annotators: streams of objects, frozen and adapted side by side."""
