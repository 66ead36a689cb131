"""From settings to objects: the only place where both are known."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import torch
from pydantic import SecretStr

from adaptation.journal import Journal, Lease, SpoolingJournal
from adaptation.learning.settings import LearnerSettings
from adaptation.models.base_decoder import Registry
from adaptation.models.catalog import load_model
from adaptation.models.sam import PromptableSam
from adaptation.predictor.click_correction import ClickCorrection
from adaptation.predictor.interactive import Corrector, InteractivePredictor
from adaptation.proposals.interface import Generator
from adaptation.proposals.words import load_word_generator
from adaptation.storage.album import Album
from backend.embeddings.cache import EmbeddingCache
from backend.embeddings.disk_store import DiskStore
from backend.embeddings.encoder import Encoder
from backend.embeddings.prefetch import Prefetcher
from backend.embeddings.prefetch_queue import PrefetchQueue
from backend.embeddings.redis_store import RedisStore
from backend.embeddings.store import EmbeddingStore
from backend.images.album_writer import AlbumWriter
from backend.images.build import build_images
from backend.images.loader import ImageLoader
from backend.insights.build import build_insights
from backend.insights.keeper import RowKeeper
from backend.insights.scores import CalibratedScores
from backend.insights.shown import ShownProjects
from backend.insights.store import FactStore
from backend.label_studio.build import build_client
from backend.label_studio.client import LabelStudioClient
from backend.learning.apart import LearningApart
from backend.learning.interface import Learning, NoLearning
from backend.learning.manager import OnlineOptions
from backend.learning.worker import KnownImages, OnlineLearning
from backend.metrics import Metrics
from backend.proposals.knowledge import KnowledgeOptions
from backend.proposals.maker import MakerOptions, ProposalMaker
from backend.proposals.online import OnlineProposals
from backend.protocol import AnswerKind, AnswerStyle
from backend.service.base_watcher import BaseWatcher
from backend.service.clicks import ClickOptions, ServedModel
from backend.service.service import SegmentationService
from backend.settings import Settings, check_together, load_learner
from backend.traces import Traces, traces_to
from backend.wiring.memory import build_memory

__all__ = [
    "adapters_folder",
    "build_client",
    "build_embeddings",
    "build_images",
    "build_insights",
    "build_service",
    "load_sam",
    "proposal_options",
    "threads_per_computation",
    "use_threads",
]

logger = logging.getLogger(__name__)


def build_service(
    settings: Settings, sam: PromptableSam | None = None, traces: Traces | None = None
) -> SegmentationService:
    """The whole service, or one worker of it where a learner in another process stands behind it.

    Args:
        settings: All of them.
        sam: The model, or None to load the one that the settings name.
        traces: Told of clicks, or None to send them where the settings say.

    Raises:
        StropError: The model does not load, or a store does not open.
    """
    check_together(settings)
    use_threads(settings)
    metrics, learns = Metrics(), settings.learns_inside
    traces = traces or traces_to(settings.traces.endpoint, settings.traces.share)
    learner = load_learner(settings.learning.config)
    model = load_sam(settings) if sam is None else sam
    client = build_client(settings)
    cache = build_embeddings(settings, metrics)
    images = build_images(settings, client)
    encoder = Encoder(model, images, cache)
    journal = Journal(settings.journal_url)

    def served(sam: PromptableSam) -> ServedModel:
        folder = adapters_folder(settings, model, sam)
        return ServedModel(
            interaction=InteractivePredictor(
                sam,
                settings.zoom,
                _corrector(sam, learner),
                edges=settings.edges,
            ),
            learning=build_learning(settings, sam, encoder, journal, learner, folder, metrics)
            if learns
            else learning_apart(settings, sam, folder),
        )

    watcher = BaseWatcher(Registry(settings.registry_dir), model, settings.model.registry_poll_s)
    first = served(watcher.look() or model)
    scores = _scores(settings, journal)
    service = SegmentationService(
        interaction=first.interaction,
        encoder=encoder,
        journal=journal,
        intake=SpoolingJournal(journal, settings.spool_dir, is_shared=not learns),
        memory=build_memory(settings),
        ahead=_ahead(settings, encoder, cache, client, metrics),
        learning=first.learning,
        keeper=_keeper(settings, images, metrics),
        options=_click_options(settings),
        max_waiting=settings.server.click_threads,
        proposals=_proposals(settings, first.sam, encoder, journal, client),
        max_pixels=settings.images.max_pixels,
        client=missed_from(settings, client) if learns else None,
        metrics=metrics,
        traces=traces,
        rows=build_rows(settings, journal, scores, counts=learns),
        scores=scores,
        is_worker=not learns,
    )
    service.follow(watcher, served)
    return service


def adapters_folder(settings: Settings, model: PromptableSam, base: PromptableSam) -> Path:
    """Where what sessions learned upon a base is kept: nothing is lost when another one comes."""
    folder = settings.adapters_dir
    return folder if base.decoder_id == model.decoder_id else folder / base.decoder_id


def _keeper(settings: Settings, images: ImageLoader, metrics: Metrics) -> AlbumWriter | None:
    if not settings.album.is_on:
        return None
    min_free_bytes = _bytes(settings.album.min_free_mb)
    return AlbumWriter(Album(settings.album_dir), images, min_free_bytes, metrics)


def build_learning(
    settings: Settings,
    sam: PromptableSam,
    encoder: Encoder,
    journal: Journal,
    learner: LearnerSettings,
    folder: Path,
    metrics: Metrics,
    lease: Lease | None = None,
) -> Learning:
    """What trains sessions; under a lease where it is a process of its own."""
    if not settings.learning.is_on:
        return NoLearning()
    options = _online_options(settings, folder)
    images = KnownImages(encoder, Album(settings.album_dir))
    return OnlineLearning(sam, images, journal, learner, options, metrics, lease)


def learning_apart(settings: Settings, sam: PromptableSam, folder: Path) -> Learning:
    """What answers clicks while another process learns."""
    if not settings.learning.is_on:
        return NoLearning()
    return LearningApart(sam, _online_options(settings, folder))


def _online_options(settings: Settings, folder: Path) -> OnlineOptions:
    return OnlineOptions(
        scope=settings.learning.scope,
        folder=folder,
        max_sessions=settings.learning.max_sessions,
        max_learners=settings.learning.max_learners,
        ttl_s=settings.learning.ttl_s,
        merge=settings.learning.merge,
        seed=settings.learning.seed,
    )


def missed_from(settings: Settings, client: LabelStudioClient | None) -> LabelStudioClient | None:
    """Who tells what was submitted while nobody listened: that takes a token."""
    return client if settings.label_studio.token is not None else None


def _proposals(
    settings: Settings,
    sam: PromptableSam,
    encoder: Encoder,
    journal: Journal,
    client: LabelStudioClient | None,
) -> OnlineProposals | None:
    if not settings.proposals.is_on:
        return None
    return OnlineProposals(
        ProposalMaker(sam, encoder, journal, proposal_options(settings), build_reader(settings)),
        journal,
        client,
        next_tasks=settings.prefetch.next_tasks,
        n_threads=threads_per_computation(settings),
    )


def proposal_options(settings: Settings) -> MakerOptions:
    """How proposals are made."""
    options = settings.proposals
    return MakerOptions(
        knowledge=KnowledgeOptions(
            look_for=options.look_for,
            words={label: tuple(texts) for label, texts in options.words.items()},
            mutual_from=options.mutual_from,
            max_regions=options.max_regions,
            min_score=options.min_score,
            max_area=options.max_area,
        ),
        label=options.label,
        group_key=options.group_key,
        zoom=options.zoom,
        style=_style(settings),
    )


def build_reader(settings: Settings, *, show_progress: bool = False) -> Generator | None:
    """What finds the things that words name, where they are looked for.

    Raises:
        ModelError: It cannot be loaded; with what to do.
    """
    if settings.proposals.look_for != "words":
        return None
    return load_word_generator(
        settings.proposals.words_model,
        settings.models_dir,
        may_download=settings.model.download,
        show_progress=show_progress,
    )


def _corrector(sam: PromptableSam, learner: LearnerSettings) -> Corrector | None:
    """Shown masks obey the clicks whether sessions learn or not."""
    if not learner.correction.is_on:
        return None
    return ClickCorrection(learner.correction, sam.input_size)


def use_threads(settings: Settings) -> None:
    """Give every computation of torch and OpenCV its share of the cores."""
    count = threads_per_computation(settings)
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def threads_per_computation(settings: Settings) -> int:
    """Cores of one computation: as set, or the cores shared out among all decodes, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = (cores or 1) // (settings.inference.decodes * settings.server.workers)
    return settings.inference.torch_threads or min(max(1, share), 8)


