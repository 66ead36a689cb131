"""A page to look at: some pairs of each source, drawn over their images."""

from __future__ import annotations

import base64
import html
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adaptation.errors import InputError
from adaptation.masks import Mask, bounding_box, decode_rle
from adaptation.masks.regions import window_of
from adaptation.storage.album import Album
from training.preferences.rows import SOURCES, PreferencePair, Source

SIDE = 240
"""Longest side of a small picture, in pixels."""

_CHOSEN, _REJECTED, _BOTH, _CLICK, _NOT = (
    (40, 170, 90),
    (215, 60, 50),
    (120, 120, 120),
    (0, 200, 60),
    (240, 30, 30),
)
Picture = NDArray[np.uint8]


class PairSample:
    """A bounded, seeded sample of a stream of pairs, of which each source has its part.

    Args:
        size: Pairs at most.
        seed: Of the draw.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._rng = random.Random(seed)
        self._kept: dict[Source, list[PreferencePair]] = {source: [] for source in SOURCES}
        self._seen = dict.fromkeys(SOURCES, 0)

    def offer(self, pair: PreferencePair) -> None:
        """Perhaps keep a pair: in the end every one of a source was as likely as any other."""
        kept = self._kept[pair.source]
        self._seen[pair.source] += 1
        if len(kept) < self._size:
            kept.append(pair)
        elif (place := self._rng.randrange(self._seen[pair.source])) < self._size:
            kept[place] = pair

    def pairs(self) -> list[PreferencePair]:
        """The sample, sources by turns until it is full."""
        turns: list[PreferencePair] = []
        for place in range(self._size):
            turns += [kept[place] for kept in self._kept.values() if place < len(kept)]
        return sorted(turns[: self._size], key=lambda pair: SOURCES.index(pair.source))


def write_sheet(path: Path, pairs: Sequence[PreferencePair], album: Album, title: str) -> None:
    """Write a page with all pictures in it.

    Args:
        path: Of the HTML file.
        pairs: What to show.
        album: Where their images are.
        title: Of the page.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write(_head(title))
        for pair in pairs:
            file.write(_entry(pair, album))
        file.write("</body></html>\n")


_STYLE = """
body { font: 14px sans-serif; margin: 1.5em; max-width: 1100px }
figure { display: inline-block; margin: .3em; vertical-align: top }
figcaption { color: #555 }
h2 { font-size: 15px; margin: 1.4em 0 .2em }
p { margin: .2em 0 }
img { border: 1px solid #ccc }
"""


def _head(title: str) -> str:
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        "<p>Green: chosen alone; red: rejected alone; grey: both. Circles: positive clicks; "
        "crosses: negative ones. White outline: what the correction touched.</p>\n"
    )


def _entry(pair: PreferencePair, album: Album) -> str:
    facts = [pair.source, pair.split, pair.label or "no label", f"image {pair.image_id[:12]}"]
    if pair.chosen_iou is not None and pair.rejected_iou is not None:
        facts.append(f"IoU {pair.chosen_iou:.3f} against {pair.rejected_iou:.3f}")
    head = f"<h2>{html.escape(' · '.join(facts))}</h2><p>{html.escape(pair.pair_id)}</p>"
    try:
        pictures = draw_pair(pair, album.read(pair.image_id))
    except InputError as error:
        return f"{head}<p>{html.escape(str(error))}</p>\n"
    figures = "".join(
        f'<figure><img src="data:image/jpeg;base64,{_jpeg(picture)}" alt="{name}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, picture in pictures.items()
    )
    return f"{head}{figures}\n"


