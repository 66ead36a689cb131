"""`strop-train table`: the results of several runs as one Markdown table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from adaptation.errors import SettingsError

DEFAULT_METRICS = "FR20@85,FR30@90,NoC20@85,NoC20@90"


@click.command("table")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metrics", default=DEFAULT_METRICS, show_default=True, help="Comma-separated.")
def command(runs: tuple[Path, ...], metrics: str) -> None:
    """Put the results of RUNS into one Markdown table.

    RUNS are folders or result.json files.  Frozen and adapted side by side; in brackets the range
    over the orders, then the relative change, and p of the paired test.
    """
    results = [read_result(run) for run in runs]
    click.echo(render_markdown(results, [name.strip() for name in metrics.split(",")]))


def read_result(run: Path) -> dict[str, Any]:
    """A run's result.json.

    Raises:
        SettingsError: There is none, or it is not one of ours.
    """
    path = run / "result.json" if run.is_dir() else run
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "metrics" in content and "data" in content:
            return dict(content)
    except OSError as error:
        raise SettingsError(f"{run.name} has no result.json yet; finish the run first.") from error
    except (ValueError, TypeError):
        pass
    raise SettingsError(f"{path.name} in {run.name} is no result of `strop-train evaluate`.")


def render_markdown(results: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """One row for each result.

    Raises:
        SettingsError: A metric that a result does not have.
    """
    lines = [
        "| set | objects | " + " | ".join(metrics) + " |",
        "|---|---|" + "---|" * len(metrics),
    ]
    for result in results:
        data = result["data"]
        cells = [_cell(result, name) for name in metrics]
        lines.append(f"| {data['name']} | {data['n_objects']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(result: Mapping[str, Any], name: str) -> str:
    metric = result["metrics"].get(name)
    if metric is None:
        known = ", ".join(result["metrics"])
        raise SettingsError(f"{result['data']['name']} has no metric {name!r}; it has {known}.")
    if "change" not in metric:
        (only,) = metric.values()
        return f"{only['mean']:.1f}"
    adapted, change = metric["adapted"], metric["change"]
    spread = adapted["per_order"]
    orders = f" ({min(spread):.1f} to {max(spread):.1f})" if len(spread) > 1 else ""
    relative = "" if change["relative"] is None else f", {100 * change['relative']:+.0f} %"
    p_value = "<.001" if change["p_value"] < 0.001 else f"{change['p_value']:.2g}"
    arrow = f"{metric['frozen']['mean']:.1f} → {adapted['mean']:.1f}{orders}"
    return f"{arrow}{relative}, p {p_value}"
