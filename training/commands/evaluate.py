"""`strop-train evaluate`: measure a model with simulated clicks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.commands.options import FILE, FOLDER, as_overrides

if TYPE_CHECKING:
    from training.evaluation.config import EvaluateConfig
    from training.evaluation.evaluate import Evaluation
    from training.evaluation.harness import ObjectResult

# Heavy modules are imported where they are used, so that --help and mistakes are answered at once.


@click.command("evaluate")
@click.option("--config", type=FILE, help="YAML file, see configs/evaluate.yaml.")
@click.option("--data", type=FOLDER, help="Folder with images/ and masks/.  [required]")
@click.option("--part", help="Only this part of the folder's split.json, e.g. test.")
@click.option("--model", help="As `strop models` lists them, a folder, or one of the hub.")
@click.option("--checkpoint", type=FILE, help="Weights of your own for that model.")
@click.option("--encoder", type=FILE, help="Its encoder, as `strop models export` writes it.")
@click.option("--base", type=FILE, help="Base decoder: a file of sft or dpo, or a version's.")
@click.option("--adapter", type=FILE, help="Adapter whose decoder is evaluated as the base.")
@click.option("--models-dir", type=FOLDER, help="Where downloaded checkpoints are kept.")
@click.option("--device", help="cpu, or cuda where there is one.")
@click.option("--correct/--plain", default=None, help="Frozen masks are made to obey the clicks.")
@click.option("--prompts", help="clicks, point, point+negative or box.")
@click.option(
    "--adapt",
    help="none; online; frozen beside what learns: both (all of it), weights, scores, "
    "seed (the baseline).",
)
@click.option("--ablate", help="Learn without one part, such as scores, weights or trust.")
@click.option("--learner", type=FILE, help="YAML file of the learner, see configs/learner.yaml.")
@click.option("--think", type=int, help="Stretches of idle training after each object.")
@click.option("--objects", type=int, help="Draw this many objects.")
@click.option("--all-objects", is_flag=True, help="Take all objects instead of a sample.")
@click.option("--seed", type=int, help="Of the sample, the orders, noisy clicks and learners.")
@click.option("--orders", type=int, help="Orders of the objects, each a stream of its own.")
@click.option("--sessions", type=int, help="Annotators among whom the groups are shared out.")
@click.option("--keep-groups/--shuffle", default=None, help="Groups and images stay together.")
@click.option("--clicker", help="central or noisy.")
@click.option("--max-clicks", type=int, help="Clicks on one object at most.")
@click.option("--target", type=float, help="IoU at which the annotator stops.")
@click.option("--zoom/--no-zoom", default=None, help="Decode small objects on a crop around them.")
@click.option("--edges/--no-edges", default=None, help="Draw masks at the image's edges.")
@click.option("--workers", type=int, help="Processes that share the work.")
@click.option("--threads", type=int, help="Threads of each process.")
@click.option("--cache", type=FOLDER, help="Folder of cached embeddings.")
@click.option("--no-cache", is_flag=True, help="Encode everything anew.")
@click.option("--out", type=FOLDER, help="Run folder; the same command goes on in it.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def command(
    config: Path | None,
    all_objects: bool,
    no_cache: bool,
    zoom: bool | None,
    edges: bool | None,
    settings: tuple[str, ...],
    **options: Any,
) -> None:
    """Measure with simulated clicks, frozen and learning.

    Prints a table and writes result.json, plots and every object's result into the run folder.
    The same command goes on with a run that was stopped.  Options override the config file;
    KEY=VALUE sets any key of it.
    """
    from training.evaluation.config import EvaluateConfig
    from training.runtime.config import load_config

    overrides = as_overrides({**options, "zoom.is_on": zoom, "edges.is_on": edges})
    overrides += ["objects=null"] * all_objects + ["cache=null"] * no_cache
    run_evaluation(load_config(EvaluateConfig, config, [*overrides, *settings]))


def run_evaluation(config: EvaluateConfig) -> None:
    """Run, or go on with, an evaluation, and report it."""
    from tqdm import tqdm

    from training.evaluation.evaluate import Evaluation, load_evaluated_model
    from training.evaluation.learners import make_learners

    evaluation = Evaluation(config, load_evaluated_model(config), make_learners(config))
    results = evaluation.finished()
    jobs = evaluation.jobs(results)
    bar = tqdm(
        evaluation.go_on(jobs),
        total=evaluation.n_results,
        initial=len(results),
        unit="object",
        smoothing=0.05,
        disable=not jobs,
    )
    report_evaluation(evaluation, [*results, *bar])


def report_evaluation(evaluation: Evaluation, results: Sequence[ObjectResult]) -> None:
    """Print the table; write JSON and plots."""
    from adaptation.simulation.metrics import table_metrics
    from adaptation.storage.provenance import command_line, provenance
    from training.evaluation.plots import plot_along, plot_table
    from training.evaluation.report import make_report, render, write_json
    from training.evaluation.summary import ResultTable

    rules, folder = evaluation.config.rules(), evaluation.run.path
    table = ResultTable(results, rules.n_rounds)
    metrics = table_metrics(rules.n_rounds, rules.target)
    command = command_line("strop-train evaluate", evaluation.config.options())
    report = make_report(table, metrics, evaluation.identity(), provenance(command))
    write_json(report, folder / "result.json")
    title = f"{evaluation.dataset.name}, {evaluation.sam.model_id}"
    plot_table(table, metrics, title, rules.target, folder)
    if "adapted" in table.modes and rules.prompts == "clicks":
        plot_along(report.along, title, folder / "along_stream.png")
    click.echo(render(report))
    click.echo(f"\n{folder}: result.json, results.jsonl, plots")
