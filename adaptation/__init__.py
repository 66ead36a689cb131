"""A promptable SAM whose mask decoder learns from its user.

This package knows nothing of HTTP, Label Studio or the environment.  Its rooms, from the top; one
imports only from those below it, never from its neighbours in a row:

- ``learning``, ``proposals``: a session's decoder weights, learned online; the regions before the
  first click
- ``predictor``, ``simulation``, ``journal``: the path of a click; who clicks when nobody does; what
  is kept of it
- ``models``, ``masks``: SAM and its family; masks as regions, polygons and run lengths
- ``config``, ``storage``, ``types``: settings and configs, checked; files, images, data sets;
  clicks, prompts, embeddings
- ``errors``

pyproject.toml holds these contracts, and a test checks them.
"""
