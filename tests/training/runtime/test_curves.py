"""The picture of a run's log."""

from __future__ import annotations

from pathlib import Path

import cv2

from training.runtime.curves import Panels, plot_curves

PANELS: Panels = {
    "losses": lambda name: name.endswith("loss"),
    "IoU": lambda name: name.startswith("iou"),
}
TRAINED = [{"step": step, "loss": 1 / step} for step in range(1, 9)]
MEASURED = [{"step": 4, "eval_loss": 0.8}, {"step": 8, "eval_loss": 0.4}]


def drawn(rows: list[dict[str, float]], path: Path) -> int:
    """Draw, and count the pixels that are not white."""
    plot_curves(rows, PANELS, path, validation="eval_")
    image = cv2.imread(str(path))
    assert image is not None
    return int((image.min(axis=2) < 250).sum())


def test_validation_is_a_second_line_of_its_name(tmp_path: Path) -> None:
    both = drawn([*TRAINED, *MEASURED], tmp_path / "both.png")
    assert both > drawn(TRAINED, tmp_path / "trained.png") + 200


def test_a_panel_for_each_title_with_something_to_show(tmp_path: Path) -> None:
    widths = []
    for rows in (TRAINED, [*TRAINED, {"step": 8, "iou@1": 0.5}]):
        plot_curves(rows, PANELS, tmp_path / "curves.png", validation="eval_")
        image = cv2.imread(str(tmp_path / "curves.png"))
        assert image is not None
        widths.append(image.shape[1])
    assert widths[1] == 2 * widths[0]


def test_nothing_to_show_is_no_picture(tmp_path: Path) -> None:
    plot_curves([{"step": 1, "lr": 0.1}], PANELS, tmp_path / "curves.png", validation="eval_")
    assert not (tmp_path / "curves.png").exists()
