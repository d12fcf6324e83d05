"""`vapdata explain`: what one thing does, told by the thing itself.

A plug-in's answer is its docstring under the fixed heads, and its settings; a recipe's its docstring and products;
a table's its columns. Which things there are, the command line looks up. Exercised by `pytest tests/vapdata/test_cli.py`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any


def plugin_lines(plugin: type) -> Iterator[str]:
    """A plug-in's docstring and its fields with their defaults."""
    yield inspect.cleandoc(plugin.__doc__ or "")
    yield ""
    yield f"Settings, --set {getattr(plugin, 'name', plugin.__name__)}.FIELD=VALUE:"
    for field in dataclasses.fields(plugin):
        yield f"  {field.name} = {_default(field)}"


def recipe_lines(make: Callable[[], Any]) -> Iterator[str]:
    """A recipe's docstring, pixel grid, predicate and products. `make` returns a pipelines.recipes.Recipe."""
    made = make()
    yield inspect.cleandoc(make.__doc__ or "")
    yield ""
    yield f"Backbone: {made.backbone}"
    yield f"Frames: {made.sampling.label()}, resize {made.sampling.resize}, short {made.sampling.short}"
    yield f"Scores: {', '.join(made.score_kinds())}"
    yield f"Where: {made.where}"
    yield "Products:"
    for product in made.products():
        yield f"  {product.name} ({product.table}, {product.dtype}, {product.model_id})"


def table_lines(table: Any) -> Iterator[str]:
    """A table's row, key and columns. `table` is a catalogs.tables.Table."""
    yield f"One row is {table.one_row_is}. Written by {table.written_by}. Key: {', '.join(table.key)}."
    yield ""
    for column in table.columns:
        unit = f" [{column.unit}]" if column.unit else ""
        yield f"  {column.name:<18}{column.type!s:<22}{column.doc}{unit}"


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "(from the recipe or the command line)"
