"""Settings: three layers, every mistake at once, and a YAML file that shows them all."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adaptation.config.fields import keys_of
from adaptation.errors import SettingsError
from adaptation.learning.settings import LearnerSettings
from adaptation.models.catalog import CATALOG
from adaptation.models.names import MODEL_NAMES
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from backend.settings import Settings, as_yaml, load_learner, load_settings

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
    text = as_yaml(Settings())
    assert "# None" not in text
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("#")]
    assert len(lines) > 60 and all(line.endswith((".", ")")) for line in lines)


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
    assert f"  {file}: server.threads must be 4 or more, got 2" in found
    assert f"  {file}: nonsense: no such setting" in found
    assert f"  {file}: zoom must be a mapping, got 5" in found
    assert "  STROP_MODEL__NAM: no such setting; did you mean model.name?" in found
    assert "  STROP_ZOM: no such setting; did you mean zoom?" in found
    assert "  STROP_INFERENCE__DECODES must be a whole number, got 'many'" in found


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("server: {port: 0}", "must be 1 or more, got 0"),
        ("server: {port: .inf}", "server.port"),
        ("images: {max_file_mb: .nan}", "images.max_file_mb"),
        ("answers: {kinds: []}", "answers.kinds"),
        ("answers: {kinds: [brush, blot]}", "answers.kinds"),
        (
            "label_studio: {url: 'localhost:8080'}",
            "label_studio.url must begin with http:// or https:// and a host, as http://host:8080, "
            "got 'localhost:8080'",
        ),
        ("model: {name: sam9}", "model.name must be one of compact, compact-1, edgetam,"),
        ("lerning: {seed: 1}", "lerning: no such setting; did you mean learning?"),
        ("port: 1", "port: no such setting"),
        ("edges: {radius: 7}", "edges.radius must be at most 0.25, got 7"),
        ("server: {threads: true}", "server.threads must be a whole number, got 'true'"),
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
    with pytest.raises(SettingsError, match=r"absent\.yaml cannot be read: No such file"):
        load_settings(tmp_path / "absent.yaml", environ={})


def test_mistakes_of_the_command_line_come_with_the_others() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            overrides={"model.name": "sam9"}, environ={}, assignments=["server.prot=1", "foo"]
        )
    assert str(caught.value).splitlines()[1:] == [
        "  command line: 'foo' is not of the form KEY=VALUE",
        "  command line: server.prot: no such setting; did you mean server.port?",
        f"  command line: model.name must be one of {', '.join(MODEL_NAMES)}, a folder (./NAME) or "
        "a model of the Hugging Face hub (OWNER/NAME), got 'sam9'",
    ]


@pytest.mark.parametrize("given", ["[/x, /y]", "/x,/y", "[/x, '/y']"])
def test_a_list_on_the_command_line_is_a_list(given: str) -> None:
    settings = load_settings(environ={}, assignments=[f"images.allowed_folders={given}"])
    assert settings.images.allowed_folders == (Path("/x"), Path("/y"))


def test_a_list_that_is_none_is_told() -> None:
    with pytest.raises(
        SettingsError, match=r"images.allowed_folders is no list that YAML can read"
    ):
        load_settings(environ={}, assignments=["images.allowed_folders=[/x"])


def test_flags_win_over_assignments() -> None:
    settings = load_settings(
        overrides={"server.port": "2"}, environ={}, assignments=["server.port=1"]
    )
    assert settings.server.port == 2


def test_the_names_of_models_are_the_catalog_s() -> None:
    assert MODEL_NAMES == tuple(CATALOG)


@pytest.mark.parametrize("name", ["./mine", "~/models/mine", "/srv/mine", "facebook/sam-vit-base"])
def test_a_model_may_be_a_folder_or_one_of_the_hub(name: str) -> None:
    assert load_settings(overrides={"model.name": name}, environ={}).model.name == name


def test_zoom_and_edges_are_said_once() -> None:
    assert Settings().zoom == ZoomSettings() and Settings().edges == EdgeSettings()
    assert load_settings(environ={"STROP_ZOOM__SHRINK": "0.4"}).zoom == ZoomSettings(shrink=0.4)


# Files of the version before


def test_a_learner_s_file_gets_one_verdict(tmp_path: Path) -> None:
    from training.runtime.config import load_config

    path = tmp_path / "learner.yaml"
    path.write_text('steps: "8"\nhalf: 1\nguard:\n')
    assert load_learner(path) == load_config(LearnerSettings, path) == LearnerSettings()
    path.write_text("steps: true\nrank: -1\nguard: {least: 9}\n")
    verdicts = []
    for load_one in (load_learner, lambda p: load_config(LearnerSettings, p)):
        with pytest.raises(SettingsError) as caught:
            load_one(path)
        verdicts.append(str(caught.value).replace(f"{tmp_path}/", ""))
    assert verdicts[0] == verdicts[1]
    assert sorted(verdicts[0].splitlines()[1:]) == [
        "  learner.yaml: guard: The guard needs 1 <= least <= window, got 9 and 8",
        "  learner.yaml: rank must be 0 or more, got -1",
        "  learner.yaml: steps must be a whole number, got 'true'",
    ]


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
        st.sampled_from([".".join(key) for key in keys_of(Settings)] + ["server", "a.b.c", ""]),
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
