"""Settings: three layers, every mistake at once, and a YAML file that shows them all."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import SettingsError
from adaptation.models.catalog import CATALOG
from backend.settings import Settings, as_yaml, load_settings, settings_keys

ROOT = Path(__file__).resolve().parents[2]
SERVE_YAML = ROOT / "configs" / "serve.yaml"


def load(text: str = "", tmp_path: Path | None = None, **environ: str) -> Settings:
    path = None
    if tmp_path is not None:
        path = tmp_path / "strop.yaml"
        path.write_text(text)
    return load_settings(path, environ=environ)


def mistakes(text: str, tmp_path: Path, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, tmp_path, **environ)
    return str(caught.value).splitlines()[1:]


# The documented file


def test_the_documented_file_shows_every_setting_with_its_default_and_effect() -> None:
    head, body = SERVE_YAML.read_text().split("\n\n", 1)
    assert body == as_yaml(Settings()), "render configs/serve.yaml anew: `strop settings`"
    assert all(line.startswith("#") for line in head.splitlines())


def test_the_documented_file_loads_to_the_defaults() -> None:
    assert load_settings(SERVE_YAML, environ={}) == Settings()


def test_every_setting_has_a_description() -> None:
    for key, field in settings_keys():
        assert field.description, key
        assert field.description.endswith((".", ")")), key


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]


# Layers


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(
    tmp_path: Path,
) -> None:
    path = tmp_path / "strop.yaml"
    path.write_text("server: {port: 1, threads: 10, host: file}\nlog_level: debug\n")
    environ = {"STROP_SERVER__PORT": "2", "STROP_SERVER__THREADS": "20", "OTHER": "x"}
    settings = load_settings(path, {"server.port": 3, "model.name": None}, environ)
    assert (settings.server.port, settings.server.threads, settings.server.host) == (3, 20, "file")
    assert (settings.log_level, settings.model.name) == ("debug", "compact")


def test_lists_and_empty_values_can_be_told_by_the_environment(tmp_path: Path) -> None:
    settings = load(
        "label_studio: {url: 'http://a'}\njournal: {url: 'sqlite:///a.db'}",
        tmp_path,
        STROP_IMAGES__ALLOWED_HOSTS="a.example, b.example:81,",
        STROP_ANSWERS__KINDS="polygon,brush",
        STROP_LABEL_STUDIO__URL="",
        STROP_JOURNAL__URL="",
    )
    assert settings.images.allowed_hosts == ("a.example", "b.example:81")
    assert settings.answers.kinds == ("polygon", "brush")
    assert settings.label_studio.url is None
    assert settings.journal_url.startswith("sqlite:////")


def test_an_empty_file_and_empty_sections_are_the_defaults(tmp_path: Path) -> None:
    assert load("", tmp_path) == Settings()
    assert load("server:\n  # port: 1\nmodel:\n", tmp_path) == Settings()


def test_what_the_tests_and_the_path_of_the_file_need_are_no_settings() -> None:
    environ = {"STROP_TEST_REDIS_URL": "redis://x", "STROP_CONFIG": "a.yaml"}
    assert load_settings(environ=environ) == Settings()


def test_folders_lie_in_the_data_folder_unless_they_are_set(tmp_path: Path) -> None:
    settings = load("data_dir: /data\nembeddings: {folder: /fast}\n", tmp_path)
    assert settings.models_dir == Path("/data/models")
    assert settings.embeddings_dir == Path("/fast")
    assert settings.journal_url == "sqlite:////data/journal.db"


# Mistakes


def test_all_mistakes_of_all_layers_are_reported_at_once_with_their_origin(
    tmp_path: Path,
) -> None:
    found = mistakes(
        "server: {prot: 1, threads: 2}\nnonsense: 1\nzoom: 5\n",
        tmp_path,
        STROP_MODEL__NAM="x",
        STROP_ZOM__MARGIN="2",
        STROP_INFERENCE__DECODES="many",
    )
    file = tmp_path / "strop.yaml"
    assert len(found) == 7
    assert f"  {file}: server.prot: no such setting; did you mean server.port?" in found
    assert any(line.startswith(f"  {file}: server.threads: ") and "'2'" in line for line in found)
    assert f"  {file}: nonsense: no such setting" in found
    assert any(line.startswith(f"  {file}: zoom: ") for line in found)
    assert "  STROP_MODEL__NAM: no such setting; did you mean model.name?" in found
    assert any(line.startswith("  STROP_ZOM: no such setting") for line in found)
    assert any("STROP_INFERENCE__DECODES: " in line and "'many'" in line for line in found)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("server: {port: 0}", "greater than or equal to 1"),
        ("server: {port: .inf}", "server.port"),
        ("images: {max_file_mb: .nan}", "images.max_file_mb"),
        ("answers: {kinds: []}", "answers.kinds"),
        ("answers: {kinds: [brush, blot]}", "answers.kinds"),
        ("label_studio: {url: 'localhost:8080'}", "label_studio.url"),
        ("label_studio: {token_kind: jwt}", "label_studio.token_kind"),
        ("model: {device: ''}", "model.device"),
        ("log_level: loud", "log_level"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, text: str, fragment: str) -> None:
    (line,) = mistakes(text, tmp_path)
    assert fragment in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "must hold `key: value` lines"),
        (b"server: {port: 1", "is not YAML"),
        (b"\xff\xfe\x00", "not UTF-8|is not YAML"),
        (b"1: 2\n", "must hold `key: value` lines"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "strop.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        load_settings(path, environ={})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml: No such file"):
        load_settings(tmp_path / "absent.yaml", environ={})


# Secrets


def test_secrets_are_neither_shown_nor_repeated_in_messages(tmp_path: Path) -> None:
    environ = {
        "STROP_SERVER__PASSWORD": "hush-1",
        "STROP_LABEL_STUDIO__TOKEN": "hush-2",
        "STROP_EMBEDDINGS__REDIS_URL": "redis://:hush-3@host",
        "STROP_JOURNAL__URL": "postgresql://me:hush-4@host/db",
    }
    settings = load_settings(environ=environ)
    assert settings.basic_auth == ("strop", "hush-1")
    assert settings.journal_url == "postgresql://me:hush-4@host/db"
    assert "hush" not in repr(settings) + str(settings) + as_yaml(settings)

    for line in mistakes("server: {password: 12345}\n", tmp_path):
        assert "12345" not in line


@given(
    st.dictionaries(
        st.sampled_from([".".join(key) for key, _ in settings_keys()] + ["server", "a.b.c", ""]),
        st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.lists(st.text())),
        max_size=4,
    )
)
def test_whatever_is_set_gives_settings_or_a_settings_error(overrides: dict[str, object]) -> None:
    try:
        settings = load_settings(overrides=overrides, environ={})
    except SettingsError as error:
        assert len(str(error).splitlines()) >= 2
    else:
        assert yaml.safe_load(as_yaml(settings))["server"]["port"] == settings.server.port


def test_the_models_that_can_be_set_are_those_of_the_catalog() -> None:
    names = typing.get_args(type(Settings().model).model_fields["name"].annotation)
    assert set(names) == set(CATALOG)
