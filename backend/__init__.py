"""Strop's Label Studio backend: clicks come in over HTTP, masks go out.

It stands on ``adaptation`` and never imports ``training``: the two meet on disk, in the journal
and in adapter files.  From the bottom up:

- ``settings``, ``logs``: what may be set, and what is told
- ``rle``, ``protocol``: Label Studio's JSON to our types and back, pure
- ``stores``, ``embeddings``, ``prefetch``: one encode per image, ever
- ``tokens``, ``transport``, ``label_studio``, ``images``: what is read from Label Studio and, with
  the operator's permission, from elsewhere
- ``bases``: another base decoder is taken up while clicks go on
- ``sessions``, ``turns``, ``keeping``, ``clicks``, ``submissions``, ``service``: what happens at a
  click and at a submission
- ``chronicle``, ``teaching``, ``recall``, ``shelf``, ``merging``, ``rebuild``, ``school``,
  ``online``: sessions that learn, and how they are made again from the journal
- ``wiring``, ``routes``, ``app``, ``server``: all of it behind four routes
- ``doctor``, ``demo``, ``ranking``, ``replay``, ``simulate``, ``cli``: what a person starts

A module imports only from lower layers; pyproject.toml lists them all, and a test checks it.
"""