def draw_pair(pair: PreferencePair, image: Picture) -> dict[str, Picture]:
    """The prompt, both masks and their difference on a close-up of the image.

    Args:
        pair: What to draw.
        image: ``[H, W, 3]`` uint8 RGB.

    Returns:
        Name -> ``[h, w, 3]`` uint8 RGB, all of one size, `SIDE` at most.

    Raises:
        InputError: The image has another size than the masks.
    """
    chosen, rejected = decode_rle(pair.chosen), decode_rle(pair.rejected)
    if image.shape[:2] != chosen.shape:
        raise InputError(f"The image is {image.shape[:2]} and its masks are {chosen.shape}.")
    window = _window(pair, chosen | rejected)
    scale = SIDE / max(window[0].stop - window[0].start, window[1].stop - window[1].start)
    plain = _scaled(image[window], scale)
    masks = [_scaled_mask(mask[window], plain.shape) for mask in (chosen, rejected)]
    difference = _tinted(plain, masks[0] & masks[1], _BOTH)
    difference = _tinted(difference, masks[0] & ~masks[1], _CHOSEN)
    difference = _tinted(difference, masks[1] & ~masks[0], _REJECTED)
    if pair.region is not None:
        region = _scaled_mask(decode_rle(pair.region)[window], plain.shape)
        difference = _outlined(difference, region, (255, 255, 255))
    return {
        "prompt": _with_prompt(plain, pair, window, scale),
        "chosen": _outlined(_tinted(plain, masks[0], _CHOSEN), masks[0], _CHOSEN),
        "rejected": _outlined(_tinted(plain, masks[1], _REJECTED), masks[1], _REJECTED),
        "difference": difference,
    }


def _window(pair: PreferencePair, either: Mask) -> tuple[slice, slice]:
    """Rows and columns around the masks and the prompt, with some surroundings."""
    around = either.copy()
    for x, y in _points(pair):
        inside_y, inside_x = np.clip(round(y), 0, len(around) - 1), round(x)
        around[inside_y, np.clip(inside_x, 0, around.shape[1] - 1)] = True
    box = bounding_box(around)
    assert box is not None, "the masks of a pair have pixels"
    margin = int(8 + 0.25 * max(box.width, box.height))
    return window_of(box, margin, (around.shape[0], around.shape[1]))


def _points(pair: PreferencePair) -> Iterator[tuple[float, float]]:
    yield from ((click.x, click.y) for click in pair.clicks)
    if pair.box is not None:
        yield pair.box.x0, pair.box.y0
        yield pair.box.x1 - 1, pair.box.y1 - 1


def _scaled(image: Picture, scale: float) -> Picture:
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def _scaled_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    small = cv2.resize(mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(small, dtype=np.bool_)


def _tinted(image: Picture, mask: Mask, colour: tuple[int, int, int]) -> Picture:
    tinted = image.astype(np.float32)
    tinted[mask] = 0.5 * tinted[mask] + 0.5 * np.array(colour, dtype=np.float32)
    return tinted.astype(np.uint8)


def _outlined(image: Picture, mask: Mask, colour: tuple[int, int, int]) -> Picture:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(image.copy(), outlines, -1, colour, 1), dtype=np.uint8)


def _with_prompt(
    image: Picture, pair: PreferencePair, window: tuple[slice, slice], scale: float
) -> Picture:
    drawn = image.copy()

    def place(x: float, y: float) -> tuple[int, int]:
        left, top = window[1].start, window[0].start
        return round((x + 0.5 - left) * scale - 0.5), round((y + 0.5 - top) * scale - 0.5)

    if pair.box is not None:
        corners = place(pair.box.x0, pair.box.y0), place(pair.box.x1 - 1, pair.box.y1 - 1)
        cv2.rectangle(drawn, *corners, (255, 220, 0), 1)
    for click in pair.clicks:
        centre = place(click.x, click.y)
        if click.is_positive:
            cv2.circle(drawn, centre, 5, (255, 255, 255), -1)
            cv2.circle(drawn, centre, 4, _CLICK, -1)
        else:
            cv2.drawMarker(drawn, centre, (255, 255, 255), cv2.MARKER_TILTED_CROSS, 11, 4)
            cv2.drawMarker(drawn, centre, _NOT, cv2.MARKER_TILTED_CROSS, 10, 2)
    return drawn


def _jpeg(picture: Picture) -> str:
    _, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return base64.b64encode(content.tobytes()).decode("ascii")
