"""Images encoded before they are clicked on: the open task, the next ones, the next view."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from adaptation.errors import StropError
from adaptation.predictor.settings import ZoomSettings
from adaptation.predictor.zoom import View
from backend.embeddings.encoder import Encoder
from backend.embeddings.prefetch_queue import PrefetchQueue
from backend.images.loader import ImageIdentity, TaskImage
from backend.label_studio.client import LabelStudioClient
from backend.protocol import LabelConfig, PredictRequest, TaskRef

logger = logging.getLogger(__name__)


class Prefetcher:
    """Guesses what will be clicked on next and has it encoded in the background.

    A guess that fails costs nothing but time of the background: the click itself reports errors.

    Args:
        encoder: Makes the embeddings.
        queue: Runs in the background, behind clicks.
        client: Tells the next tasks of a project; None: only the opened task is encoded.
        next_tasks: How many tasks after the opened one.
        zoom: Tells what an object's first click is decoded on.
    """

    def __init__(
        self,
        encoder: Encoder,
        queue: PrefetchQueue,
        client: LabelStudioClient | None = None,
        next_tasks: int = 0,
        zoom: ZoomSettings | None = None,
    ) -> None:
        self._encoder, self._queue = encoder, queue
        self._zoom = ZoomSettings() if zoom is None else zoom
        self._client, self._next_tasks = client, next_tasks
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="plan")

    def opened(self, request: PredictRequest) -> None:
        """Tasks were opened, or a batch was asked for; returns at once."""
        is_single = len(request.tasks) == 1
        for task in request.tasks:
            for image in task_images(task, request.label_config):
                self._queue.submit(
                    self._encoder.whole_image(image, self._zoom), is_urgent=is_single
                )
        if is_single and self._client is not None and self._next_tasks:
            self._planner.submit(self._plan, request.tasks[0], request.label_config)

    def next_view(self, image: TaskImage, identity: ImageIdentity, view: View) -> None:
        """An object's next click will be decoded on this view; returns at once."""
        self._queue.submit(self._encoder.view(image, identity, view), is_urgent=True)

    def is_idle(self) -> bool:
        """Whether nothing is encoded ahead just now, nor waits for it."""
        stats = self._queue.stats()
        return not stats.queued and not stats.running

    def stop(self, timeout_s: float) -> None:
        """Drop what waits; returns when what runs has ended or the time is over."""
        self._planner.shutdown(wait=False, cancel_futures=True)
        self._queue.stop(timeout_s)

    def _plan(self, opened: TaskRef, label_config: LabelConfig) -> None:
        try:
            for task in self._upcoming(opened):
                for image in task_images(task, label_config):
                    self._queue.submit(self._encoder.whole_image(image, self._zoom))
        except StropError as error:
            logger.warning("cannot tell the tasks after %s: %s", opened.task_id, error)
        except Exception:
            logger.exception("planning the tasks after %s failed", opened.task_id)

    def _upcoming(self, opened: TaskRef) -> Iterator[TaskRef]:
        assert self._client is not None, "planning needs a client"
        count = self._next_tasks
        tasks = self._client.tasks(
            opened.project_id, after_id=opened.task_id, only_unlabeled=True, page_size=count
        )
        for task in islice(tasks, count):
            yield TaskRef(task_id=task.task_id, project_id=opened.project_id, data=task.data)


def task_images(task: TaskRef, label_config: LabelConfig) -> Iterator[TaskImage]:
    """The images of a task that clicks can land on."""
    for image_ref in task.image_refs(label_config):
        yield TaskImage(project_id=task.project_id, task_id=task.task_id, image_ref=image_ref)
