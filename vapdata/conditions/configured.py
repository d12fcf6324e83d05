"""A provider's file, YAML or JSON, read strictly: a name that nobody knows is a sentence, not a setting that does nothing.

Exercised by `pytest tests/vapdata/conditions/test_template.py` and `tests/vapdata/conditions/test_lora.py`.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import yaml

from vapdata.condition import CATEGORIES, Category, condition_name
from vapdata.errors import CallError

T = TypeVar("T")


def stamp_of(path: str, wanted: str) -> int:
    """When the file was changed last, ns; who reads it caches by this. Raises CallError when it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        raise CallError(f"{path}: {error.strerror}; wanted {wanted}") from error


def read(path: str, understand: Callable[[Any], T], example: str) -> T:
    """What `understand` makes of the file's contents. Raises CallError that names the file; `example` is where one is shown."""
    try:
        with open(path, encoding="utf-8") as file:
            said = json.load(file) if path.endswith(".json") else yaml.safe_load(file)
    except (ValueError, yaml.YAMLError) as error:
        raise CallError(f"{path}: it is neither YAML nor JSON: {error}") from error
    try:
        return understand(said)
    except CallError as error:
        raise CallError(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise CallError(f"{path}: a value is of the wrong kind: {error}. {example} shows a file") from error


def only(said: Any, known: tuple[str, ...], where: str, needed: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """`said` when it is a mapping with names that are known, and all that are needed. Raises CallError."""
    if not isinstance(said, Mapping):
        raise CallError(f"{where}: got {type(said).__name__}, wanted names with values")
    strange = [name for name in said if name not in known]
    missing = [name for name in needed if name not in said]
    if strange or missing:
        got = f"got {strange[0]!r}" if strange else f"{missing[0]!r} is missing"
        raise CallError(f"{where}: {got}, wanted {', '.join(known)}")
    return said


def condition_of(said: Mapping[str, Any]) -> tuple[str, Category]:
    """Name and category of one condition of a file. Raises CallError for a name or a category that is none."""
    name = str(said["condition"])
    if condition_name(name) != name:
        raise CallError(f"condition: got {name!r}, wanted lower-case words with _ between, e.g. {condition_name(name) or 'squish'}")
    for category in CATEGORIES:
        if category == said["category"]:
            return name, category
    raise CallError(f"condition {name}: got category {said['category']!r}, wanted one of {', '.join(CATEGORIES)}")


def refuse_twice(conditions: Iterable[str]) -> None:
    """Raises CallError when two conditions of a file have one name."""
    seen: set[str] = set()
    for each in conditions:
        if each in seen:
            raise CallError(f"conditions: {each} is there twice")
        seen.add(each)
