"""Every setting: its type, its default, its bounds and its effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from adaptation.models.names import ModelName
from adaptation.predictor.settings import EdgeSettings, ZoomSettings


def _split(value: object) -> object:
    """A list may be one text: with commas, as environment variables need it, or in brackets."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError("is no list that YAML can read, as [a, b]") from None
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _empty_is_none(value: object) -> object:
    """An empty text means "not set", so that the environment can switch an option off."""
    return None if value == "" else value


def _is_address(value: str | None) -> str | None:
    if value is not None and not re.match(r"https?://[^\s/]+", value):
        raise ValueError("must begin with http:// or https:// and a host, as http://host:8080")
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]
Paths = Annotated[
    tuple[Annotated[Path, AfterValidator(Path.expanduser)], ...], BeforeValidator(_split)
]
Addresses = Annotated[
    tuple[Annotated[str, AfterValidator(_is_address)], ...], BeforeValidator(_split)
]
OptionalText = Annotated[str | None, BeforeValidator(_empty_is_none)]
OptionalPath = Annotated[Path | None, BeforeValidator(_empty_is_none)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_empty_is_none)]


class Section(BaseModel):
    """A group of settings: frozen, and strict about names."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )


RESERVED_THREADS = 4
"""Threads of the server that clicks never take."""


class ServerSettings(Section):
    """The HTTP server."""

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; 0.0.0.0 lets other machines in (set a password then).",
    )
    port: int = Field(default=9090, ge=1, le=65535, description="TCP port.")
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that answer clicks; with several, another one learns.",
    )
    threads: int = Field(
        default=32,
        ge=4,
        le=512,
        description="Requests handled at once by each worker; four are kept free for /health.",
    )
    max_request_mb: float = Field(
        default=64,
        gt=0,
        description="Larger requests get 413. A click carries the task's older masks.",
    )
    graceful_timeout_s: int = Field(
        default=30,
        ge=0,
        description="On stop, requests in flight have this many seconds to finish.",
    )
    username: str = Field(default="strop", min_length=1, description="User name of the basic auth.")
    password: OptionalSecret = Field(
        default=None,
        description="Set it to demand basic auth on every route (STROP_SERVER__PASSWORD).",
    )

    @property
    def click_threads(self) -> int:
        """Threads that clicks may take: health checks, set-up and webhooks need some."""
        return self.threads - RESERVED_THREADS


class ModelSettings(Section):
    """The segmentation model."""

    name: ModelName = Field(
        default="compact",
        description="A model of `strop models`, a folder (./NAME), or one of the hub (OWNER/NAME).",
    )
    folder: OptionalPath = Field(
        default=None,
        description="Where checkpoints are kept; empty: the folder models in data_dir.",
    )
    checkpoint: OptionalPath = Field(
        default=None, description="A checkpoint file to load instead of the catalog's own."
    )
    encoder: OptionalPath = Field(
        default=None,
        description="Its image encoder for ONNX Runtime, as `strop models export` writes it.",
    )
    device: str = Field(
        default="cpu", description="Where torch computes: cpu, cuda, cuda:1, mps.", min_length=1
    )
    download: bool = Field(default=True, description="Download a checkpoint that is missing.")
    registry: OptionalPath = Field(
        default=None,
        description="Promoted base decoders are taken from here; empty: registry in data_dir.",
    )
    registry_poll_s: float = Field(
        default=3,
        ge=0,
        description="A newly promoted decoder is taken up within this time; 0: at the start only.",
    )


class InferenceSettings(Section):
    """How clicks are answered."""

    decodes: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Clicks decoded at once; more than the cores gains nothing.",
    )
    encodes: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Images encoded at once; of several, one place is kept free for clicks.",
    )
    torch_threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Cores of one computation; 0: cores / decodes, 1 to 8.",
    )
    max_clicks: int = Field(default=500, ge=1, description="More clicks on one object get 400.")
    box_ttl_s: float = Field(
        default=120,
        ge=0,
        description="A rectangle waits this long for clicks on the same object; 0: not.",
    )


class AnswerSettings(Section):
    """What Label Studio is given to draw."""

    kinds: Annotated[
        tuple[Literal["brush", "bitmask", "polygon", "vector", "rectangle"], ...],
        BeforeValidator(_split),
    ] = Field(
        default=("brush", "bitmask", "polygon", "vector", "rectangle"),
        min_length=1,
        description="Preferred first; the first that the labeling config offers is answered.",
    )
    alternatives: int = Field(
        default=1,
        ge=1,
        le=4,
        description="Masks offered at an object's first click, to choose from.",
    )
    polygon_tolerance: float = Field(
        default=1.0,
        ge=0,
        description="Polygons may leave the mask by this many pixels; 0: every corner.",
    )
    min_part_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Polygon parts below this share of the largest are left out.",
    )


class LabelStudioSettings(Section):
    """The Label Studio whose images and task queue are read."""

    url: Annotated[OptionalText, AfterValidator(_is_address)] = Field(
        default=None, description="Its address, as http://host:8080."
    )
    token: OptionalSecret = Field(
        default=None, description="Legacy or personal access token (STROP_LABEL_STUDIO__TOKEN)."
    )
    token_kind: Literal["auto", "legacy", "personal"] = Field(
        default="auto", description="Kind of the token; auto tells it by its looks."
    )
    public_urls: Addresses = Field(
        default=(),
        description="Other addresses that tasks know it by, such as the browser's; not contacted.",
    )


class ImageSettings(Section):
    """Which images are read, and how large they may be."""

    allowed_hosts: Texts = Field(
        default=(), description="Hosts besides Label Studio's own that images are fetched from."
    )
    allowed_networks: Texts = Field(
        default=(),
        description="Private networks that those hosts may stand in, as 10.1.0.0/16.",
    )
    allowed_folders: Paths = Field(
        default=(), description="Folders of this machine that local files are read from."
    )
    max_megapixels: float = Field(default=100, gt=0, description="Larger images are refused.")
    max_file_mb: float = Field(default=256, gt=0, description="Larger files are refused.")
    timeout_s: float = Field(default=20, gt=0, description="A host must answer within this time.")
    download_s: float = Field(
        default=60, gt=0, le=95, description="A file must be here within this time, all of it."
    )
    max_age_s: float = Field(
        default=600, ge=0, description="A file is read again after this time, in case it changed."
    )
    memory_mb: float = Field(
        default=256,
        ge=0,
        description="Decoded images kept for the zoom; a 12-megapixel one takes 36 MB.",
    )

    @property
    def max_pixels(self) -> int:
        """Of an image."""
        return int(self.max_megapixels * 1e6)


class EmbeddingSettings(Section):
    """Where embeddings are kept: each image, and each close-up of it, is encoded once."""

    memory_mb: float = Field(
        default=512,
        ge=0,
        description="Memory for embeddings; one takes 0.3 MB (compact) to 4 MB (ViT).",
    )
    disk_mb: float = Field(
        default=20_000, ge=0, description="Disk for embeddings; the oldest leave first; 0: none."
    )
    min_free_mb: float = Field(
        default=500,
        ge=0,
        description="The oldest leave, too, while the disk has less room; of small disks a 1/4.",
    )
    folder: OptionalPath = Field(
        default=None, description="Where they lie; empty: the folder embeddings in data_dir."
    )
    redis_url: OptionalSecret = Field(
        default=None,
        description="Share them through Redis instead of the disk, as redis://host:6379/0.",
    )
    redis_mb: float = Field(default=4096, gt=0, description="Redis memory for embeddings.")


class AlbumSettings(Section):
    """Files of the images that were clicked on, kept for offline jobs such as preferences."""

    is_on: bool = Field(
        default=True,
        description="Keep each clicked image once, behind the reply; costs its file size on disk.",
    )
    folder: OptionalPath = Field(
        default=None, description="Where they lie; empty: the folder images in data_dir."
    )
    min_free_mb: float = Field(
        default=1000, ge=0, description="Keep no more while the disk has less room than this."
    )


class PrefetchSettings(Section):
    """Images encoded before the first click asks for them."""

    is_on: bool = Field(
        default=True, description="Encode a task's image as soon as the task is opened."
    )
    next_tasks: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Tasks after the opened one that are encoded too (needs token).",
    )
    max_queued: int = Field(default=256, ge=1, description="Images waiting; more are dropped.")


class JournalSettings(Section):
    """The record of every click, mask and submission."""

    url: OptionalSecret = Field(
        default=None,
        description="Database URL, sqlite or postgresql; empty: journal.db in data_dir.",
    )


class SessionSettings(Section):
    """What is remembered of the objects that are being clicked on."""

    max_objects: int = Field(
        default=256, ge=1, description="Objects kept; one takes up to 0.8 MB (ViT)."
    )
    ttl_s: float = Field(
        default=3600,
        gt=0,
        description="Forgotten after this time; a later click replays its clicks.",
    )


class LearningSettings(Section):
    """The decoder learns from the clicks and the submitted masks, in sessions of their own."""

    is_on: bool = Field(
        default=True, description="False answers every click with the base decoder, as it is."
    )
    scope: Literal["project", "label", "task"] = Field(
        default="project", description="What shares what was learned (a click names no user)."
    )
    config: OptionalPath = Field(
        default=None, description="How it learns, as configs/learner.yaml; empty: its defaults."
    )
    merge: int = Field(
        default=8,
        ge=0,
        description="Finished sessions whose mean a project's next one starts from; 0: none.",
    )
    max_sessions: int = Field(
        default=200, ge=1, description="Sessions in memory (1.6 MB each, compact), the last used."
    )
    max_learners: int = Field(
        default=16, ge=1, description="Sessions that remember their objects, up to 25 MB each."
    )
    ttl_s: float = Field(
        default=86_400, gt=0, description="An unused session leaves the memory; its file stays."
    )
    seed: int = Field(default=0, description="Of the learner's draws.")
    process: Literal["auto", "apart"] = Field(
        default="auto",
        description="auto: `strop serve` sees to it; apart: `strop learn` runs on its own.",
    )
    lease_s: float = Field(
        default=15,
        ge=1,
        description="A learner apart that is silent for so long may be replaced by another one.",
    )


class ProposalSettings(Section):
    """Regions proposed before the first click: more of what was labelled, or what looks wrong."""

    is_on: bool = Field(
        default=False,
        description="Propose in opened tasks; `strop propose` works either way.",
    )
    look_for: Literal["similar", "anomalies", "words"] = Field(
        default="similar",
        description="similar: more of what is finished; anomalies: what has its like nowhere; "
        "words: what a text names.",
    )
    words: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Texts by label; a label without any is looked for by its name.",
    )
    words_model: str = Field(
        default="grounding-dino",
        description="grounding-dino, clipseg, a folder or a hub's id of one (strop[hub]).",
    )
    label: OptionalText = Field(
        default=None,
        description="Label of proposed anomalies; empty: the first of the labeling config.",
    )
    group_key: OptionalText = Field(
        default=None,
        description="Key of the tasks' data naming their group (tile, patient); see the guide.",
    )
    min_score: float = Field(
        default=0.5, ge=0, le=1, description="Less sure regions are not proposed."
    )
    max_area: float = Field(
        default=0.3, gt=0, le=1, description="Anomalies that cover more of the image are left out."
    )
    max_regions: int = Field(default=20, ge=1, le=200, description="Proposals of one task at most.")
    mutual_from: int = Field(
        default=20,
        ge=2,
        description="Images from which anomalies are found by comparing them; below: within each.",
    )
    zoom: bool = Field(
        default=False,
        description="Draw small proposals on a crop around each: finer, an encoding a proposal.",
    )


class InsightsSettings(Section):
    """The page that shows what Strop does for a team."""

    is_on: bool = Field(
        default=True, description="GET /insights; behind the server's password where one is set."
    )
    annotators: bool = Field(
        default=False, description="Tell people apart: objects, clicks and seconds of each."
    )


class MetricsSettings(Section):
    """Numbers for machines."""

    is_on: bool = Field(
        default=True, description="GET /metrics for Prometheus; behind the same password."
    )


class TracesSettings(Section):
    """Where the time of single clicks goes, for OpenTelemetry."""

    endpoint: Annotated[OptionalText, AfterValidator(_is_address)] = Field(
        default=None,
        description="OTLP over HTTP, as http://collector:4318/v1/traces; empty: no traces.",
    )
    share: float = Field(
        default=1.0, ge=0, le=1, description="Of all clicks, this share is traced."
    )


class Settings(Section):
    """All settings of `strop serve`; the defaults serve the embedded model on one machine."""

    data_dir: Path = Field(
        default=Path(".strop"),
        description="Folder of journal, images, embeddings, checkpoints, from where strop starts.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="One line for each click at info."
    )
    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    inference: InferenceSettings = InferenceSettings()
    zoom: ZoomSettings = Field(
        default=ZoomSettings(), description="Small objects are decoded on a crop around them."
    )
    edges: EdgeSettings = Field(
        default=EdgeSettings(), description="Masks are drawn at the edges of the image."
    )
    answers: AnswerSettings = AnswerSettings()
    label_studio: LabelStudioSettings = LabelStudioSettings()
    images: ImageSettings = ImageSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    album: AlbumSettings = AlbumSettings()
    prefetch: PrefetchSettings = PrefetchSettings()
    journal: JournalSettings = JournalSettings()
    sessions: SessionSettings = SessionSettings()
    learning: LearningSettings = LearningSettings()
    proposals: ProposalSettings = ProposalSettings()
    insights: InsightsSettings = InsightsSettings()
    metrics: MetricsSettings = MetricsSettings()
    traces: TracesSettings = TracesSettings()

    @property
    def learns_inside(self) -> bool:
        """Whether what stands behind the replies is done by the process that answers."""
        return self.server.workers == 1 and self.learning.process == "auto"

    @property
    def models_dir(self) -> Path:
        """Folder of the checkpoints."""
        return self.model.folder or self.data_dir / "models"

    @property
    def registry_dir(self) -> Path:
        """Folder of the promoted base decoders."""
        return self.model.registry or self.data_dir / "registry"

    @property
    def embeddings_dir(self) -> Path:
        """Folder of the embeddings on disk."""
        return self.embeddings.folder or self.data_dir / "embeddings"

    @property
    def album_dir(self) -> Path:
        """Folder of the images that were clicked on."""
        return self.album.folder or self.data_dir / "images"

    @property
    def insights_path(self) -> Path:
        """File of the rows behind the insights; derived, and may be deleted."""
        return self.data_dir / "insights.db"

    @property
    def metrics_dir(self) -> Path:
        """Folder of the running server's numbers; emptied at its start."""
        return self.data_dir / "metrics"

    @property
    def adapters_dir(self) -> Path:
        """Folder of what sessions learned."""
        return self.data_dir / "sessions"

    @property
    def objects_dir(self) -> Path:
        """Folder of the newest state of each object in work."""
        return self.data_dir / "objects"

    @property
    def spool_dir(self) -> Path:
        """Folder of clicks and webhooks that the journal did not take yet."""
        return self.data_dir / "spool"

    @property
    def journal_url(self) -> str:
        """The journal's database URL; it may hold a password, so it is never logged."""
        if self.journal.url is not None:
            return self.journal.url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'journal.db').absolute()}"

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """User name and password, or None where no password is set."""
        if self.server.password is None:
            return None
        return self.server.username, self.server.password.get_secret_value()
