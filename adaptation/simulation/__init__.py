"""Simulated annotators that click, accept and paint, and the metrics by which they judge.

Pure but for seeded random generators.  Imported by training, benchmarks and `strop simulate`.
"""
