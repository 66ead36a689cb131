"""The demo's parts; all of it together, with the real Label Studio, runs in tests/e2e."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from adaptation.errors import StropError
from backend.commands.demo import DemoError, DemoOptions
from backend.commands.demo.credentials import Credentials, load_or_make
from backend.commands.demo.environment import VERSION, label_studio_command, label_studio_variables
from backend.commands.demo.processes import Programs, running_programs
from backend.commands.demo.progress import Progress
from backend.commands.demo.project import (
    LABEL_CONFIG,
    POWDER,
    PROJECTS,
    basic_auth_header,
    prepare_projects,
)
from backend.commands.demo.run import check_ports
from backend.label_studio.client import LabelStudioClient, Transport
from backend.protocol import parse_label_config
from tests.backend.sites import LEGACY_TOKEN, LabelStudioSite, Reply, Request, json_reply

ROOT = Path(__file__).resolve().parents[4]
SAMPLES = ROOT / "backend" / "commands" / "demo" / "samples"


# -- passwords ------------------------------------------------------------------------------------


def test_every_installation_has_its_own_passwords_and_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = load_or_make(tmp_path)
    assert load_or_make(tmp_path) == first
    other = load_or_make(tmp_path / "other")
    for name in ("password", "token", "backend_password"):
        assert len(getattr(first, name)) >= 12
        assert getattr(first, name) != getattr(other, name)


def test_passwords_are_for_their_owner_alone(tmp_path: Path) -> None:
    credentials = load_or_make(tmp_path)
    mode = (tmp_path / "credentials.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert credentials.password not in repr(credentials)
    assert credentials.token not in repr(credentials)


def test_a_broken_file_of_passwords_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{}")
    with pytest.raises(DemoError, match="remove the folder"):
        load_or_make(tmp_path)


# -- the environment of Label Studio --------------------------------------------------------------


def test_the_pinned_version_is_the_one_in_the_lock_file() -> None:
    lock = (ROOT / "requirements" / "label-studio.lock").read_text()
    assert f"\nlabel-studio=={VERSION} " in lock


def test_an_environment_that_is_there_is_used_as_it_is(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "label-studio"
    command.parent.mkdir()
    command.touch()
    said: list[str] = []
    assert label_studio_command(tmp_path, said.append) == command
    assert said == []


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    with pytest.raises(DemoError, match="cannot be installed; `-m venv .* why above") as caught:
        label_studio_command(tmp_path / "file" / "environment", said.append)
    assert "--environment" in str(caught.value)
    assert said[0].startswith("Installing Label Studio into")


def test_label_studio_may_reach_strop_and_tells_nobody(tmp_path: Path) -> None:
    inherited = {"PATH": "/bin", "PYTHONPATH": "/elsewhere"}
    login = ("a@example.com", "secret", "token")
    made = label_studio_variables(
        inherited, folder=tmp_path, url="http://127.0.0.1:8080", login=login
    )
    assert made["ML_BLOCK_LOCAL_IP"] == made["SSRF_PROTECTION_ENABLED"] == "false"
    assert made["COLLECT_ANALYTICS"] == "false"
    assert made["PATH"] == "/bin" and "PYTHONPATH" not in made


# -- ports ----------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named_with_its_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(
            DemoError, match=f"Port {taken} is taken.*--label-studio-port {taken + 1}"
        ):
            check_ports(DemoOptions(port=_free_port(), label_studio_port=taken))
        with pytest.raises(DemoError, match=f'is taken.*make demo ARGS="--port {taken + 1}"'):
            check_ports(DemoOptions(port=taken, label_studio_port=_free_port()))


def test_two_programs_need_two_ports() -> None:
    with pytest.raises(DemoError, match="two different ports"):
        check_ports(DemoOptions(port=8080, label_studio_port=8080))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# -- processes ------------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def start(programs: Programs, folder: Path, code: str, name: str = "Program") -> Path:
    log = folder / f"{name}.log"
    programs.start(name, python(code), os.environ, log)
    return log


def wait_for_text(path: Path) -> str:
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at:
        text = path.read_text().strip()
        if text:
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path.name} stayed empty")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until_dead(pid: int) -> bool:
    give_up_at = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return not is_alive(pid)


WITH_CHILD = """
    import os, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(os.getpid(), child.pid, flush=True)
    time.sleep(600)
