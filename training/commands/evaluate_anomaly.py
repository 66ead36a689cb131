"""`strop-train evaluate-anomaly`: how well are defects found before the first click?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.commands.options import FILE, FOLDER, as_overrides, command_of

# Heavy modules are imported where they are used, so that --help and mistakes are answered at once.


@click.command("evaluate-anomaly")
@click.option("--config", type=FILE, help="YAML file, see configs/evaluate-anomaly.yaml.")
@click.option("--data", type=FOLDER, help="Folder with images/ and masks/ of defects.  [required]")
@click.option("--model", help="Model of the catalog.")
@click.option("--images", type=int, help="Draw this many images; all of them by default.")
@click.option("--feedback", type=int, help="Objects that people judge; 0: none.")
@click.option("--seed", type=int, help="Of the draws.")
@click.option("--panels", type=int, help="Panels to look at.")
@click.option("--cache", type=FOLDER, help="Folder of cached embeddings.")
@click.option("--out", type=FOLDER, help="Run folder.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def command(config: Path | None, settings: tuple[str, ...], **options: Any) -> None:
    """Measure anomaly proposals: max-F1 and AUPRO at 400x400.

    An image without a mask is a good one.  Images of one group (groups.json) never vouch for one
    another.  Prints the source's ablation as a table; writes result.json and panels (image, map,
    candidates, truth) into the run folder.  KEY=VALUE sets any key of the config, for instance
    mutual.share=0.2.
    """
    from training.proposals.anomaly import AnomalyEvaluation, table
    from training.proposals.config import AnomalyConfig
    from training.proposals.images import load
    from training.proposals.report import progress, write_result
    from training.runtime.config import load_config

    asked = load_config(AnomalyConfig, config, [*as_overrides(options), *settings])
    sam = load(asked)
    evaluation = AnomalyEvaluation(asked, sam, progress)
    rows = evaluation.run()
    told = command_of("strop-train evaluate-anomaly", config, options, settings)
    found = {"n_images": len(evaluation.stems), "rows": [row.as_json() for row in rows]}
    write_result(asked, sam, told, found)
    click.echo(table(rows))
    click.echo(f"\n{asked.out}: result.json{', panels' if asked.panels and asked.places else ''}")
