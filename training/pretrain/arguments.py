"""What `strop-train pretrain` is told; light, so that --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Pretrain the compact model: photographs, made-up images, simulated annotators.  Assumes the data
sets of the config below one data folder.  Runs in any number of processes on one machine
(processes=2) or several (torchrun), with a GPU or none; the same command goes on from the run's
last checkpoint.  With max_steps a run is determined by the seed; with max_minutes the learning
rate follows the clock instead."""
EMBEDDED = Path("embedded")
"""Stands for the file of the weights that come with Strop."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read ``config``, ``export``, ``blend`` and ``overrides``; of the process unless given."""
    parser = argparse.ArgumentParser(prog="strop-train pretrain", description=DESCRIPTION)
    parser.add_argument("--config", type=Path, default=Path("configs/pretrain.yaml"))
    parser.add_argument(
        "--export",
        type=Path,
        nargs="?",
        const=EMBEDDED,
        metavar="FILE",
        help="do not train; write the run's weights to FILE (embedded by default)",
    )
    parser.add_argument(
        "--blend",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="with --export: share of the weights that the run started from (0)",
    )
    parser.add_argument(
        "--pack",
        type=Path,
        metavar="FILE",
        help="do not train; write what the config reads to one archive, to train from elsewhere "
        "(data=FILE)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser.parse_intermixed_args(arguments)
