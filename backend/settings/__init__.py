"""The settings of `strop serve`: one frozen object, made once from three layers.

Later layers win: the YAML file (``configs/serve.yaml`` shows every key with its default), then
the environment (``STROP_SERVER__PORT=9091``: prefix ``STROP_``, two underscores between section
and key), then the command line.  Every mistake in any layer is reported, all at once, with the
place it came from.

This package is the only reader of the environment.
"""

from __future__ import annotations

from backend.settings.layers import load_learner, load_settings
from backend.settings.render import as_yaml
from backend.settings.schema import Settings
from backend.settings.together import check_together

__all__ = [
    "Settings",
    "as_yaml",
    "check_together",
    "load_learner",
    "load_settings",
]
