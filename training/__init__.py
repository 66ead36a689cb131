"""Strop's offline jobs: make the embedded model, tune a decoder, measure it.

It stands on ``adaptation`` and never imports ``backend``: the two meet on disk, in the journal
and in adapter files.
"""
