"""The command `strop`: its commands and its exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from adaptation.errors import StropError
from backend.commands.simulate.command import command as simulate
from backend.options import FLAGS, settings_options
from backend.server.logs import configure_logging

if TYPE_CHECKING:
    from backend.settings import Settings

# Heavy modules are imported where they are used, so that --help and mistakes are answered at once.

USAGE_ERROR = 2
FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="strop", prog_name="strop")
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


# Commands ----------------------------------------------------------------------------------------

strop.add_command(simulate)


@strop.command()
@settings_options(*FLAGS, "workers")
def serve(settings: Settings) -> None:
    """Serve Label Studio: clicks in, masks out.

    Ctrl-C stops after the requests in flight.
    """
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
@settings_options("model", "device", "data_dir", "label_studio", "log_level")
def learn(settings: Settings) -> None:
    """Teach sessions, apart from the server.

    For a server with learning.process set to apart, on the same data folder.  Of several learners
    one works, and the others wait to take over.
    """
    from backend.commands.learn import learn as run

    run(settings)


@strop.command()
@settings_options("model", "device", "data_dir", "label_studio", "log_level")
@click.option("--project", type=int, required=True, help="Number of the project in Label Studio.")
@click.option("--unlabeled", is_flag=True, help="Only tasks without an annotation.")
def prefetch(settings: Settings, project: int, unlabeled: bool) -> None:
    """Encode a project's images, so that first clicks are fast.

    May be stopped and started again at any time: what is on the disk is not encoded again.
    """
    from backend.commands.prefetch import prefetch_project

    summary = prefetch_project(settings, project, only_unlabeled=unlabeled)
    click.echo(str(summary))
    sys.exit(1 if summary.n_failed else 0)


@strop.command()
@settings_options("model", "device", "data_dir", "label_studio", "log_level")
@click.option("--project", type=int, required=True, help="Number of the project in Label Studio.")
@click.option(
    "--order",
    type=click.Choice(["uncertainty", "diversity", "anomaly"]),
    help="Store no proposals: write each task's place in this order into its data (strop_order).",
)
def propose(
    settings: Settings, project: int, order: Literal["uncertainty", "diversity", "anomaly"] | None
) -> None:
    """Store proposals in a project's unlabelled tasks.

    They are predictions with a score, by which Label Studio can sort the tasks.

    More of the finished objects, or anomalies (--set proposals.look_for=anomalies).  May be stopped
    and started again: a task that has its proposals already is not looked at again.
    """
    from backend.commands.propose import order_project, propose_project

    summary = (
        order_project(settings, project, order) if order else propose_project(settings, project)
    )
    click.echo(str(summary))
    sys.exit(1 if summary.n_failed else 0)


@strop.command()
@settings_options("data_dir", "log_level")
@click.option("--out", required=True, help="A new folder.")
@click.option("--format", type=click.Choice(["jsonl", "parquet"]), default="jsonl")
@click.option("--project", help="Only this project.")
def export(settings: Settings, out: str, format: str, project: str | None) -> None:
    """Write the journal to JSON lines or Parquet."""
    from backend.commands.export import export_command

    sys.exit(export_command(settings.journal_url, out, format, project))


@strop.command()
@settings_options("data_dir", "log_level")
@click.option("--project", required=True, help="Number of the project.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file.")
@click.option("--json", "as_json", is_flag=True, help="The figures, not the page.")
@click.option("--recount", is_flag=True, help="Count everything anew from the journal first.")
def report(
    settings: Settings, project: str, out: Path | None, as_json: bool, recount: bool
) -> None:
    """Write a project's insights as HTML, or as JSON."""
    from backend.commands.report import write_report

    target = out or (None if as_json else Path(f"strop-project-{project}.html"))
    click.echo(write_report(settings, project, target, as_json=as_json, recount=recount), nl=False)
    if target is not None:
        click.echo()


@strop.group()
def ranking() -> None:
    """Have people rank masks in a project of its own."""


@ranking.command("create")
@settings_options("data_dir", "label_studio", "log_level")
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
    """Fill a ranking project with prompts of the journal.

    Each shows three masks.  The project is made where it is missing; running it again adds prompts
    that are not there yet.
    """
    from backend.commands.ranking import Wanted, create_rankings

    click.echo(str(create_rankings(settings, project, Wanted(**options))))


@ranking.command("collect")
@settings_options("data_dir", "label_studio", "log_level")
@click.option("--project", type=int, help="Only the rankings of this project's prompts.")
def collect_ranking(settings: Settings, project: int | None) -> None:
    """Append what people ranked to the journal.

    As often as you like: nothing is appended twice.
    """
    from backend.commands.ranking import collect_rankings

    click.echo(str(collect_rankings(settings, project)))


