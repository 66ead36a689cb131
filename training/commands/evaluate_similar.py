"""`strop-train evaluate-similar`: label a few objects, how many of the rest are proposed?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.commands.options import FILE, FOLDER, as_overrides, command_of

# Heavy modules are imported where they are used, so that --help and mistakes are answered at once.


@click.command("evaluate-similar")
@click.option("--config", type=FILE, help="YAML file, see configs/evaluate-similar.yaml.")
@click.option("--data", type=FOLDER, help="Folder with images/ and masks/ of a kind.  [required]")
@click.option("--model", help="Model of the catalog.")
@click.option("--images", type=int, help="Images that proposals are made for.")
@click.option("--seed", type=int, help="Of the draws.")
@click.option("--zoom/--no-zoom", default=None, help="Draw small objects on a crop around them.")
@click.option("--cache", type=FOLDER, help="Folder of cached embeddings.")
@click.option("--out", type=FOLDER, help="Run folder.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def command(config: Path | None, settings: tuple[str, ...], **options: Any) -> None:
    """Measure proposals of more of what was finished.

    The objects are those of the first images, in a seeded order; proposals are made for images of
    other groups.  Prints precision and recall (a match has an IoU of 0.5 or 0.75), the share that
    is accepted as it is (0.85), and clicks saved; writes result.json into the run folder.
    """
    from training.proposals.config import SimilarConfig
    from training.proposals.images import load
    from training.proposals.report import progress, write_result
    from training.proposals.similar import SimilarEvaluation, table
    from training.runtime.config import load_config

    asked = load_config(SimilarConfig, config, [*as_overrides(options), *settings])
    sam = load(asked)
    evaluation = SimilarEvaluation(asked, sam, progress)
    rows = evaluation.run()
    told = command_of("strop-train evaluate-similar", config, options, settings)
    found = {"n_images": len(evaluation.queries), "rows": [row.as_json() for row in rows]}
    write_result(asked, sam, told, found)
    click.echo(table(rows))
    click.echo(f"\n{asked.out}: result.json")
