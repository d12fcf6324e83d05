"""README.md tells the truth where a test can tell: its table reference is generated, its names exist.

`python tests/test_readme.py` writes the table reference anew, after a change to catalogs/tables.py.
"""

import re
import sys
from pathlib import Path

import pytest

FILTERS_START = "<!-- filters: generated from their docstrings by `python tests/test_readme.py` -->"
FILTERS_END = "<!-- filters: end -->"
START = "<!-- tables: generated from catalogs/tables.py by `python tests/test_readme.py` -->"
END = "<!-- tables: end -->"


def _reference() -> str:
    """The tables and columns of catalogs/tables.py as Markdown. Lineage columns, which all tables share, stand once."""
    from catalogs.tables import TABLES

    shared = [column for column in next(iter(TABLES.values())).columns if all(column in table.columns for table in TABLES.values())]
    parts = ["Every table also has " + ", ".join(f"`{column.name}` ({column.doc})" for column in shared) + ". Names in bold are never null."]
    for table in TABLES.values():
        parts += ["", f"#### `{table.name}`: {table.one_row_is}", ""]
        parts += [f"Written by {table.written_by}; key {', '.join(f'`{name}`' for name in table.key)}.", "", "| column | type | unit | what it means |", "|---|---|---|---|"]
        for column in table.columns:
            if column not in shared:
                name = f"**`{column.name}`**" if column.required else f"`{column.name}`"
                parts.append(f"| {name} | {_type(str(column.type))} | {column.unit} | {column.doc.replace('|', chr(92) + '|').replace('<', '&lt;')} |")
    return "\n".join(parts)


def _filters() -> str:
    """The filters as Markdown: what stands under the fixed heads of their docstrings, the first sentence of each."""
    from vapdata.filters import FILTERS
    from vapdata.registry import load

    rows = ["| filter | what it measures | writes, unit | default | cost | source |", "|---|---|---|---|---|---|"]
    for name in FILTERS:
        heads = _heads(load(FILTERS, name, "filter").__doc__ or "")
        cells = (_sentence(heads[head]) for head in ("What", "Writes", "Default", "Cost", "Source"))
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _heads(text: str) -> dict[str, str]:
    parts = re.split(r"^    (What|Reads|Writes|Default|Cost|Fails when|Source): ", text, flags=re.MULTILINE)
    return {head: " ".join(said.split()) for head, said in zip(parts[1::2], parts[2::2], strict=True)}


def _sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence (a figure, an initial or `et al.` goes on), fit for a cell."""
    whole = re.split(r"(?<![A-Z])(?<!et al)(?<!e\.g)[.](?= [A-Z`(0-9])", text)[0].rstrip(".")
    return whole.replace("|", chr(92) + "|").replace("<", "&lt;")


def _type(arrow: str) -> str:
    short = {"double": "number", "int64": "integer", "bool": "yes/no", "string": "text", "list<item: int64>": "integers", "list<item: string>": "texts"}
    return short.get(arrow, arrow.partition("[")[0])


def _with_reference(readme: str) -> str:
    for start, text, end in ((START, _reference(), END), (FILTERS_START, _filters(), FILTERS_END)):
        before, _, rest = readme.partition(start)
        _, _, after = rest.partition(end)
        readme = f"{before}{start}\n{text}\n{end}{after}"
    return readme


def test_the_table_reference_is_what_tables_py_says(repository: Path) -> None:
    readme = (repository / "README.md").read_text()
    assert all(mark in readme for mark in (START, END, FILTERS_START, FILTERS_END))
    assert readme == _with_reference(readme), "type: python tests/test_readme.py"


def test_every_file_that_the_readme_names_is_there(repository: Path) -> None:
    readme = (repository / "README.md").read_text()
    named = set(re.findall(r"`((?:vapdata|pipelines|catalogs|train|tests|benchmarks)/[\w/.]+\.(?:py|md))`", readme))
    assert named, "the pattern finds the README's file names"
    assert sorted(name for name in named if not (repository / name).is_file()) == []


@pytest.mark.parametrize("registry", ["sources", "filters", "captioners", "encoders"])
def test_the_readme_names_every_plug_in(repository: Path, registry: str) -> None:
    import importlib

    names = getattr(importlib.import_module(f"vapdata.{registry}"), registry.upper())
    readme = (repository / "README.md").read_text()
    assert [name for name in names if f"`{name}`" not in readme] == []


def test_the_readme_names_every_command(repository: Path) -> None:
    from vapdata.cli import commands

    readme = (repository / "README.md").read_text()
    assert [name for name in commands.commands if f"vapdata {name}" not in readme] == []


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    sys.path.insert(0, str(root))
    path = root / "README.md"
    path.write_text(_with_reference(path.read_text()))
