"""A promptable SAM whose mask decoder learns from its user.

This package knows nothing of HTTP, Label Studio or the environment.  Inside it a module
imports only from modules of an earlier row:

``types, errors`` < ``evidence, masks, prompts`` < ``album, compact, sam`` < ``catalog, zoom``
< ``adapter, losses`` < ``clicker`` < ``annotator, learner`` < ``journal``.
"""
