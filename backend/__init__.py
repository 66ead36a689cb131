"""Strop's Label Studio backend: clicks come in over HTTP, masks go out.

It stands on ``adaptation`` and never imports ``training``: the two meet on disk, in the journal
and in adapter files.  Inside it a module imports only from modules of an earlier row:

``settings`` < ``rle`` < ``protocol`` < ``label_studio`` < ``images`` < ``embeddings`` <
``sessions`` < ``service`` < ``routes`` < ``app`` < ``doctor``, ``demo`` < ``cli``.
"""
