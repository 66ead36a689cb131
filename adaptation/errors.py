"""Every error that Strop raises on purpose, and the answer each one becomes.

::

    StropError                 base; the message says what was wrong, what was got, what to do
    ├── InputError             what a caller sent cannot be used          -> HTTP 400, exit code 2
    │   ├── ProtocolError      a Label Studio payload                     -> HTTP 400
    │   └── ImageError         an image that cannot or may not be read    -> HTTP 422
    ├── SettingsError          settings, configs, command-line options    -> exit code 2
    ├── ModelError             a checkpoint or embedding that does not fit -> HTTP 500, exit code 2
    └── StoreError             a journal or cache that fails           -> HTTP 503, exit code 2

Messages are shown to users: they never hold tokens, and answers over HTTP never hold paths.
"""

from __future__ import annotations


class StropError(Exception):
    """Base of all deliberate errors; catch this one at the outermost door only."""


class InputError(StropError):
    """What a caller sent cannot be used."""


class ProtocolError(InputError):
    """A Label Studio payload is not what its protocol promises."""


class ImageError(InputError):
    """An image cannot be read, is too large, or lies outside what may be read."""


class SettingsError(StropError):
    """Settings are wrong; the message lists every mistake, one a line."""


class RangeError(SettingsError, ValueError):
    """A value of settings lies out of its range; pydantic collects it, being a ValueError."""


class ModelError(StropError):
    """A checkpoint, an adapter or an embedding does not fit the model."""


class StoreError(StropError):
    """The journal or a cache could not be read or written."""
