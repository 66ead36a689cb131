"""One archive of everything a run reads, small enough to travel to a machine with a GPU.

Images and label maps are scaled down to the model's frame, and the images compressed as far as it
takes; what a set says of itself (groups, parts, card) comes along as it is.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adaptation.errors import SettingsError, StoreError
from adaptation.storage.datasets import FolderSet, open_sets
from adaptation.storage.files import write_whole

logger = logging.getLogger(__name__)

LONGEST_SIDE = 384
_QUALITIES = (90, 80, 70, 60, 50, 40)
_SAMPLE = 12
_ASIDE = ("groups.json", "card.json", "attribution.json")


def pack(data: Path, names: Sequence[str], target: Path, *, max_mb: float = 60.0) -> int:
    """Write an archive of some sets.

    Args:
        data: Folder of the data sets.
        names: Which, "bsds500/train+val" for two parts of one.
        target: The archive, a zip file.
        max_mb: Its size at most, in 10^6 bytes.

    Returns:
        The quality at which the images were compressed.

    Raises:
        SettingsError: A set is missing, or even the worst quality does not fit.
    """
    sets = open_sets(data, sorted(names))
    quality = _quality_for(sets, max_mb)
    while True:
        _write(sets, target, quality)
        size_mb = target.stat().st_size / 1e6
        if size_mb <= max_mb:
            return quality
        worse = [q for q in _QUALITIES if q < quality]
        if not worse:
            target.unlink()
            raise SettingsError(
                f"The sets take {size_mb:.0f} MB at the lowest quality, more than {max_mb:.0f}; "
                "name fewer sets, or allow more."
            )
        quality = worse[0]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive once; returns the folder of the data sets.

    Raises:
        StoreError: It is no archive, or damaged.
    """
    done = folder / "unpacked.json"
    stamp = {"archive": archive.name, "bytes": archive.stat().st_size}
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == stamp:
        return folder
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # the module leaves out roots and ".."
    except (zipfile.BadZipFile, OSError) as error:
        raise StoreError(f"The archive {archive.name} cannot be unpacked: {error}") from error
    done.write_text(json.dumps(stamp), encoding="utf-8")
    return folder


def _quality_for(sets: Sequence[FolderSet], max_mb: float) -> int:
    """The best quality at which a few images of each set let all of them fit."""
    for quality in _QUALITIES:
        total = 0.0
        for dataset in sets:
            stems = dataset.stems[:: max(1, len(dataset.stems) // _SAMPLE)]
            sizes = [sum(len(content) for _, content in _scene(dataset, s, quality)) for s in stems]
            total += float(np.mean(sizes)) * len(dataset.stems)
        if total <= 0.97e6 * max_mb:
            return quality
    return _QUALITIES[-1]


def _write(sets: Sequence[FolderSet], target: Path, quality: int) -> None:
    write_whole(target, lambda draft: _fill(sets, draft, quality))


def _fill(sets: Sequence[FolderSet], draft: Path, quality: int) -> None:
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as file:
        for dataset in sets:
            for name in _ASIDE:
                if (dataset.root / name).is_file():
                    file.write(dataset.root / name, f"{dataset.root.name}/{name}")
            if dataset.part:
                parts = json.dumps(_parts(dataset))
                file.writestr(f"{dataset.root.name}/split.json", parts)
            for stem in dataset.stems:
                for name, content in _scene(dataset, stem, quality):
                    file.writestr(f"{dataset.root.name}/{name}", content)


def _parts(dataset: FolderSet) -> dict[str, Any]:
    """The part of each stem that is packed, as the set's own split says."""
    split = json.loads((dataset.root / "split.json").read_text(encoding="utf-8"))
    return {stem: split[stem] for stem in dataset.stems}


def _scene(dataset: FolderSet, stem: str, quality: int) -> Iterator[tuple[str, bytes]]:
    """The files of one image: itself, and its label map or whole partitions."""
    image = dataset.image(stem)
    scale = min(1.0, LONGEST_SIDE / max(image.shape[:2]))
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    yield f"images/{stem}.jpg", jpeg.tobytes()
    for index, labels in enumerate(dataset.partitions(stem), start=1):
        name = f"regions/{stem}_{index}" if dataset.has_partitions(stem) else f"masks/{stem}"
        yield f"{name}.png", _png(labels, size)


def _png(labels: NDArray[np.int32], size: tuple[int, int]) -> bytes:
    """A label map [H, W], scaled, with 8 bits where they hold it and 16 elsewhere."""
    small = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    kind = np.uint8 if small.max(initial=0) < 256 else np.uint16
    return cv2.imencode(".png", small.astype(kind), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
