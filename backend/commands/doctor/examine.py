"""The order of the checks, and what becomes of their findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import click

from adaptation.errors import StoreError, StropError
from adaptation.journal import Journal
from backend.commands.doctor import machine, packages, project, studio
from backend.commands.doctor.findings import Finding, Level, fail, warn
from backend.label_studio.client import LabelStudioClient, LabelStudioError, MlBackend
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.images.loader import ImageLoader

Repair = Literal["fix", "unfix"]
"""Connect projects and register their webhooks; or remove both again."""


def run(
    settings: Settings,
    *,
    project_id: str | None = None,
    repair: Repair | None = None,
    backend_url: str | None = None,
    echo: Callable[[str], None] = click.echo,
) -> int:
    """Print a line for each finding.

    Args:
        settings: Those that `strop serve` runs with.
        project_id: Look at this project; by default at all that are connected to Strop.
        repair: Change the connection before it is looked at; "unfix" looks at nothing else.
        backend_url: Strop's address as Label Studio reaches it; by default as the settings say.
        echo: Prints a line.

    Returns:
        The exit code: 1 where something fails, else 0.
    """
    failed = False
    url = (backend_url or default_url(settings)).rstrip("/")
    if repair == "unfix":
        found = unfix(settings, project_id=project_id, backend_url=url)
    else:
        fix = repair == "fix"
        found = examine(settings, project_id=project_id, fix=fix, backend_url=url)
    for finding in found:
        failed = failed or finding.level is Level.FAIL
        echo(str(finding))
    return int(failed)


def default_url(settings: Settings) -> str:
    """Strop's address as this machine knows it."""
    host = settings.server.host
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}"


def examine(
    settings: Settings, *, project_id: str | None, fix: bool, backend_url: str
) -> Iterator[Finding]:
    """All checks: the quick ones first, the model, which takes seconds to load, last."""
    yield from packages.check_packages()
    yield from machine.check_journal(settings)
    yield from machine.check_server(settings)
    yield from _connections(settings, project_id=project_id, fix=fix, backend_url=backend_url)
    yield from machine.check_embeddings(settings)
    yield from machine.check_model(settings)


def unfix(settings: Settings, *, project_id: str | None, backend_url: str) -> Iterator[Finding]:
    """Remove Strop from the projects that are connected to it under this very address."""
    from backend.label_studio.build import build_client

    try:
        client = build_client(settings)
        if client is None:
            yield fail(*NO_LABEL_STUDIO)
            return
        found = studio.find_projects(client, backend_url, project_id)
        if not found:
            yield warn("no project is connected to Strop", f"its address is {backend_url}: --url")
        for one, backends in found:
            connection = project.Connection(
                client=client, settings=settings, backend_url=backend_url, project=one
            )
            yield from project.unfix(connection, backends)
    except StropError as error:
        yield fail(str(error))


NO_LABEL_STUDIO = (
    "no Label Studio is set, so its uploads cannot be read and no task is encoded ahead",
    "set label_studio.url and STROP_LABEL_STUDIO__TOKEN",
)


def _connections(
    settings: Settings, *, project_id: str | None, fix: bool, backend_url: str
) -> Iterator[Finding]:
    from backend.images.build import build_images
    from backend.label_studio.build import build_client

    try:
        client = build_client(settings)
        images = build_images(settings, client)
    except StropError as error:
        yield fail(str(error))
        return
    if client is None:
        yield warn(*NO_LABEL_STUDIO)
        return
    yield from _label_studio(
        client, images, settings, project_id=project_id, fix=fix, backend_url=backend_url
    )


def _label_studio(
    client: LabelStudioClient,
    images: ImageLoader,
    settings: Settings,
    *,
    project_id: str | None,
    fix: bool,
    backend_url: str,
) -> Iterator[Finding]:
    findings = list(studio.check_label_studio(client))
    yield from findings
    if any(finding.level is Level.FAIL for finding in findings):
        return
    try:
        found = studio.find_projects(client, backend_url, project_id)
        if not found:
            yield _nothing_connected(backend_url)
        for one, backends in found:
            connection = project.Connection(
                client=client, settings=settings, backend_url=backend_url, project=one
            )
            yield from _project(connection, backends, images, fix=fix)
    except LabelStudioError as error:
        yield fail(str(error))


def _nothing_connected(backend_url: str) -> Finding:
    to_do = project.HOW_TO_CONNECT.format(url=backend_url, project="NUMBER")
    return warn("no project is connected to Strop", to_do)


def _project(
    connection: project.Connection,
    backends: list[MlBackend],
    images: ImageLoader,
    *,
    fix: bool,
) -> Iterator[Finding]:
    if fix:
        yield from project.fix(connection)
        backends = connection.client.ml_backends(connection.project.project_id)
    yield from project.check_backend(connection, backends)
    yield from project.check_webhook(connection)
    yield from project.check_labels(connection)
    yield from project.check_image(connection, images)
    try:
        with Journal(connection.settings.journal_url) as journal:
            yield from project.check_arrivals(connection, journal)
    except StoreError:
        return  # said already
