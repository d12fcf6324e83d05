"""From a plug-in's name to its class: the only look-up of plug-ins there is.

A registry is a plain dict literal `name -> "module:Class"` in a plug-in folder's `__init__.py`, so that listing
names imports nothing heavy. Exercised by `pytest tests/vapdata/test_registry.py`.
"""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from vapdata.errors import CallError


def load(registry: Mapping[str, str], name: str, kind: str) -> Any:
    """The class (of an ablation table, the table) that `registry` holds under `name`; `kind` is the noun for messages, e.g. "source".

    Raises CallError for an unknown name, with the nearest known ones.
    """
    if name not in registry:
        raise CallError(f"{name!r} is no {kind}{did_you_mean(name, registry)}. Known: {', '.join(sorted(registry))}.")
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'` for the nearest of `known`, or an empty string when none is near. A full stop may follow."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), list(known), n=1)
    return f", did you mean {near[0]!r}" if near else ""
