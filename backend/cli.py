"""The command `strop`: serve, prefetch, propose, export, doctor, demo, simulate, settings."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from adaptation.errors import StropError
from backend.commands.simulate.command import command as simulate
from backend.server.logs import configure_logging
from backend.settings import Settings, as_yaml, load_settings, parse_assignments

Command = TypeVar("Command", bound=Callable[..., object])

USAGE_ERROR = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("strop"), prog_name="strop")
def strop() -> None:
    """Click segmentation for Label Studio, with a decoder that sharpens while people label."""


def main() -> None:
    """Run a command; a deliberate error becomes one message and exit code 2."""
    try:
        strop.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StropError as error:
        click.echo(f"strop: {error}", err=True)
        sys.exit(USAGE_ERROR)


# Options that several commands share -------------------------------------------------------------

_FLAGS = {
    "host": ("server.host", "Address to listen on."),
    "port": ("server.port", "TCP port."),
    "model": ("model.name", "A model of the catalog."),
    "device": ("model.device", "Where torch computes: cpu, cuda, mps."),
    "data_dir": ("data_dir", "Folder of journal, embeddings and checkpoints."),
    "label_studio": ("label_studio.url", "Address of Label Studio."),
    "log_level": ("log_level", "debug, info, warning or error."),
}
"""Settings that have an option of their own: its name, the setting's key and the help text."""


def settings_options(command: Command) -> Command:
    """Add --config, --set and the flags; the command gets the checked ``settings``."""

    @functools.wraps(command)
    def with_settings(config: Path | None, assignments: tuple[str, ...], **options: Any) -> object:
        flags = {key: options.pop(name) for name, (key, _) in _FLAGS.items()}
        given = {key: value for key, value in flags.items() if value is not None}
        settings = load_settings(config, {**parse_assignments(assignments), **given})
        configure_logging(settings.log_level)
        return command(settings=settings, **options)

    wrapped: Any = with_settings
    for option in reversed(_options()):
        wrapped = option(wrapped)
    return cast(Command, wrapped)


def _options() -> list[Callable[[Any], Any]]:
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
        click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=f"{text} [{key}]")
        for name, (key, text) in _FLAGS.items()
    ]
    return [config, assignments, *flags]


# Commands ----------------------------------------------------------------------------------------

strop.add_command(simulate)


@strop.command()
@settings_options
def serve(settings: Settings) -> None:
    """Serve Label Studio: clicks in, masks out.  Ctrl-C stops after the requests in flight."""
    from adaptation.models.catalog import fetch, find_checkpoint
    from backend.server.gunicorn_app import serve as run

    if settings.model.checkpoint is None:
        fetch(
            find_checkpoint(settings.model.name),
            settings.models_dir,
            may_download=settings.model.download,
            show_progress=True,
        )
    run(settings)


@strop.command()
@settings_options
@click.option("--project", type=int, required=True, help="Number of the project in Label Studio.")
@click.option("--unlabeled", is_flag=True, help="Only tasks without an annotation.")
def prefetch(settings: Settings, project: int, unlabeled: bool) -> None:
    """Encode all images of a project, so that every first click is fast.

    May be stopped and started again at any time: what is on the disk is not encoded again.
    """
    from backend.commands.prefetch import prefetch_project

    summary = prefetch_project(settings, project, only_unlabeled=unlabeled)
    click.echo(str(summary))
    sys.exit(1 if summary.n_failed else 0)


@strop.command()
@settings_options
@click.option("--project", type=int, required=True, help="Number of the project in Label Studio.")
def propose(settings: Settings, project: int) -> None:
    """Propose regions in all tasks that nobody has labelled, as predictions with a score.

    More of the finished objects, or anomalies (--set proposals.look_for=anomalies).  May be stopped
    and started again: a task that has its proposals already is not looked at again.
    """
    from backend.commands.propose import propose_project

    summary = propose_project(settings, project)
    click.echo(str(summary))
    sys.exit(1 if summary.n_failed else 0)


