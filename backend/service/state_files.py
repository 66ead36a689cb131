"""The newest state of each object in work, on the disk: after a restart a click costs one decode.

A cache: what cannot be written or read is made again from the clicks.  Files are written on a
thread of their own, behind the reply, and bounded in number; those of a submitted task go.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import zlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adaptation.predictor.interactive import ObjectState
from adaptation.storage.files import write_whole
from backend.service.prompt_state import ObjectKey
from backend.service.state_values import state_of, values_of

logger = logging.getLogger(__name__)

MAX_WAITING = 64
"""States that wait to be written; more are left out."""

_SUFFIX = ".safetensors"


class StateFiles:
    """States of objects in a folder.  Thread-safe.

    Args:
        folder: Made when it is needed.
        max_objects: Files kept; those written first leave.
    """

    def __init__(self, folder: Path, max_objects: int) -> None:
        self._folder, self._max_objects = folder, max_objects
        self._lock = threading.Lock()
        self._waiting: OrderedDict[ObjectKey, tuple[str, ObjectState]] = OrderedDict()
        self._n_files = sum(1 for _ in folder.glob(f"*/*{_SUFFIX}"))
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="states")

    def save(self, key: ObjectKey, state: ObjectState, decoder_id: str) -> None:
        """Keep an object's newest state; returns at once."""
        with self._lock:
            is_known = key in self._waiting
            if not is_known and len(self._waiting) >= MAX_WAITING:
                return
            self._waiting[key] = decoder_id, state
        if not is_known:
            self._behind.submit(self._write_next)

    def load(self, key: ObjectKey) -> tuple[str, ObjectState] | None:
        """The newest state of an object and its decoder's id; None where there is none."""
        with self._lock:
            waiting = self._waiting.get(key)
        if waiting is not None:
            return waiting
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["about"])
                logits = file.get_tensor("logits")
            if about["crc"] != _crc(logits):
                raise ValueError("its content does not match its checksum")
            return str(about["decoder_id"]), state_of(about, logits)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            logger.warning("an object's state is made again, its file is damaged: %s", error)
            path.unlink(missing_ok=True)
            return None

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Remove the states of a task; returns at once."""
        with self._lock:
            for key in [k for k in self._waiting if _task(k) == (project_id, task_id)]:
                del self._waiting[key]
        self._behind.submit(
            shutil.rmtree, self._folder / _name(project_id, task_id), ignore_errors=True
        )

    def close(self) -> None:
        """Write what waits."""
        self._behind.shutdown(wait=True)

    # Behind the reply ----------------------------------------------------------------------------

    def _write_next(self) -> None:
        with self._lock:
            if not self._waiting:
                return
            key, (decoder_id, state) = next(iter(self._waiting.items()))
        try:
            self._write(key, decoder_id, state)
        except (OSError, SafetensorError) as error:
            logger.warning("an object's state is not kept on the disk: %s", error)
        except Exception:
            logger.exception("an object's state is not kept on the disk")
        with self._lock:
            newest = self._waiting.get(key)
            if newest is not None and newest[1] is state:
                del self._waiting[key]
                return
        self._behind.submit(self._write_next)

    def _write(self, key: ObjectKey, decoder_id: str, state: ObjectState) -> None:
        path = self._path(key)
        is_new = not path.exists()
        logits = state.low_res_logits.detach().cpu().contiguous().clone()
        about = {"decoder_id": decoder_id, "crc": _crc(logits), **values_of(state)}
        metadata = {"about": json.dumps(about)}
        write_whole(path, lambda draft: save_file({"logits": logits}, draft, metadata))
        self._n_files += is_new
        if self._n_files > self._max_objects + self._max_objects // 8:
            self._make_room()

    def _make_room(self) -> None:
        found = sorted(self._folder.glob(f"*/*{_SUFFIX}"), key=_written_at)
        for path in found[: -self._max_objects]:
            path.unlink(missing_ok=True)
        self._n_files = min(len(found), self._max_objects)

    def _path(self, key: ObjectKey) -> Path:
        place = key.place
        name = _name(place.to_name, place.label, key.object_id)
        return self._folder / _name(*_task(key)) / f"{name}{_SUFFIX}"


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _task(key: ObjectKey) -> tuple[str, str]:
    return key.place.project_id, key.place.task_id


def _name(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _crc(logits: Tensor) -> int:
    return zlib.crc32(logits.numpy().tobytes())
