"""`strop-train preferences`: from the journal to pairs, ranked lists and examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.commands.options import FILE, FOLDER, as_overrides

if TYPE_CHECKING:
    from training.preferences.settings import PreferencesConfig


@click.command("preferences")
@click.option("--config", type=FILE, help="YAML file, see configs/preferences.yaml.")
@click.option(
    "--journal",
    envvar="STROP_JOURNAL__URL",
    show_envvar=True,
    help="The journal, as sqlite:///.strop/journal.db or postgresql://...  [required]",
)
@click.option("--album", type=FOLDER, help="The images clicked on, as .strop/images.  [required]")
@click.option("--out", type=FOLDER, help="The folder to make.  [required]")
@click.option(
    "--replace", is_flag=True, default=None, help="It may take the place of an older one."
)
@click.option("--project", help="Only this project.")
@click.option("--seed", type=int, help="Of the split into training and validation, and the sheet.")
@click.option("--val-share", type=float, help="Share of the images kept for validation.")
@click.option("--margin", type=float, help="IoU between the masks of an outcome pair, at least.")
@click.option("--most-per-prompt", type=int, help="Outcome pairs of one prompt, at most.")
@click.option("--submitted/--no-submitted", default=None, help="Submitted masks are chosen too.")
@click.option("--outcome/--no-outcome", default=None, help="Pairs by IoU with the submitted mask.")
@click.option("--corrections/--no-corrections", default=None, help="Pairs by corrections.")
@click.option("--choices/--no-choices", default=None, help="Pairs by choice among suggestions.")
@click.option("--rankings/--no-rankings", default=None, help="Pairs by rankings of people.")
@click.option("--sheet-pairs", type=int, help="Pairs on the contact sheet, at most.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def command(config: Path | None, settings: tuple[str, ...], **options: Any) -> None:
    """Turn the journal into what decoders are tuned with.

    Writes examples.parquet (finished objects), pairs.parquet (of two masks the better one),
    rankings.parquet (ranked lists), report.json and sheet.html (pairs to look at).  The folder
    appears whole or not at all.  Options override the config file; KEY=VALUE sets any key of it.
    """
    from training.preferences.settings import PreferencesConfig
    from training.runtime.config import load_config

    keys = {
        "margin": "outcome.margin",
        "most_per_prompt": "outcome.most_per_prompt",
        "submitted": "outcome.submitted",
        "outcome": "outcome.is_on",
        "corrections": "correction.is_on",
        "choices": "choice.is_on",
        "rankings": "ranking.is_on",
    }
    overrides = as_overrides({keys.get(name, name): value for name, value in options.items()})
    run_preferences(load_config(PreferencesConfig, config, [*overrides, *settings]))


def run_preferences(config: PreferencesConfig) -> None:
    """Make the folder, with a progress bar, and say what is in it."""
    from tqdm import tqdm

    from training.preferences.build import make_preferences, render_counts

    with tqdm(unit=" objects", desc="preferences", disable=None) as bar:

        def follow(total: int) -> Any:
            bar.reset(total)
            return bar.update

        report = make_preferences(config, follow)
    click.echo(render_counts(report))
    click.echo(f"\n{config.out}: report.json, sheet.html, three tables")
