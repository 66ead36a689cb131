"""Checks of one project: its connection to Strop, its labeling config, its images."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptation.errors import ImageError, ProtocolError
from adaptation.journal import Journal
from backend.commands.doctor.findings import Finding, fail, ok, warn
from backend.commands.doctor.studio import looks_like, refusal
from backend.label_studio.client import (
    LabelStudioClient,
    LabelStudioError,
    MlBackend,
    Project,
    Webhook,
    same_url,
)
from backend.protocol import AnswerKind, TaskRef, parse_label_config
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.images.loader import ImageLoader

HOW_TO_CONNECT = (
    "in the project's Settings > Model, connect {url} with interactive preannotations on, "
    "or run `strop doctor --fix --project {project}`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What the checks of a project need.

    Args:
        client: Label Studio.
        settings: Of Strop.
        backend_url: Strop's address as Label Studio reaches it.
        project: The project.
    """

    client: LabelStudioClient
    settings: Settings
    backend_url: str
    project: Project

    @property
    def name(self) -> str:
        """How the project is called in findings."""
        return f"project {self.project.project_id} ({self.project.title})"

    def webhook_headers(self) -> dict[str, str]:
        """The headers that Strop wants from Label Studio's webhooks."""
        login = self.settings.basic_auth
        if login is None:
            return {}
        encoded = base64.b64encode(":".join(login).encode()).decode()
        return {"Authorization": f"Basic {encoded}"}


def fix(connection: Connection) -> Iterator[Finding]:
    """Connect the project to Strop and register the webhook, or repair both."""
    url, number = connection.backend_url, connection.project.project_id
    try:
        connection.client.connect_backend(number, url, basic_auth=connection.settings.basic_auth)
        connection.client.register_webhook(
            number, f"{url}/webhook", headers=connection.webhook_headers()
        )
    except LabelStudioError as error:
        yield refusal(error, url)
        return
    yield ok(f"{connection.name}: connected {url} and its webhook")


def unfix(connection: Connection, backends: Sequence[MlBackend]) -> Iterator[Finding]:
    """Remove the connection and the webhook of this very address; nobody else's."""
    client, url = connection.client, connection.backend_url
    ours = [backend for backend in backends if same_url(backend.url, url)]
    hooks = client.webhooks(connection.project.project_id)
    ours_too = [hook for hook in hooks if same_url(hook.url, f"{url}/webhook")]
    for backend in ours:
        client.disconnect_backend(backend.backend_id)
    for hook in ours_too:
        client.remove_webhook(hook.webhook_id)
    if ours or ours_too:
        yield ok(f"{connection.name}: removed {url} and its webhook; its annotations stay")
    else:
        known = ", ".join(backend.url for backend in backends) or "no backend at all"
        yield warn(
            f"{connection.name} is not connected to {url}, but to {known}",
            "give the address that is to go with --url",
        )


def check_backend(connection: Connection, backends: Sequence[MlBackend]) -> Iterator[Finding]:
    """Whether the project's clicks reach Strop."""
    ours = [backend for backend in backends if looks_like(backend.url, connection.backend_url)]
    if not ours:
        to_do = HOW_TO_CONNECT.format(
            url=connection.backend_url, project=connection.project.project_id
        )
        yield fail(f"{connection.name} is not connected to Strop", to_do)
        return
    backend = ours[0]
    if backend.state != "CO":
        yield _not_reached(connection, backend)
    elif not backend.is_interactive:
        yield fail(
            f"{connection.name}: interactive preannotations are off, so clicks are not sent",
            "switch them on in Settings > Model > Edit, or use --fix",
        )
    else:
        yield ok(f"{connection.name} reaches Strop at {backend.url}, interactively")
    before = [other for other in backends if other.is_interactive][:1]
    if backend.is_interactive and before != [backend]:
        yield fail(
            f"{connection.name}: clicks go to its first interactive backend, {before[0].url}",
            "switch interactive preannotations off there",
        )


def _not_reached(connection: Connection, backend: MlBackend) -> Finding:
    reason = " ".join(backend.error_message.split())[:200] or "no reason given"
    return fail(
        f"{connection.name}: Label Studio cannot reach {backend.url}: {reason}",
        "is Strop running there, with the same password (--fix repairs it)? If the address is "
        "private, start Label Studio with ML_BLOCK_LOCAL_IP=false",
    )


def check_webhook(connection: Connection) -> Iterator[Finding]:
    """Whether submissions are sent to Strop, with its password."""
    hooks = connection.client.webhooks(connection.project.project_id)
    ours = [hook for hook in hooks if _is_ours(hook, connection.backend_url)]
    repair = "run `strop doctor --fix`"
    if not ours:
        yield fail(f"{connection.name}: no webhook, so Strop never sees what is submitted", repair)
    elif not any(hook.covers() for hook in ours):
        yield fail(f"{connection.name}: its webhook does not send all of its annotations", repair)
    elif not any(_is_authorised(hook, connection) for hook in ours if hook.covers()):
        yield fail(f"{connection.name}: its webhook does not send Strop's password", repair)
    else:
        yield ok(f"{connection.name}: its webhook sends every annotation")


def _is_ours(hook: Webhook, backend_url: str) -> bool:
    return hook.url.rstrip("/").endswith("/webhook") and looks_like(hook.url, backend_url)


def _is_authorised(hook: Webhook, connection: Connection) -> bool:
    return connection.webhook_headers().items() <= dict(hook.headers).items()


def check_arrivals(connection: Connection, journal: Journal) -> Iterator[Finding]:
    """Whether submissions have arrived where there are some: dropped ones leave no other trace."""
    n_annotations = connection.project.n_annotations
    n_arrived = journal.counts(connection.project.project_id).get("submissions", 0)
    if n_annotations and not n_arrived:
        yield warn(
            f"{connection.name}: {n_annotations} annotations, and none has arrived here",
            "if they were made after connecting, start Label Studio with "
            "SSRF_PROTECTION_ENABLED=false: it drops webhooks to private addresses silently",
        )


def check_labels(connection: Connection) -> Iterator[Finding]:
    """Whether the labeling config has what to click with and where masks can go."""
    preferred = [AnswerKind(kind) for kind in connection.settings.answers.kinds]
    try:
        problems = parse_label_config(connection.project.label_config).problems(preferred)
    except ProtocolError as error:
        problems = (str(error),)
    for problem in problems:
        yield fail(f"{connection.name}: {problem}")
    if not problems:
        yield ok(f"{connection.name}: its labeling config can be clicked in")


def check_image(connection: Connection, images: ImageLoader) -> Iterator[Finding]:
    """Whether Strop can read the image of the first task."""
    number = connection.project.project_id
    task = next(iter(connection.client.tasks(number, page_size=1)), None)
    if task is None:
        yield warn(f"{connection.name} has no tasks", "import some images")
        return
    reference = TaskRef(task_id=task.task_id, project_id=number, data=task.data)
    try:
        config = parse_label_config(connection.project.label_config)
        image = images.load(reference.image_ref(config), task.task_id)
    except (ImageError, ProtocolError) as error:
        yield fail(f"{connection.name}: the image of task {task.task_id} cannot be read: {error}")
        return
    height, width = image.size
    kind = image.identity.media_type
    yield ok(f"{connection.name}: task {task.task_id} shows {width} x {height} pixels, {kind}")