"""
STUBBORN = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


def test_programs_end_with_the_block_and_leave_no_child_behind(tmp_path: Path) -> None:
    with running_programs() as programs:
        pids = [int(pid) for pid in wait_for_text(start(programs, tmp_path, WITH_CHILD)).split()]
        assert all(map(is_alive, pids))
    assert all(map(wait_until_dead, pids))


def test_a_program_that_does_not_end_when_asked_is_ended(tmp_path: Path) -> None:
    programs = Programs()
    pid = int(wait_for_text(start(programs, tmp_path, STUBBORN)))
    programs.stop(grace_s=0.2)
    assert wait_until_dead(pid)


def test_programs_end_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), running_programs() as programs:
        pid = int(wait_for_text(start(programs, tmp_path, WITH_CHILD)).split()[0])
        raise ZeroDivisionError
    assert wait_until_dead(pid)


def test_a_program_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(DemoError) as caught, running_programs() as programs:
        start(programs, tmp_path, "import sys; print('no database'); sys.exit(3)", "Label Studio")
        programs.wait_until(lambda: False, "The start", timeout_s=20, poll_s=0.02)
    assert "Label Studio has ended with exit code 3" in str(caught.value)
    assert "no database" in str(caught.value)


def test_waiting_ends(tmp_path: Path) -> None:
    with running_programs() as programs:
        start(programs, tmp_path, WITH_CHILD)
        with pytest.raises(DemoError, match=r"The start took longer than 0 s; see .*Program.log"):
            programs.wait_until(lambda: False, "The start", timeout_s=0.1, poll_s=0.02)


def test_a_command_that_is_missing_is_named(tmp_path: Path) -> None:
    with running_programs() as programs, pytest.raises(DemoError, match="No such file"):
        programs.start("Label Studio", [str(tmp_path / "none")], {}, tmp_path / "log")


DEMO = """
    import os, sys
    from pathlib import Path
    from backend.commands.demo.processes import Stopped, running_programs
    folder = Path(sys.argv[1])
    try:
        with running_programs() as programs:
            for name in ("one", "two"):
                programs.start(name, [sys.executable, "-c", sys.argv[2]], os.environ, folder / name)
            programs.watch()
    except Stopped:
        print("stopped", flush=True)
"""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that watches two stubborn programs, and their process ids."""
    command = [*python(DEMO), str(tmp_path), textwrap.dedent(STUBBORN)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / "one").touch()
    (tmp_path / "two").touch()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            pids = [int(wait_for_text(tmp_path / name)) for name in ("one", "two")]
            yield process, pids
        finally:
            process.kill()  # leaving the block waits for its end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_at_once_what_the_first_could_not(
    demo: tuple[subprocess.Popen[str], list[int]], number: signal.Signals
) -> None:
    process, pids = demo
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None, "the programs ignore the first signal, and get their time"
    process.send_signal(number)
    assert process.wait(timeout=10) == 0
    assert process.stdout is not None and process.stdout.read() == "stopped\n"
    assert all(map(wait_until_dead, pids))


# -- progress -------------------------------------------------------------------------------------


def test_waiting_is_told_in_steps_now_and_then(tmp_path: Path) -> None:
    database = tmp_path / "label_studio.sqlite3"
    said: list[str] = []
    times = iter([0.0, 1.0, 6.0, 7.0, 15.0, 26.0, 32.0, 38.0])
    progress = Progress(database, said.append, clock=lambda: next(times))
    progress.tell({"Label Studio": False, "Strop": False})  # after 1 s: too early
    progress.tell({"Label Studio": False, "Strop": False})
    progress.tell({"Label Studio": False, "Strop": False})  # 1 s after the last line
    progress.tell({"Label Studio": False, "Strop": False})  # nothing new for 9 s
    progress.tell({"Label Studio": False, "Strop": False})  # nor for 20: it still lives
    with closing(sqlite3.connect(database)) as file:
        file.execute("CREATE TABLE django_migrations (id INTEGER)")
        file.executemany("INSERT INTO django_migrations VALUES (?)", [(n,) for n in range(120)])
        file.commit()
        progress.tell({"Label Studio": False, "Strop": True})
        file.executemany("INSERT INTO django_migrations VALUES (?)", [(n,) for n in range(276)])
        file.commit()
    progress.tell({"Label Studio": False, "Strop": True})
    assert said == [
        "    6 s   Label Studio: starting   Strop: loading its model",
        "   26 s   Label Studio: starting   Strop: loading its model",
        "   32 s   Label Studio: making its database, step 120 of 396   Strop: ready",
        "   38 s   Label Studio: starting its server   Strop: ready",
    ]


# -- the project ----------------------------------------------------------------------------------


class DemoSite(LabelStudioSite):
    """Also makes projects and takes uploads; each becomes a task."""

    def __init__(self) -> None:
        super().__init__()
        self.projects: dict[int, dict[str, object]] = {}
        self.n_made = 0
        self.routes["/api/projects/"] = self._new_project

    def answer(self, request: Request) -> Reply:
        parts = request.path.strip("/").split("/")
        if parts[:2] == ["api", "projects"] and len(parts) > 2:
            return self._one_project(int(parts[2]), parts[3:])
        return super().answer(request)

    def _new_project(self, request: Request) -> Reply:
        self.n_made += 1  # numbers are never given twice
        number = self.n_made
        self.projects[number] = {"id": number, "task_number": 0, **request.json()}
        return json_reply(self.projects[number], 201)

    def _one_project(self, number: int, rest: list[str]) -> Reply:
        project = self.projects.get(number)
        if project is None:
            return json_reply({"detail": "No Project matches the given query."}, 404)
        if rest == ["import"]:
            project["task_number"] = int(str(project["task_number"])) + 1
            return json_reply({"task_ids": [project["task_number"]]}, 201)
        return json_reply(project)


