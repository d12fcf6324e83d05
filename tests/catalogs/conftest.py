"""Catalogs to test with."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode: the sample rows lie beside the tests

import catalog_samples

from catalogs.store import Catalog


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Catalog]:
    """A new catalog, locked."""
    catalog = Catalog.open(tmp_path / "catalog", create=True)
    with catalog.lock("pytest"):
        yield catalog


@pytest.fixture
def filled(empty: Catalog) -> Catalog:
    """A catalog with the rows of `fill`, locked."""
    catalog_samples.fill(empty)
    return empty
