"""The demo's projects in Label Studio: made once, connected to Strop at every start."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from adaptation.storage.files import write_json
from backend.commands.demo.credentials import Credentials
from backend.commands.demo.errors import DemoError
from backend.label_studio.client import LabelStudioClient, LabelStudioError, Project

NOTE = "project.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoProject:
    """A project of the demo.

    Args:
        key: Its name in our notes.
        title: Its name in Label Studio.
        labels: Colours by label.
        samples: Folder of its images below ``samples``.
    """

    key: str
    title: str
    labels: Mapping[str, str]
    samples: str

    @property
    def label_config(self) -> str:
        """Label Studio's labeling config: a click, a box, and the brush for the answers."""
        return (
            '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
            + self._control("KeyPointLabels", "click", "Click", is_smart=True)
            + self._control("RectangleLabels", "box", "Box", is_smart=True)
            + self._control("BrushLabels", "mask", "Brush", is_smart=False)
            + "</View>\n"
        )

    def _control(self, kind: str, name: str, title: str, *, is_smart: bool) -> str:
        """One row of labels.  `smart` is true unless it says otherwise: a brush has to say so."""
        labels = "".join(f'<Label value="{v}" background="{c}"/>' for v, c in self.labels.items())
        smart = str(is_smart).lower()
        style = "margin: 0; font-size: 14px; width: 5em"
        return (
            '  <View style="display: flex; align-items: center; gap: 1em">\n'
            f'    <Header value="{title}" size="6" style="{style}"/>\n'
            f'    <{kind} name="{name}" toName="image" smart="{smart}">{labels}</{kind}>\n'
            "  </View>\n"
        )


KINDS = DemoProject(
    key="kinds",
    title="Strop demo",
    labels={"Object": "#1f77b4", "Nucleus": "#9467bd", "Damage": "#d62728"},
    samples="",
)
"""Images of many kinds: what the model does with things that it never learned."""

POWDER = DemoProject(
    key="powder",
    title="Strop demo: learning",
    labels={"Particle": "#1f77b4"},
    samples="powder",
)
"""A dozen images of one kind: what the decoder learns in one is there in the next."""

PROJECTS = (KINDS, POWDER)
LABEL_CONFIG = KINDS.label_config


def prepare_projects(
    client: LabelStudioClient, backend_url: str, credentials: Credentials, folder: Path
) -> dict[str, str]:
    """Make the projects with their images, where they are not there yet, and connect them.

    Args:
        client: The demo's Label Studio.
        backend_url: Strop's address.
        credentials: Strop's user name and password are handed to Label Studio.
        folder: Where the numbers of the projects are kept.

    Returns:
        The number of each project, by its key.

    Raises:
        LabelStudioError: Label Studio refuses.
    """
    known = _known_numbers(folder)
    numbers: dict[str, str] = {}
    for wanted in PROJECTS:
        project = _existing(client, known.get(wanted.key)) or client.create_project(
            wanted.title, wanted.label_config
        )
        numbers[wanted.key] = project.project_id
        _remember({**known, **{key: int(number) for key, number in numbers.items()}}, folder)
        if project.n_tasks == 0:
            upload_samples(client, project.project_id, wanted.samples)
        _connect(client, project.project_id, backend_url, credentials)
    return numbers


def _connect(
    client: LabelStudioClient, project_id: str, backend_url: str, credentials: Credentials
) -> None:
    login = (credentials.backend_user, credentials.backend_password)
    client.connect_backend(project_id, backend_url, basic_auth=login)
    headers = {"Authorization": basic_auth_header(*login)}
    client.register_webhook(project_id, f"{backend_url}/webhook", headers=headers)


def upload_samples(client: LabelStudioClient, project_id: str, folder: str = "") -> None:
    """Import the images that are shipped with Strop, in their order."""
    samples = resources.files("backend.commands.demo") / "samples"
    if folder:
        samples = samples / folder
    for sample in sorted(samples.iterdir(), key=lambda entry: entry.name):
        if sample.name.endswith(".jpg"):
            client.upload(project_id, sample.name, io.BytesIO(sample.read_bytes()))


def basic_auth_header(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _known_numbers(folder: Path) -> dict[str, int]:
    """Numbers of the projects that were made before, by key."""
    path = folder / NOTE
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        numbers = note.get("projects") or {KINDS.key: note["project"]}  # as Strop 0.1 wrote it
        return {str(key): int(number) for key, number in numbers.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DemoError(f"{path} cannot be read: remove it.") from None


def _existing(client: LabelStudioClient, number: int | None) -> Project | None:
    if number is None:
        return None
    try:
        return client.project(number)
    except LabelStudioError as error:
        if error.status == 404:  # somebody deleted it
            return None
        raise


def _remember(numbers: Mapping[str, int], folder: Path) -> None:
    write_json(folder / NOTE, {"projects": dict(numbers)})
