"""One Ray for the whole test session, small datasets, and what `equal catalogs` means."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalogs.store import Catalog
from catalogs.tables import TABLES, TENSOR_TABLES
from pipelines.prepare import Request, build, in_process
from pipelines.recipes import recipe
from pipelines.summary import Summary
from vapdata.sources.synthetic import Synthetic

Once = Callable[[str, Callable[[Path], object]], Path]
VOLATILE = {"run_id", "commit", "created_at", "seconds", "attempts", "host", "file", "row_group"}
COUNT = 8

SCAN_ONLY = '''"""The tiny recipe without its encoders. Exercised by the test that wrote it."""

import dataclasses

from pipelines.recipes import recipe


def scan_only():
    """Clips of the tiny grid."""
    return dataclasses.replace(recipe("tiny"), name="scan-only", encode=())
'''


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private Ray with two CPUs, joined by every build of the session."""
    from pipelines.run import quiet_ray

    with quiet_ray(None, cpus=2):
        yield


@pytest.fixture(scope="session")
def videos(made_once: Once) -> Path:
    """Eight synthetic videos on disk."""
    return made_once("synthetic", lambda root: [*Synthetic(root=str(root), count=COUNT).list()])


@pytest.fixture(scope="session")
def synthetic(videos: Path) -> Synthetic:
    """The source over `videos`."""
    return Synthetic(root=str(videos), count=COUNT)


@pytest.fixture(scope="session")
def build_tiny(ray_cluster: None, synthetic: Synthetic) -> Callable[..., Summary]:
    """build_tiny(catalog, **of_request): the tiny recipe over the synthetic videos, or another source."""

    def run(catalog: Path, **changes: object) -> Summary:
        request = {"source": synthetic, "catalog": str(catalog), "recipe": recipe("tiny"), **changes}
        return build(Request(**request))

    return run


@pytest.fixture(scope="session")
def build_here(synthetic: Synthetic) -> Callable[..., Summary]:
    """build_here(catalog, **of_request): as `build_tiny`, in this process: for tests of what is made, not of how the work is spread."""

    def run(catalog: Path, **changes: object) -> Summary:
        return build(Request(**{"source": synthetic, "catalog": str(catalog), "recipe": recipe("tiny"), **changes}), runner=in_process)

    return run


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, made_once: Once) -> Path:
    """A catalog of the synthetic videos with everything the tiny recipe makes, built on Ray. Copy it before changing it."""
    return made_once("built", lambda folder: request.getfixturevalue("build_tiny")(folder / "catalog")) / "catalog"


def contents(path: str | os.PathLike[str]) -> dict[str, list[tuple]]:
    """Everything in a catalog that two equal builds must share: rows by key, tensor bytes instead of their place."""
    catalog = Catalog.open(str(path))
    found: dict[str, list[tuple]] = {}
    for name in TABLES:
        if name == "runs":
            continue
        stable = []
        for row in catalog.read(name).to_pylist():
            kept = {key: repr(value) for key, value in row.items() if key not in VOLATILE}
            if name in TENSOR_TABLES:
                kept["bytes"] = repr(hash(catalog.read_tensor(row, check=True).tobytes()))
            stable.append(tuple(sorted(kept.items())))
        found[name] = sorted(stable)
    return found


@pytest.fixture(scope="session")
def assert_equal_catalogs() -> Callable[..., None]:
    """assert_equal_catalogs(left, right, ignore=()): the same rows and tensors, `ignore` naming columns to leave out."""

    def check(left: Path, right: Path, ignore: tuple[str, ...] = ()) -> None:
        ours, theirs = contents(left), contents(right)
        for table in ours:
            rows = [sorted(tuple(item for item in row if item[0] not in ignore) for row in side[table]) for side in (ours, theirs)]
            only = [[row for row in rows[side] if row not in rows[1 - side]][:1] for side in (0, 1)]
            assert only == [[], []], f"{table}: only left {only[0]}, only right {only[1]}"
            assert len(rows[0]) == len(rows[1]), f"{table}: {len(rows[0])} and {len(rows[1])} rows"

    return check


@pytest.fixture
def query() -> Callable[[Path, str], list[tuple]]:
    """query(catalog, sql): rows of an answer over the catalog's views."""
    from catalogs.queries import connect

    def ask(catalog: Path, sql: str) -> list[tuple]:
        with contextlib.closing(connect(Catalog.open(str(catalog)))) as con:
            return con.execute(sql).fetchall()

    return ask


@pytest.fixture(scope="session")
def places(made_once: Once) -> tuple[Path, Path, str]:
    """A scanned catalog of six synthetic videos, their folder, and the recipe that scans only. Copy the catalog before changing it."""

    def make(folder: Path) -> None:
        (folder / "own.py").write_text(SCAN_ONLY)
        source = Synthetic(root=str(folder / "root"), count=6)
        build(Request(source=source, catalog=str(folder / "catalog"), recipe=recipe(f"{folder}/own.py:scan_only")), runner=in_process)

    folder = made_once("scanned", make)
    return folder / "catalog", folder / "root", f"{folder}/own.py:scan_only"
