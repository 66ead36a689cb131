"""Strop's offline jobs: make the embedded model, tune a decoder, measure it.

It stands on ``adaptation`` and never imports ``backend``: the two meet on disk, in the journal
and in adapter files.  Its rooms, from the top; one imports only from those below it:

- ``cli``, ``commands``: what a person starts
- ``nightly``: the job of the night
- ``finetune``, ``promotion``: SFT, DPO, calibration; which base decoder serves
- ``evaluation``, ``preferences``, ``pretrain``: measuring; the journal's masks as data; the
  embedded model
- ``runtime``: configs, processes, run folders, checkpoints

pyproject.toml holds these contracts, and a test checks them.
"""