def load_sam(settings: Settings, *, show_progress: bool = False) -> PromptableSam:
    """The model that the settings name; ModelError says what to do where it does not load."""
    model = settings.model
    sam = load_model(
        model.name,
        settings.models_dir,
        device=model.device,
        checkpoint=model.checkpoint,
        encoder=model.encoder,
        download=model.download,
        show_progress=show_progress,
    )
    logger.info("model %s, encoder %s, decoder %s", sam.model_id, sam.encoder_id, sam.decoder_id)
    return sam


def build_rows(
    settings: Settings,
    journal: Journal,
    scores: CalibratedScores | None = None,
    *,
    counts: bool = True,
) -> RowKeeper | None:
    """What keeps the insights up to date; None where nobody wants any.

    Args:
        settings: All of them.
        journal: What is counted.
        scores: Fitted to the rows after each look.
        counts: Whether this process counts, or reads what another one has counted.
    """
    if not settings.insights.is_on:
        return None
    store = FactStore(settings.insights_path, journal)
    shown = ShownProjects(
        store,
        settings.adapters_dir,
        learning_is_on=settings.learning.is_on,
        with_annotators=settings.insights.annotators,
    )
    then = [] if scores is None else [scores.refit]
    return RowKeeper(store, [*then, shown.keep] if counts else then, counts=counts)