@pytest.fixture
def site() -> Iterator[DemoSite]:
    with DemoSite().running() as running:
        assert isinstance(running, DemoSite)
        yield running


def prepare(site: DemoSite, folder: Path) -> str:
    client = LabelStudioClient(Transport(site.url, LEGACY_TOKEN))
    credentials = Credentials(password="p", token=LEGACY_TOKEN, backend_password="secret")
    numbers = prepare_projects(client, "http://127.0.0.1:9090", credentials, folder)
    assert list(numbers) == ["kinds", "powder"]
    return numbers["kinds"]


def test_the_project_is_made_with_its_images_and_connected(site: DemoSite, tmp_path: Path) -> None:
    assert prepare(site, tmp_path) == "1"
    assert site.projects[1]["label_config"] == LABEL_CONFIG
    assert site.projects[1]["task_number"] == len(list(SAMPLES.glob("*.jpg")))
    assert site.projects[2]["label_config"] == POWDER.label_config
    assert site.projects[2]["task_number"] == len(list((SAMPLES / "powder").glob("*.jpg"))) == 12
    (backend, other), (hook, _) = site.backends, site.hooks
    assert {backend["project"], other["project"]} == {1, 2}
    assert backend["is_interactive"] and backend["basic_auth_pass"] == "secret"
    assert hook["url"] == "http://127.0.0.1:9090/webhook"
    assert hook["headers"] == {"Authorization": basic_auth_header("strop", "secret")}


def test_a_second_start_keeps_the_work(site: DemoSite, tmp_path: Path) -> None:
    first = prepare(site, tmp_path)
    n_tasks = site.projects[1]["task_number"]
    assert prepare(site, tmp_path) == first
    assert site.projects[1]["task_number"] == n_tasks
    assert len(site.projects) == len(site.backends) == len(site.hooks) == 2


def test_a_demo_of_an_earlier_version_keeps_its_project(site: DemoSite, tmp_path: Path) -> None:
    first = prepare(site, tmp_path)
    (tmp_path / "project.json").write_text(json.dumps({"project": int(first)}))
    assert prepare(site, tmp_path) == first
    assert len(site.projects) == 3  # the project of one kind is made beside it


def test_a_project_that_was_deleted_is_made_anew(site: DemoSite, tmp_path: Path) -> None:
    prepare(site, tmp_path)
    del site.projects[1]
    assert prepare(site, tmp_path) == "3"
    assert sorted(site.projects) == [2, 3]


def test_an_import_that_broke_off_before_the_first_image_is_made_up(
    site: DemoSite, tmp_path: Path
) -> None:
    prepare(site, tmp_path)
    site.projects[1]["task_number"] = 0
    prepare(site, tmp_path)
    assert site.projects[1]["task_number"] == len(list(SAMPLES.glob("*.jpg")))


def test_a_broken_note_of_the_project_says_what_to_do(site: DemoSite, tmp_path: Path) -> None:
    (tmp_path / "project.json").write_text("[]")
    with pytest.raises(StropError, match="remove it"):
        prepare(site, tmp_path)


def test_the_labeling_config_is_one_that_clicks_work_in() -> None:
    config = parse_label_config(LABEL_CONFIG)
    assert config.problems() == ()
    assert config.answer_control("Nucleus", "image").name == "mask"


def test_every_project_can_be_clicked_in() -> None:
    for project in PROJECTS:
        config = parse_label_config(project.label_config)
        assert config.problems() == ()
        assert {config.answer_control(label, "image").name for label in project.labels} == {"mask"}


def test_the_password_is_encoded_as_http_wants_it() -> None:
    assert base64.b64decode(basic_auth_header("u", "pä:s").split()[1]).decode() == "u:pä:s"


# -- the samples ----------------------------------------------------------------------------------


def test_the_samples_are_small_upright_images_with_a_stated_origin() -> None:
    sources = (SAMPLES / "SOURCES.md").read_text()
    samples = sorted(SAMPLES.rglob("*.jpg"))
    assert 4 <= len(list(SAMPLES.glob("*.jpg"))) <= 12
    assert sum(path.stat().st_size for path in samples) < 2_000_000
    for path in samples:
        assert f"`{path.name}`" in sources
        with Image.open(path) as image:
            assert image.mode in ("RGB", "L") and max(image.size) <= 1024
            assert image.getexif().get(0x0112, 1) == 1
    assert json.dumps(sources).count("MIT License") == 1
