"""The demo's project in Label Studio: made once, connected to Strop at every start."""

from __future__ import annotations

import base64
import io
import json
from importlib import resources
from pathlib import Path

from adaptation.storage.files import write_json
from backend.commands.demo.credentials import Credentials
from backend.commands.demo.errors import DemoError
from backend.label_studio.client import LabelStudioClient, LabelStudioError, Project

TITLE = "Strop demo"

LABELS = {"Object": "#1f77b4", "Nucleus": "#9467bd", "Damage": "#d62728"}


def _control(kind: str, name: str, title: str, *, is_smart: bool) -> str:
    """One row of labels.  `smart` is true unless it says otherwise: a brush has to say so."""
    labels = "".join(f'<Label value="{v}" background="{c}"/>' for v, c in LABELS.items())
    smart = str(is_smart).lower()
    return (
        '  <View style="display: flex; align-items: center; gap: 1em">\n'
        f'    <Header value="{title}" size="6" style="margin: 0; font-size: 14px; width: 5em"/>\n'
        f'    <{kind} name="{name}" toName="image" smart="{smart}">{labels}</{kind}>\n'
        "  </View>\n"
    )


LABEL_CONFIG = (
    '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
    + _control("KeyPointLabels", "click", "Click", is_smart=True)
    + _control("RectangleLabels", "box", "Box", is_smart=True)
    + _control("BrushLabels", "mask", "Brush", is_smart=False)
    + "</View>\n"
)


def prepare_project(
    client: LabelStudioClient, backend_url: str, credentials: Credentials, folder: Path
) -> str:
    """Make the project with its images, if it is not there yet, and connect it to Strop.

    Args:
        client: The demo's Label Studio.
        backend_url: Strop's address.
        credentials: Strop's user name and password are handed to Label Studio.
        folder: Where the number of the project is kept.

    Returns:
        The number of the project.

    Raises:
        LabelStudioError: Label Studio refuses.
    """
    project = _known_project(client, folder) or _new_project(client)
    if project.n_tasks == 0:
        upload_samples(client, project.project_id)
    _remember(project, folder)
    login = (credentials.backend_user, credentials.backend_password)
    client.connect_backend(project.project_id, backend_url, basic_auth=login)
    headers = {"Authorization": basic_auth_header(*login)}
    client.register_webhook(project.project_id, f"{backend_url}/webhook", headers=headers)
    return project.project_id


def upload_samples(client: LabelStudioClient, project_id: str) -> None:
    """Import the images that are shipped with Strop, in their order."""
    samples = resources.files("backend.commands.demo") / "samples"
    for sample in sorted(samples.iterdir(), key=lambda entry: entry.name):
        if sample.name.endswith(".jpg"):
            client.upload(project_id, sample.name, io.BytesIO(sample.read_bytes()))


def basic_auth_header(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _known_project(client: LabelStudioClient, folder: Path) -> Project | None:
    try:
        number = int(json.loads(_note(folder).read_text(encoding="utf-8"))["project"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise DemoError(f"{_note(folder)} cannot be read: remove it.") from None
    try:
        return client.project(number)
    except LabelStudioError as error:
        if error.status == 404:  # somebody deleted it
            return None
        raise


def _new_project(client: LabelStudioClient) -> Project:
    body = {"title": TITLE, "label_config": LABEL_CONFIG}
    answer = client.http.send_json("POST", "/api/projects/", body)
    return client.project(answer["id"])


def _remember(project: Project, folder: Path) -> None:
    write_json(_note(folder), {"project": int(project.project_id)})


def _note(folder: Path) -> Path:
    return folder / "project.json"
