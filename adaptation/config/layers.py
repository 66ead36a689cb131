"""Where values come from: a YAML file, an environment, a command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Tree = Mapping[str, Any]
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of values.

    Args:
        values: Nested by sections; may hold anything that YAML can hold.
        name_of: How this source calls a key: ("server", "port") -> "STROP_SERVER__PORT".
    """

    values: Tree
    name_of: Callable[[Key], str]

    def holds(self, key: Key) -> bool:
        """Whether a key, or a part of one, is set here."""
        tree: object = self.values
        for part in key:
            if not isinstance(tree, Mapping) or part not in tree:
                return False
            tree = tree[part]
        return True


def read_yaml(path: Path, mistakes: list[str], shown: str | None = None) -> Tree:
    """A YAML file's mapping.

    Args:
        path: The file.
        mistakes: What is wrong with it is added here, and nothing is read.
        shown: What the file is called in them; None: its path.
    """
    name = shown or str(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        mistakes.append(f"{name} cannot be read: {error.strerror}")
        return {}
    except UnicodeDecodeError:
        mistakes.append(f"{name} cannot be read: it is not UTF-8 text")
        return {}
    except yaml.YAMLError as error:
        mistakes.append(f"{name} is not YAML: {' '.join(str(error).split())}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        mistakes.append(f"{name} must hold `key: value` lines")
        return {}
    return content


def assigned(texts: Iterable[str], mistakes: list[str]) -> dict[str, str]:
    """Values as a command line gives them, ``server.threads=8`` each, by dotted key."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if equals and key.strip():
            found[key.strip()] = value
        else:
            mistakes.append(f"command line: {text!r} is not of the form KEY=VALUE")
    return found


def nested(flat: Mapping[str, Any], separator: str, mistakes: list[str]) -> Tree:
    """Values by their full names, as a tree."""
    tree: dict[str, Any] = {}
    for name, value in sorted(flat.items()):
        *sections, key = name.split(separator)
        branch: Any = tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                mistakes.append(f"{name} cannot be set: {section} holds a value already, not keys")
                break
        else:
            branch[key] = value
    return tree


def merged(below: Tree, above: Tree) -> dict[str, Any]:
    """Both trees; where both hold a value, the one above wins."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        found[key] = merged(old, value) if both and isinstance(old, Mapping) else value
    return found
