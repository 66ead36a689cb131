"""Strop's Label Studio backend: clicks come in over HTTP, masks go out.

It stands on ``adaptation`` and never imports ``training``: the two meet on disk, in the journal
and in adapter files.  Its rooms, from the top; one imports only from those below it:

- ``cli``, ``commands``: what a person starts
- ``server``: HTTP
- ``wiring``: which settings make which parts
- ``service``: what happens at a click and at a submission; tells all threads and locks
- ``learning``: sessions that learn behind the replies
- ``embeddings``: one encode per image and view
- ``images``: what is read from Label Studio and, with the operator's permission, from elsewhere
- ``protocol``, ``label_studio``: Label Studio's JSON to our types and back, pure; its API
- ``settings``, ``threads``

pyproject.toml holds these contracts, and a test checks them.
"""
