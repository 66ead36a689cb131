"""From nothing to a browser window with images to click on; Ctrl-C ends all of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import requests

from adaptation.errors import SettingsError
from backend.commands.demo.credentials import Credentials, load_or_make
from backend.commands.demo.environment import label_studio_command, label_studio_variables
from backend.commands.demo.errors import DemoError
from backend.commands.demo.processes import Programs, Stopped, running_programs
from backend.commands.demo.progress import Progress
from backend.commands.demo.project import KINDS, POWDER, prepare_projects
from backend.label_studio.client import LabelStudioClient, Transport
from backend.server.ports import check_port

HOST = "127.0.0.1"
START_TIMEOUT_S = 600.0
HOW_TO_CLICK = """\
How to click:
  1. Open a task. At the bottom, switch Auto-Annotation on and leave Auto-Accept off.
  2. Press 1 for a label, then K for the Auto-Detect tool (without K nothing happens), and click on
     an object: a mask appears.
  3. Mend it: press 1 and click where it lacks something; 1 and Alt+click where it has too much.
  4. Accept it with the tick at the bottom, go on with the next object, and Submit at the end.
  5. A box instead: the box's label ({box_key} here), then R, and drag. Back to clicks: 1, then K.

What to watch: the second project, a dozen images of metal powder. Click on some ten particles of
the first image, mend and accept each, and Submit. Strop learns from every one of them; from image
to image the first click is right more often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Where the demo runs.

    Args:
        port: Of Strop.
        label_studio_port: Of Label Studio.
        folder: Keeps the demo's database, images, journal, logs and passwords.
        environment: Python environment of Label Studio; made where it is missing.
        model: A model of the catalog.
    """

    port: int = 9090
    label_studio_port: int = 8080
    folder: Path = Path(".strop/demo")
    environment: Path = Path(".venv-label-studio")
    model: str = "compact"

    @property
    def backend_url(self) -> str:
        """Strop's address."""
        return f"http://{HOST}:{self.port}"

    @property
    def label_studio_url(self) -> str:
        """Label Studio's address."""
        return f"http://{HOST}:{self.label_studio_port}"


def run(options: DemoOptions, echo: Callable[[str], None] = click.echo) -> int:
    """Run the demo until a signal stops it.

    Returns:
        The exit code: 0 when it was stopped.

    Raises:
        StropError: It cannot start, or one of its two programs has ended; all is stopped then.
    """
    check_ports(options)
    _make_folder(options.folder)
    credentials = load_or_make(options.folder)
    command = label_studio_command(options.environment, echo)
    try:
        with running_programs() as programs:
            started = time.monotonic()
            numbers = _start(programs, options, credentials, command, echo)
            echo(_welcome(options, credentials, numbers, time.monotonic() - started))
            programs.watch()
    except Stopped:
        echo("Stopped. `make demo`, or `strop demo`, goes on where you left off.")
    return 0


def check_ports(options: DemoOptions) -> None:
    """Label Studio would silently take another port than the one asked for."""
    wanted = {"--port": options.port, "--label-studio-port": options.label_studio_port}
    if len(set(wanted.values())) < len(wanted):
        raise DemoError("Strop and Label Studio need two different ports.")
    for option, port in wanted.items():
        try:
            check_port(HOST, port)
        except SettingsError:
            raise DemoError(
                f"Port {port} is taken by another program (an earlier demo, perhaps): stop that, "
                f"or choose another port: strop demo {option} {port + 1}, or "
                f'make demo ARGS="{option} {port + 1}".'
            ) from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DemoError(f"Cannot make the folder {folder}: {error.strerror}.") from None


def _start(
    programs: Programs,
    options: DemoOptions,
    credentials: Credentials,
    command: Path,
    echo: Callable[[str], None],
) -> dict[str, str]:
    """Start both programs side by side and connect them; returns the projects' numbers."""
    echo("Starting Label Studio and Strop: half a minute, the first time one or two.")
    _start_label_studio(programs, options, credentials, command)
    _start_strop(programs, options, credentials)
    addresses = {"Label Studio": options.label_studio_url, "Strop": options.backend_url}
    progress = Progress(options.folder / "label-studio" / "label_studio.sqlite3", echo)
    is_up = dict.fromkeys(addresses, False)

    def all_up() -> bool:
        for name, url in addresses.items():
            is_up[name] = is_up[name] or _is_up(url)
        progress.tell(is_up)
        return all(is_up.values())

    programs.wait_until(all_up, "The start", timeout_s=START_TIMEOUT_S)
    with Transport(options.label_studio_url, credentials.token) as http:
        client = LabelStudioClient(http)
        return prepare_projects(client, options.backend_url, credentials, options.folder)


def _start_label_studio(
    programs: Programs, options: DemoOptions, credentials: Credentials, command: Path
) -> None:
    data = options.folder / "label-studio"
    data.mkdir(exist_ok=True)
    login = (credentials.email, credentials.password, credentials.token)
    url = options.label_studio_url
    variables = label_studio_variables(os.environ, folder=data, url=url, login=login)
    arguments = [str(command), "start", "--no-browser", "--internal-host", HOST]
    arguments += ["--port", str(options.label_studio_port), "--host", url]
    arguments += ["--enable-legacy-api-token"]
    programs.start("Label Studio", arguments, variables, options.folder / "label-studio.log")


def _start_strop(programs: Programs, options: DemoOptions, credentials: Credentials) -> None:
    variables = dict(os.environ) | {
        "STROP_SERVER__HOST": HOST,
        "STROP_SERVER__PORT": str(options.port),
        "STROP_SERVER__USERNAME": credentials.backend_user,
        "STROP_SERVER__PASSWORD": credentials.backend_password,
        "STROP_SERVER__GRACEFUL_TIMEOUT_S": "2",
        "STROP_LABEL_STUDIO__URL": options.label_studio_url,
        "STROP_LABEL_STUDIO__TOKEN": credentials.token,
        "STROP_MODEL__NAME": options.model,
        "STROP_DATA_DIR": str(options.folder.absolute() / "strop"),
    }
    program = "from backend.cli import main; main()"
    arguments = [sys.executable, "-c", program, "serve"]
    programs.start("Strop", arguments, variables, options.folder / "strop.log")


def _is_up(url: str) -> bool:
    """Whether it answers; that it asks for a password is an answer, too."""
    with requests.Session() as session:
        session.trust_env = False  # no proxy leads to this machine
        try:
            return session.get(f"{url}/health", timeout=2).status_code < 500
        except requests.RequestException:
            return False


def _welcome(
    options: DemoOptions, credentials: Credentials, numbers: dict[str, str], elapsed_s: float
) -> str:
    url, backend = options.label_studio_url, options.backend_url
    login = f"{credentials.backend_user}:{credentials.backend_password}@"
    return f"""
Ready after {elapsed_s:.0f} s.

  Open      {url}/projects/{numbers[KINDS.key]}/data   many kinds of images
            {url}/projects/{numbers[POWDER.key]}/data   one kind, to see Strop learn
  Log in    {credentials.email}   password  {credentials.password}
  Strop     {backend}   user  {credentials.backend_user}   password  {credentials.backend_password}
            log  {options.folder / "strop.log"}
  Simulate  strop simulate --data FOLDER --url {backend.replace("//", f"//{login}", 1)}

{HOW_TO_CLICK.format(box_key=len(KINDS.labels) + 1)}

Ctrl-C stops both; your work stays in {options.folder}."""