@strop.command("replay")
@settings_options("model", "device", "data_dir", "log_level")
@click.option("--project", type=int, help="Only this project.")
@click.option("--check", is_flag=True, help="Save nothing; exit code 1 where anything differs.")
def replay_sessions(settings: Settings, project: int | None, check: bool) -> None:
    """Make what sessions learned again from the journal.

    Bit for bit, and saves it.  Stop the server first: it would go on with what
    it has in memory, and save that.
    """
    from backend.commands.replay import replay

    found = replay(settings, None if project is None else str(project), check=check)
    for session in found:
        click.echo(str(session))
    sys.exit(0 if all(session.is_as_saved for session in found) or not check else 1)


@strop.command()
@settings_options(*FLAGS)
@click.option("--project", type=int, help="Only this project.")
@click.option(
    "--fix",
    "repair",
    flag_value="fix",
    help="Connect the project(s) and register the webhook with the password first.",
)
@click.option(
    "--unfix",
    "repair",
    flag_value="unfix",
    help="Remove Strop from the project(s) again: the connection and the webhook.",
)
@click.option("--url", metavar="URL", help="Strop's address as Label Studio reaches it.")
def doctor(
    settings: Settings, project: int | None, repair: Literal["fix", "unfix"] | None, url: str | None
) -> None:
    """Check the set-up: a line for each finding, with what to do."""
    from backend.commands.doctor import run

    if settings.log_level != "debug":  # a finding says it better than a log
        configure_logging("error", libraries="critical")
    number = None if project is None else str(project)
    sys.exit(run(settings, project_id=number, repair=repair, backend_url=url))


@strop.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """The models that can click: list them, get one, check one.

    Without a command: as `strop models list`.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list")
@settings_options("data_dir", "log_level")
def list_models(settings: Settings) -> None:
    """Name, size, what is on the disk and licence of each model."""
    from backend.commands.models import list_models as lines

    for line in lines(settings):
        click.echo(line)


@models.command("get")
@settings_options("data_dir", "log_level")
@click.argument("name")
@click.option(
    "--accept-licence",
    is_flag=True,
    help="You have read the model's licence, where it asks for that, and accept it.",
)
def get_model(settings: Settings, name: str, accept_licence: bool) -> None:
    """Download the model NAME, and check its digest.

    May be stopped and started again: what has arrived is kept.
    """
    from backend.commands.models import get_model as get

    for line in get(settings, name, accepts_licence=accept_licence):
        click.echo(line)


@models.command("check")
@settings_options("device", "data_dir", "log_level")
@click.argument("name")
@click.option(
    "--out",
    type=FILE,
    default=Path("strop-model-check.png"),
    show_default=True,
    help="The picture with mask and click.",
)
@click.option("--image", type=FILE, help="An image of your own, clicked in its middle.")
def check_model(settings: Settings, name: str, out: Path, image: Path | None) -> None:
    """Click on a sample with the model NAME, and write the mask."""
    from backend.commands.models import check_model as check

    for line in check(settings, name, out, image):
        click.echo(line)


@models.command("export")
@settings_options("data_dir", "log_level")
@click.argument("name")
@click.option("--out", type=FILE, required=True, help="The file, as compact-int8.onnx.")
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of images like those to label: int8, calibrated on them, in place of float32.",
)
def export_encoder(settings: Settings, name: str, out: Path, images: Path | None) -> None:
    """Write the image encoder of the model NAME for ONNX Runtime.

    It is faster on most processors.  Serve it with --set model.encoder=FILE.
    """
    from backend.commands.models import export_model

    for line in export_model(settings, name, out, images):
        click.echo(line)


@strop.command()
@settings_options("data_dir", "log_level")
@click.option("--out", type=FILE, required=True, help="A new file, as strop.tar.")
def backup(settings: Settings, out: Path) -> None:
    """Keep journal, images, sessions and versions in one file.

    Strop may run meanwhile.  Embeddings and downloaded models are left out: they can be made again.
    """
    from backend.commands.backup import make_backup

    click.echo(make_backup(settings, out))


@strop.command()
@settings_options("data_dir", "log_level")
@click.argument("file", type=FILE)
def restore(settings: Settings, file: Path) -> None:
    """Bring back what `strop backup` kept, where nothing is yet.

    Everything in FILE is checked before anything gets its place.
    """
    from backend.commands.backup import restore_backup

    click.echo(restore_backup(settings, file))


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
    """Strop and a Label Studio of its own, with images to click on.

    From a clone, `make demo` installs all of it first.
    """
    from backend.commands.demo import DemoOptions, run

    configure_logging("warning")
    sys.exit(run(DemoOptions(**options)))


@strop.command("settings")
@settings_options(*FLAGS, "workers")
def show_settings(settings: Settings) -> None:
    """Print the settings in force, with their meanings.

    Secrets are masked.
    """
    from backend.settings import as_yaml

    click.echo(as_yaml(settings), nl=False)


if __name__ == "__main__":
    main()
