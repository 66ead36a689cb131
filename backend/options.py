"""Options that several commands share: any setting, and flags for the usual ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from backend.server.logs import configure_logging

Command = TypeVar("Command", bound=Callable[..., object])

FLAGS = {
    "host": ("server.host", "Address to listen on."),
    "port": ("server.port", "TCP port."),
    "model": ("model.name", "A model of the catalog."),
    "device": ("model.device", "Where torch computes: cpu, cuda, mps."),
    "data_dir": ("data_dir", "Folder of journal, embeddings and checkpoints."),
    "label_studio": ("label_studio.url", "Address of Label Studio."),
    "log_level": ("log_level", "debug, info, warning or error."),
}
"""Settings that have an option of their own: its name, the setting's key and the help text."""

FLAGS_OF_SOME = {"workers": ("server.workers", "Processes that answer clicks.")}
"""The same, taken only by the commands that name them."""


def settings_options(*flags: str) -> Callable[[Command], Command]:
    """Add --config, --set and flags of :data:`FLAGS`; the command gets the checked ``settings``.

    Args:
        flags: Those that mean something to the command.
    """
    some = {name: FLAGS_OF_SOME[name] for name in flags if name in FLAGS_OF_SOME}
    offered = {**FLAGS, **some}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_settings(config: Path | None, assignments: tuple[str, ...], **options: Any) -> Any:
            from backend.settings import load_settings

            given = {key: options.pop(name) for name, (key, _) in offered.items()}
            settings = load_settings(config, given, assignments=assignments)
            configure_logging(settings.log_level)
            return command(settings=settings, **options)

        wrapped: Any = with_settings
        for option in reversed(_options(offered, flags)):
            wrapped = option(wrapped)
        return cast(Command, wrapped)

    return decorate


def _options(
    offered: Mapping[str, tuple[str, str]], shown: Sequence[str]
) -> list[Callable[[Any], Any]]:
    config = click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="STROP_CONFIG",
        help="YAML file of settings.",
    )
    assignments = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any setting, as server.threads=8; may be repeated.",
    )
    flags = [
        click.option(
            f"--{name.replace('_', '-')}",
            name,
            metavar="VALUE",
            help=f"{text} [{key}]",
            hidden=name not in shown,  # of no use to the command, but taken as it always was
        )
        for name, (key, text) in offered.items()
    ]
    return [config, assignments, *flags]