def _scores(settings: Settings, journal: Journal) -> CalibratedScores | None:
    """What masks are to be expected to be worth; None where nothing is counted."""
    if not settings.insights.is_on:
        return None
    return CalibratedScores(FactStore(settings.insights_path, journal))


def build_embeddings(settings: Settings, metrics: Metrics | None = None) -> EmbeddingCache:
    """The cache of embeddings, above its store."""
    return EmbeddingCache(
        memory_bytes=_bytes(settings.embeddings.memory_mb),
        store=_store(settings),
        max_encodes=settings.inference.encodes,
        metrics=metrics,
    )


def _store(settings: Settings) -> EmbeddingStore | None:
    options = settings.embeddings
    url = _reveal(options.redis_url)
    if url is not None:
        return RedisStore(url, _bytes(options.redis_mb))
    if options.disk_mb == 0:
        return None
    return DiskStore(settings.embeddings_dir, _bytes(options.disk_mb), _bytes(options.min_free_mb))


def _ahead(
    settings: Settings,
    encoder: Encoder,
    cache: EmbeddingCache,
    client: LabelStudioClient | None,
    metrics: Metrics,
) -> Prefetcher | None:
    options = settings.prefetch
    if not options.is_on:
        return None
    queue = PrefetchQueue(
        cache,
        max_queued=options.max_queued,
        n_threads=threads_per_computation(settings),
        metrics=metrics,
    )
    return Prefetcher(encoder, queue, client, options.next_tasks, settings.zoom)


def _click_options(settings: Settings) -> ClickOptions:
    return ClickOptions(
        max_clicks=settings.inference.max_clicks,
        alternatives=settings.answers.alternatives,
        decodes=settings.inference.decodes,
        style=_style(settings),
    )


def _style(settings: Settings) -> AnswerStyle:
    answers = settings.answers
    return AnswerStyle(
        preferred=tuple(AnswerKind(kind) for kind in answers.kinds),
        polygon_tolerance=answers.polygon_tolerance,
        min_part_share=answers.min_part_share,
    )


def _bytes(megabytes: float) -> int:
    return int(megabytes * 1e6)


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
