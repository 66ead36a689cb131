"""What is imported is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("adaptation", "backend", "training")
# Imported by SQLAlchemy (by a URL's name), by MobileSAM and by segment-anything.
IMPORTED_BY_OTHERS = {"psycopg", "timm", "torchvision"}
# Installed with a declared one, and part of what it promises.
PART_OF = {
    "jinja2": "flask",
    "pydantic-core": "pydantic",
    "urllib3": "requests",
    "werkzeug": "flask",
}
# One name that many distributions share: those of them whose modules we import.
SHARED = {"opentelemetry": {"opentelemetry-exporter-otlp-proto-http", "opentelemetry-sdk"}}


def declared() -> set[str]:
    """Names of the distributions that Strop asks for, with all extras but the developers'."""
    # From the file: what an editable installation knows may be older.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: r for name, r in project["optional-dependencies"].items() if name != "dev"}
    wanted = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    return {re.split(r"[^A-Za-z0-9._-]", r)[0].lower().replace("_", "-") for r in wanted}


def imported_modules(packages: Sequence[str] = PACKAGES) -> Iterator[str]:
    for path in (path for name in packages for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.split(".")[0]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def imported(packages: Sequence[str] = PACKAGES) -> set[str]:
    """Names of the distributions that our packages import, at the top or inside a function."""
    foreign = set(imported_modules(packages)) - sys.stdlib_module_names - set(PACKAGES)
    owners = owners_of_modules()
    assert not foreign - owners.keys(), "imported, but not installed here"
    alone = {PART_OF.get(owners[module], owners[module]) for module in foreign - SHARED.keys()}
    return alone.union(*(SHARED[module] for module in foreign & SHARED.keys()))


def owners_of_modules() -> dict[str, str]:
    """Top-level module -> distribution, by the files (Python 3.10 looks at fewer things)."""
    found = {}
    for distribution in metadata.distributions():
        owner = distribution.metadata["Name"].lower().replace("_", "-")  # parsed at every look
        for file in distribution.files or ():
            is_module = file.suffix in {".py", ".so"}
            if is_module and not file.parts[0].endswith((".data", ".dist-info")):
                found[file.parts[0].split(".")[0]] = owner
    return found


def test_what_is_imported_is_declared() -> None:
    assert not imported() - declared()


def test_what_is_declared_is_imported() -> None:
    assert not declared() - imported() - IMPORTED_BY_OTHERS


def test_what_serving_imports_is_installed_to_serve() -> None:
    lock = (ROOT / "requirements" / "serve.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)", lock, flags=re.MULTILINE))
    assert not imported(("adaptation", "backend")) - locked
