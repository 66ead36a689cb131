"""Checks of the way to Label Studio: address, token, and which projects know Strop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from urllib.parse import urlsplit

from backend.commands.doctor.findings import Finding, fail, ok
from backend.label_studio.client import (
    LabelStudioAuthError,
    LabelStudioClient,
    LabelStudioError,
    MlBackend,
    Project,
)

MAX_PROJECTS = 50
"""Label Studio calls every backend of every project that is looked at; that takes its time."""

KINDS = {"legacy": "a legacy token", "personal": "a personal access token"}


def check_label_studio(client: LabelStudioClient) -> Iterator[Finding]:
    """Whether Label Studio answers, and accepts the token."""
    try:
        version = client.version()
    except LabelStudioError as error:
        yield fail(str(error), "Strop needs it to read images; see label_studio.url")
        return
    yield ok(f"Label Studio {version} answers at {client.url}")
    if client.http.token_kind is None:
        yield fail(
            "no token of Label Studio is set",
            "create one under Account & Settings and set STROP_LABEL_STUDIO__TOKEN",
        )
        return
    try:
        email = client.whoami()
    except LabelStudioError as error:
        yield fail(str(error))
        return
    yield ok(f"the token is {KINDS[client.http.token_kind]} of {email}, and accepted")


def find_projects(
    client: LabelStudioClient, backend_url: str, project_id: str | None
) -> list[tuple[Project, list[MlBackend]]]:
    """The projects to look at, each with its backends: the one asked for, or all that know Strop.

    Raises:
        LabelStudioError: Label Studio refuses.
    """
    if project_id is not None:
        return [(client.project(project_id), client.ml_backends(project_id))]
    found = []
    for project in islice(client.projects(), MAX_PROJECTS):
        backends = client.ml_backends(project.project_id)
        if any(looks_like(backend.url, backend_url) for backend in backends):
            found.append((project, backends))
    return found


def looks_like(url: str, backend_url: str) -> bool:
    """Whether an address may be Strop's: Label Studio may know its machine by another name."""
    try:
        return _port(url) == _port(backend_url)
    except ValueError:
        return False


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or {"https": 443}.get(parts.scheme, 80)


def refusal(error: LabelStudioError, backend_url: str) -> Finding:
    """Why Label Studio would not connect Strop, and what to do."""
    if isinstance(error, LabelStudioAuthError) and error.status == 403:
        return fail(
            f"Label Studio refuses to call {backend_url}: {error}",
            "start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false "
            "if Strop has a private address, and check that the token's owner may edit the project",
        )
    return fail(
        f"Label Studio cannot connect to {backend_url}: {error}",
        "give the address at which Label Studio's machine reaches Strop with --url",
    )