@strop.command()
@settings_options
@click.option("--out", required=True, help="A new folder.")
@click.option("--format", type=click.Choice(["jsonl", "parquet"]), default="jsonl")
@click.option("--project", help="Only this project.")
def export(settings: Settings, out: str, format: str, project: str | None) -> None:
    """Write the journal to JSON lines or Parquet."""
    from backend.commands.export import export_command

    sys.exit(export_command(settings.journal_url, out, format, project))


@strop.group()
def ranking() -> None:
    """Have people rank the decoder's masks in a Label Studio project of its own."""


@ranking.command("create")
@settings_options
@click.option("--project", type=int, required=True, help="The project that was clicked in.")
@click.option("--count", type=int, default=50, show_default=True, help="New tasks at most.")
@click.option(
    "--margin",
    type=float,
    default=0.05,
    show_default=True,
    help="Leave out prompts of which two masks differ by less (1 - IoU).",
)
@click.option(
    "--objects",
    type=click.Choice(["all", "finished", "unfinished"]),
    default="all",
    show_default=True,
    help="Finished: those whose mask was submitted.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of sample and places.")
def create_ranking(settings: Settings, project: int, **options: Any) -> None:
    """Fill a ranking project with prompts of the journal, three masks each.

    It is made where it is missing; running it again adds prompts that are not there yet.
    """
    from backend.commands.ranking import Wanted, create_rankings

    click.echo(str(create_rankings(settings, project, Wanted(**options))))


@ranking.command("collect")
@settings_options
@click.option("--project", type=int, help="Only the rankings of this project's prompts.")
def collect_ranking(settings: Settings, project: int | None) -> None:
    """Append what people ranked to the journal; again and again, nothing twice."""
    from backend.commands.ranking import collect_rankings

    click.echo(str(collect_rankings(settings, project)))


@strop.command("replay")
@settings_options
@click.option("--project", type=int, help="Only this project.")
@click.option("--check", is_flag=True, help="Save nothing; exit code 1 where anything differs.")
def replay_sessions(settings: Settings, project: int | None, check: bool) -> None:
    """Make what sessions learned again from the journal, bit for bit, and save it.

    Stop the server first: it would go on with what it has in memory, and save that.
    """
    from backend.commands.replay import replay

    found = replay(settings, None if project is None else str(project), check=check)
    for session in found:
        click.echo(str(session))
    sys.exit(0 if all(session.is_as_saved for session in found) or not check else 1)


@strop.command()
@settings_options
@click.option("--project", type=int, help="Only this project.")
@click.option(
    "--fix",
    is_flag=True,
    help="Connect the project(s) and register the webhook with the password first.",
)
@click.option("--url", metavar="URL", help="Strop's address as Label Studio reaches it.")
def doctor(settings: Settings, project: int | None, fix: bool, url: str | None) -> None:
    """Check the set-up: a line for each finding, with what to do."""
    from backend.commands.doctor import run

    number = None if project is None else str(project)
    sys.exit(run(settings, project_id=number, fix=fix, backend_url=url))


@strop.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9090, help="Port of Strop.")
@click.option(
    "--label-studio-port",
    type=click.IntRange(1, 65535),
    default=8080,
    help="Port of Label Studio.",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".strop/demo"),
    help="Keeps the demo's data from one start to the next.",
)
@click.option(
    "--environment",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".venv-label-studio"),
    help="Python environment of Label Studio; made where it is missing.",
)
@click.option("--model", default="compact", help="A model of the catalog.")
def demo(**options: Any) -> None:
    """Strop and a Label Studio of its own, connected, with images to click on."""
    from backend.commands.demo import DemoOptions, run

    configure_logging("warning")
    sys.exit(run(DemoOptions(**options)))


@strop.command("settings")
@settings_options
def show_settings(settings: Settings) -> None:
    """Print the settings in force, with their meanings; secrets are masked."""
    click.echo(as_yaml(settings), nl=False)
