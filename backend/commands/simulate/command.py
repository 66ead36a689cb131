"""`strop simulate`: what a person types."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptation.errors import SettingsError

if TYPE_CHECKING:
    from backend.settings import Settings

# Heavy modules are imported where they are used, so that --help and mistakes are answered at once.

DEFAULT_URL = "http://localhost:9090"
DEFAULT_STORE = Path(".strop/simulated")
FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("simulate")
@click.option(
    "--data",
    type=FOLDER,
    multiple=True,
    help="A data set (images/, masks/) or a folder of some; more may follow.  [required]",
)
@click.argument("more", nargs=-1, type=FOLDER, metavar="[FOLDER]...")
@click.option("--url", help=f"Address of a running Strop.  [default: {DEFAULT_URL}]")
@click.option("--serve", is_flag=True, help="Start a Strop for the time of the simulation.")
@click.option(
    "--store", type=FOLDER, help=f"--serve: its journal and data.  [default: {DEFAULT_STORE}]"
)
@click.option("--config", type=FILE, help="--serve: YAML file of its settings.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="--serve: any setting, as learning.is_on=true; may be repeated.",
)
@click.option("--model", metavar="NAME", help="--serve: a model of the catalog.")
@click.option(
    "--candidates",
    type=click.IntRange(1, 4),
    help="--serve: masks offered at the first click; the best is taken.",
)
@click.option("--objects", type=click.IntRange(1), help="In all, shared evenly.  [default: all]")
@click.option("--annotators", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option(
    "--clicks",
    type=click.IntRange(1, 500),
    default=20,
    show_default=True,
    help="On one object at most.",
)
@click.option(
    "--target-iou",
    "target",
    type=float,
    default=0.9,
    show_default=True,
    help="IoU at which a mask is accepted.",
)
@click.option(
    "--clicker",
    type=click.Choice(["central", "noisy"]),
    default="central",
    show_default=True,
    help="In the middle of the error, or somewhere in it.",
)
@click.option(
    "--give-up",
    type=click.Choice(["paint", "keep", "leave"]),
    default="paint",
    show_default=True,
    help="After the last click: paint the object, keep the mask, or leave the object out.",
)
@click.option(
    "--sloppy",
    type=float,
    default=0.0,
    metavar="SHARE",
    help="Share of the objects whose painted border is wrong.",
)
@click.option("--think", "think_s", type=float, default=0.0, help="Seconds before every click.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--project",
    type=click.IntRange(1),
    default=900_001,
    show_default=True,
    help="Number of the first set's project; the next sets' follow.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Sent with every request; may be repeated.",
)
@click.option(
    "--local-files",
    is_flag=True,
    help="--url: that Strop reads the data folder itself (images.allowed_folders).",
)
@click.option(
    "--patience",
    "patience_s",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds to wait for a server that has gone.",
)
@click.option("--out", type=FILE, help="JSON file of the results; the same command goes on in it.")
def command(
    data: tuple[Path, ...],
    more: tuple[Path, ...],
    serve: bool,
    url: str | None,
    headers: tuple[str, ...],
    **options: Any,
) -> None:
    """Label a data set through a running Strop, without people.

    Annotators who know the answer click where the mask is most wrong, accept it when it is good
    enough, else paint the object, and submit every image.  Shows a server under work, and makes a
    journal to learn from.
    """
    from backend.commands.simulate.options import Options
    from backend.commands.simulate.run import run

    names = ("store", "config", "assignments", "model", "candidates")
    serving = {name: options.pop(name) for name in names}
    if serve and url is not None:
        raise SettingsError("--serve starts a server of its own, --url names another: give one.")
    if not serve and any(value for value in serving.values()):
        raise SettingsError(
            "--store, --config, --set, --model and --candidates are for the server that --serve "
            "starts; give --serve, too."
        )
    simulation = Options(
        data=(*data, *more),
        url=url or DEFAULT_URL,
        serving=_settings(**serving) if serve else None,
        headers=parse_headers(headers),
        **options,
    )
    sys.exit(run(simulation))


def _settings(
    store: Path | None,
    config: Path | None,
    assignments: tuple[str, ...],
    model: str | None,
    candidates: int | None,
) -> Settings:
    """Settings of a server of its own; the environment's are for the real one and left alone."""
    from backend.settings import load_settings

    given = {
        "model.name": model,
        "answers.alternatives": candidates,
        "data_dir": store or DEFAULT_STORE,
    }
    return load_settings(config, given, environ={}, assignments=assignments)


def parse_headers(headers: tuple[str, ...]) -> dict[str, str]:
    """``Name: value`` each.

    Raises:
        SettingsError: One has no colon or no name; the message does not repeat its value.
    """
    parsed = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip() or not header.isprintable():
            raise SettingsError("--header wants 'Name: value', as 'Authorization: Basic ...'.")
        parsed[name.strip()] = value.strip()
    return parsed
