"""`strop-train gate`: is a candidate better than the decoder in use, and nowhere worse?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from training.commands.options import FILE, FOLDER, as_overrides

if TYPE_CHECKING:
    from training.evaluation.harness import ObjectResult
    from training.promotion.config import GateConfig

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

NOT_PASSED = 1


def gate_options(function: FunctionT) -> FunctionT:
    """The options that `gate` and `promote` share."""
    decorators = [
        click.argument("candidate", type=FILE),
        click.option("--config", type=FILE, help="YAML file, see configs/gate.yaml."),
        click.option(
            "--gate-set",
            "gate_sets",
            multiple=True,
            metavar="FOLDER[:PART]",
            help="The candidate must be better here; may be given again.",
        ),
        click.option(
            "--guard-set",
            "guard_sets",
            multiple=True,
            metavar="FOLDER[:PART]",
            help="The candidate must not be worse here; may be given again.",
        ),
        click.option("--registry", type=FOLDER, help="Folder of the versions."),
        click.option("--objects", type=int, help="Objects drawn from each set."),
        click.option("--seed", type=int, help="Of the draw and of the intervals."),
        click.option("--workers", type=int, help="Processes that share the work."),
        click.option("--out", type=FOLDER, help="Folder of reports and measurements."),
        click.argument("settings", nargs=-1, metavar="[KEY=VALUE]..."),
    ]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


@click.command("gate")
@gate_options
def command(candidate: Path, **options: Any) -> None:
    """Compare CANDIDATE with the decoder in use.

    CANDIDATE is a base file of sft or dpo.

    Exit code 0: it would be promoted; 1: it would not; 2: it could not be found out.
    """
    config = read_config(options)

    from training.promotion.gate import Gate
    from training.promotion.promote import measure
    from training.promotion.report import render_gate

    gate = Gate(config, candidate)
    content = measure(gate, as_command("gate", candidate, config), show_progress)
    click.echo(render_gate(content))
    click.echo(f"\n{gate.folder}: report.json")
    if not content["is_passed"]:
        click.get_current_context().exit(NOT_PASSED)


def read_config(options: dict[str, Any]) -> GateConfig:
    """The config file with what the options and KEY=VALUE change."""
    from training.promotion.config import GateConfig
    from training.runtime.config import load_config

    given = {key: value for key, value in options.items() if value != ()}
    settings = given.pop("settings", ())
    path = given.pop("config")
    return load_config(GateConfig, path, [*as_overrides(given), *settings])


def as_command(name: str, candidate: Path, config: GateConfig) -> str:
    """The command that asks the same again; of paths only the last part is told."""
    from adaptation.storage.provenance import command_line
    from training.promotion.config import split_set

    words = [command_line(f"strop-train {name} {candidate.name}", {})]
    for option, sets in (("--gate-set", config.gate_sets), ("--guard-set", config.guard_sets)):
        for folder, part in map(split_set, sets):
            words.append(f"{option} {folder.name}{':' * bool(part)}{part}")
    return " ".join([*words, f"--objects {config.objects}", f"--seed {config.seed}"])


def show_progress(
    results: Iterator[ObjectResult], n_results: int, what: str
) -> Iterable[ObjectResult]:
    """A bar over what is still to be clicked."""
    from tqdm import tqdm

    bar: Iterable[ObjectResult] = tqdm(
        results, total=n_results, desc=what, unit="object", disable=not n_results
    )
    return bar
