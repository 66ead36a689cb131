"""The commands of `strop-train`, one module each; every module has a `command`."""
