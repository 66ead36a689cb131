"""`strop prefetch`: the images of a whole project, encoded before anybody opens it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from tqdm import tqdm

from adaptation.errors import ImageError, ProtocolError, SettingsError
from backend.embeddings.encoder import Encoder
from backend.embeddings.prefetch import task_images
from backend.label_studio.client import LabelStudioClient
from backend.protocol import TaskRef, parse_label_config
from backend.settings import Settings
from backend.wiring import build_client, build_embeddings, build_images, load_sam, use_threads

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PrefetchSummary:
    """What became of a project's images.

    Args:
        n_encoded: Encoded now.
        n_known: Encoded earlier.
        n_failed: Could not be read; the log names them.
    """

    n_encoded: int = 0
    n_known: int = 0
    n_failed: int = 0

    def __str__(self) -> str:
        return (
            f"{self.n_encoded} images encoded, {self.n_known} were encoded already, "
            f"{self.n_failed} could not be read."
        )


def prefetch_project(
    settings: Settings, project_id: int, *, only_unlabeled: bool = False
) -> PrefetchSummary:
    """Encode all images of a project, showing progress.

    Raises:
        SettingsError: No Label Studio is set, or there is nowhere to keep the embeddings.
        LabelStudioError: It cannot be reached, or the project is unknown.
    """
    client = build_client(settings)
    if client is None:
        raise SettingsError("Set label_studio.url and label_studio.token: whose tasks are meant?")
    if settings.embeddings.redis_url is None and settings.embeddings.disk_mb == 0:
        raise SettingsError("Set embeddings.disk_mb above 0: memory ends with this command.")
    use_threads(settings)
    project = client.project(project_id)
    encoder = Encoder(
        load_sam(settings, show_progress=True),
        build_images(settings, client),
        build_embeddings(settings),
    )
    return _fill(client, encoder, project_id, project.label_config, project.n_tasks, only_unlabeled)


def _fill(
    client: LabelStudioClient,
    encoder: Encoder,
    project_id: int,
    label_config: str,
    n_tasks: int,
    only_unlabeled: bool,
) -> PrefetchSummary:
    summary, config = PrefetchSummary(), parse_label_config(label_config)
    tasks = client.tasks(project_id, only_unlabeled=only_unlabeled)
    for task in tqdm(tasks, total=None if only_unlabeled else n_tasks, unit="task"):
        ref = TaskRef(task_id=task.task_id, project_id=str(project_id), data=task.data)
        for image in task_images(ref, config):
            try:
                is_new = encoder.fill(image)
            except (ImageError, ProtocolError) as error:
                summary.n_failed += 1
                logger.warning("task %s: %s", task.task_id, error)
                continue
            summary.n_encoded += is_new
            summary.n_known += not is_new
    return summary
