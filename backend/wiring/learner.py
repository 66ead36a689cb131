"""From settings to a learner in a process of its own."""

from __future__ import annotations

from adaptation.journal import Journal, Lease, SpoolingJournal
from adaptation.models.base_decoder import Registry
from adaptation.models.sam import PromptableSam
from backend.embeddings.encoder import Encoder
from backend.learning.interface import Learning
from backend.metrics import Metrics
from backend.service.base_watcher import BaseWatcher
from backend.service.learner import LearnerService
from backend.settings import Settings, load_learner
from backend.wiring import (
    adapters_folder,
    build_client,
    build_embeddings,
    build_images,
    build_learning,
    build_rows,
    missed_from,
    use_threads,
)
from backend.wiring.memory import build_memory


def build_learner(
    settings: Settings, model: PromptableSam, journal: Journal, lease: Lease
) -> LearnerService:
    """Everything behind the replies.

    Args:
        settings: The same as of those who answer clicks.
        model: The model with its own decoder.
        journal: Fenced by the lease; the service closes it.
        lease: Under which it works.

    Raises:
        StropError: A store does not open.
    """
    use_threads(settings)
    metrics = Metrics()
    learner = load_learner(settings.learning.config)
    client = build_client(settings)
    cache = build_embeddings(settings, metrics)
    encoder = Encoder(model, build_images(settings, client), cache)

    def learning(sam: PromptableSam) -> Learning:
        folder = adapters_folder(settings, model, sam)
        return build_learning(settings, sam, encoder, journal, learner, folder, metrics, lease)

    watcher = BaseWatcher(Registry(settings.registry_dir), model, settings.model.registry_poll_s)
    service = LearnerService(
        journal=journal,
        intake=SpoolingJournal(journal, settings.spool_dir, is_shared=True),
        memory=build_memory(settings),
        learning=learning(watcher.look() or model),
        max_pixels=settings.images.max_pixels,
        client=missed_from(settings, client),
        metrics=metrics,
        rows=build_rows(settings, journal),
    )
    service.follow(watcher, learning)
    return service
