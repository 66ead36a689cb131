"""`strop-train pretrain`: train the embedded model anew."""

from __future__ import annotations

import click


@click.command(
    "pretrain",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
    short_help="Train the embedded model anew.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Train the embedded model anew; the recipe reads its arguments itself, --help included."""
    from training.pretrain.arguments import parse_arguments

    parse_arguments(list(arguments))  # answers --help and mistakes before torch is there

    from training.pretrain.recipe import main

    ctx.exit(main(list(arguments)))
