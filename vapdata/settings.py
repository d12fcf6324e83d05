"""`--set step.field=value`: one field of one step's dataclass, from text to the type that the field declares.

    vapdata build --source folder --set folder.captions=texts.csv --set motion.fps=4 --set sampling.short=loop

Which steps there are, the caller says; the dataclass itself checks the value when it is put in.
Exercised by `pytest tests/vapdata/test_settings.py`.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vapdata.errors import CallError
from vapdata.registry import did_you_mean

_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One `--set`, taken apart."""

    step: str
    field: str
    text: str

    def __str__(self) -> str:
        return f"--set {self.step}.{self.field}={self.text}"


def parse(text: str, *, noun: str = "step", example: str = "motion.fps=4") -> Setting:
    """`step.field=value` taken apart. Raises CallError for anything else; `noun` is what a step is called there."""
    name, equals, value = text.partition("=")
    step, dot, field = name.strip().partition(".")
    if not (equals and dot and step and field):
        raise CallError(f"--set {text}: got no {noun}, field and value; type --set {noun}.field=value, e.g. --set {example}")
    return Setting(step=step, field=field, text=value)


def typed(setting: Setting, steps: Mapping[str, Any], *, noun: str = "step") -> tuple[str, str, Any]:
    """(step, field, value) with the value in the type that the field of `steps[step]` declares.

    `steps` maps names to dataclasses or instances of them. Raises CallError with the names there are.
    """
    if setting.step not in steps:
        raise CallError(f"{setting}: there is no {noun} {setting.step!r}{did_you_mean(setting.step, steps)}. Known: {', '.join(sorted(steps))}.")
    spec = steps[setting.step]
    fields = [field.name for field in dataclasses.fields(spec)]
    if setting.field not in fields:
        raise CallError(f"{setting}: {setting.step} has no field {setting.field!r}{did_you_mean(setting.field, fields)}. Known: {', '.join(fields)}.")
    wanted = get_type_hints(spec if isinstance(spec, type) else type(spec))[setting.field]
    return setting.step, setting.field, _read(setting, wanted)


def _read(setting: Setting, wanted: Any) -> Any:
    try:
        return _convert(setting.text, wanted)
    except ValueError as error:
        raise CallError(f"{setting}: got {setting.text!r}, wanted {_words(wanted)}") from error
    except TypeError as error:
        raise CallError(f"{setting}: this field holds no single value; set it in a recipe of your own: --recipe file.py:function") from error


def _convert(text: str, wanted: Any) -> Any:
    """`text` as `wanted`. Raises ValueError when it is none, TypeError when no text can be."""
    if get_origin(wanted) in (Union, types.UnionType):
        return _convert_any(text, get_args(wanted))
    if get_origin(wanted) is Literal:
        return _convert_literal(text, get_args(wanted))
    if get_origin(wanted) is tuple:
        return _convert_tuple(text, get_args(wanted))
    if wanted is bool:
        if text.lower() not in _YES_NO:
            raise ValueError(text)
        return _YES_NO[text.lower()]
    if wanted in (int, float, str):
        return wanted(text)
    raise TypeError(wanted)


def _convert_any(text: str, kinds: Sequence[Any]) -> Any:
    if type(None) in kinds and text.lower() in ("none", "null", ""):
        return None
    refused: Exception = ValueError(text)
    for kind in (each for each in kinds if each is not type(None)):
        try:
            return _convert(text, kind)
        except (TypeError, ValueError) as error:
            refused = error
    raise refused


def _convert_literal(text: str, values: Sequence[Any]) -> Any:
    for value in values:
        if text == str(value):
            return value
    raise ValueError(text)


def _convert_tuple(text: str, kinds: Sequence[Any]) -> tuple[Any, ...]:
    if any(get_origin(kind) is tuple for kind in kinds):
        raise TypeError(kinds)
    parts = [part.strip() for part in text.split(",")] if text else []
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_convert(part, kinds[0]) for part in parts)
    if len(parts) != len(kinds):
        raise ValueError(text)
    return tuple(_convert(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _words(wanted: Any) -> str:
    """`wanted` as a user would say it."""
    if get_origin(wanted) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(wanted))
    if get_origin(wanted) in (Union, types.UnionType):
        return " or ".join(_words(each) for each in get_args(wanted))
    if get_origin(wanted) is tuple:
        return "values with commas between"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "none"}.get(wanted, str(wanted))
