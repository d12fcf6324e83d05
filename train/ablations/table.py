"""What an ablation table is: the paper's rows in the paper's order, each with the settings that make it here.

Exercised by `pytest tests/train/test_ablate.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a paper's table."""

    name: str
    """As the paper calls it."""
    settings: tuple[str, ...] | None = ()
    """`part.field=value` as `--set` takes it, in an order in which each may be set; None: not run here, `note` says why."""
    paper: Mapping[str, float | str] = field(default_factory=dict)
    """Column -> what the paper prints."""
    note: str = ""

    def __post_init__(self) -> None:
        if self.settings is None and not self.note:
            raise CallError(f"ablation row {self.name!r}: has no settings and no note. Say in `note` why it is not run here")

    @property
    def folder(self) -> str:
        """The row's folder: its name in small letters and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One paper's table."""

    title: str
    """Paper, number of the table, dataset and scale."""
    columns: tuple[str, ...]
    """The paper's columns, with what is better: e.g. "FVD (lower is better)"."""
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        folders = [row.folder for row in self.rows]
        if len({*folders}) < len(folders):
            raise CallError(f"{self.title}: two rows have one folder: {', '.join(sorted({name for name in folders if folders.count(name) > 1}))}. Name rows apart")
        for row in self.rows:
            if strange := [name for name in row.paper if name not in self.columns]:
                raise CallError(f"{self.title}, row {row.name!r}: no column {', '.join(strange)}. Columns: {', '.join(self.columns)}")
