"""Copies are found, the better one is kept, nothing is deleted, and a predicate leaves the others out."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from catalogs.queries import selected
from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines import backfill as filling
from pipelines.dedup import Comparing, Request, dedup
from pipelines.prepare import Request as Build
from pipelines.prepare import build, in_process
from pipelines.recipe import Recipe
from pipelines.recipes import recipe
from vapdata import video
from vapdata.encoders.t5 import T5
from vapdata.errors import CallError
from vapdata.filters.brightness import Brightness
from vapdata.filters.embedding import Embedding
from vapdata.sources.folder import Folder

pytestmark = pytest.mark.slow

Query = Callable[[Path, str], list[tuple]]
MODEL = Embedding(model="tiny-cogvideox")


def _scene(seed: int, count: int = 24) -> np.ndarray:
    """A coarse pattern that drifts: (count, 96, 160, 3)."""
    rng = np.random.default_rng(seed)
    field = np.kron(rng.integers(0, 230, (12, 40, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    return np.stack([np.roll(field, -2 * k, axis=1)[:, :160] for k in range(count)])


@pytest.fixture(scope="module", autouse=True)
def _one_shard() -> Iterator[None]:
    """All videos in one shard: what is asked here does not depend on their number, and each costs a few files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.FEWEST_SHARDS", 1)
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4; copy/a.mp4, its bytes; a_small.mp4, half its size and rate, trimmed and brighter; b.mp4, another scene."""
    root = tmp_path_factory.mktemp("clips")
    scene = _scene(0)
    video.write(root / "a.mp4", scene, fps=24)
    (root / "copy").mkdir()
    shutil.copy(root / "a.mp4", root / "copy" / "a.mp4")
    video.write(root / "a_small.mp4", np.clip(scene[5::2, ::2, ::2] * 1.1, 0, 255).astype(np.uint8), fps=12)
    video.write(root / "b.mp4", _scene(1), fps=24)
    return root


@pytest.fixture(scope="module")
def made() -> Recipe:
    encode = (dataclasses.replace(recipe("tiny").encode[-1], encoders=(T5(backbone="tiny-cogvideox"),)),)
    sampling = dataclasses.replace(recipe("tiny").sampling, short="loop")
    return dataclasses.replace(recipe("tiny"), name="texts", scan=(Brightness(),), encode=encode, sampling=sampling)


@pytest.fixture(scope="module")
def scanned(clips: Path, made: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("scanned") / "catalog"
    build(Build(source=Folder(root=str(clips)), catalog=str(catalog), recipe=made, where="false"), runner=in_process)
    return catalog


@pytest.fixture(scope="module")
def compared(scanned: Path, clips: Path, made: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With exact and near compared."""
    catalog = shutil.copytree(scanned, tmp_path_factory.mktemp("compared") / "catalog")
    _dedup(catalog, clips, made)
    return catalog


def _dedup(catalog: Path, clips: Path, made: Recipe, **changes: object) -> object:
    return dedup(Request(catalog=str(catalog), recipe=made, roots={"folder": str(clips)}, **changes), runner=in_process)


def test_exact_and_near_copies_are_named_with_who_is_kept(compared: Path, query: Query) -> None:
    rows = {(method, clip): (keeper, cluster is not None) for clip, method, keeper, cluster in query(compared, "select clip_id, method, keeper, cluster from duplicates")}
    a, copy, small, b = "folder/a.mp4", "folder/copy/a.mp4", "folder/a_small.mp4", "folder/b.mp4"
    assert rows == {
        ("exact", a): (a, True),
        ("exact", copy): (a, True),
        ("exact", small): (small, False),
        ("exact", b): (b, False),
        ("near", a): (a, True),
        ("near", copy): (a, True),
        ("near", small): (a, True),
        ("near", b): (b, False),
    }
    distances = dict(query(compared, "select clip_id, distance from duplicates where method = 'near'"))
    assert distances[a] == distances[copy] == distances[b] == 0.0
    assert 0 < distances[small] < Comparing().near
    assert verify(Catalog.open(str(compared))) == []


def test_not_duplicate_leaves_copies_out_of_a_build_and_of_a_question(compared: Path, scanned: Path, clips: Path, made: Recipe, tmp_path: Path, query: Query) -> None:
    kept = ["folder/a.mp4", "folder/b.mp4"]
    assert selected(Catalog.open(str(compared)), "not duplicate") == kept
    assert query(scanned, "select distinct duplicate from clips_wide") == [(None,)], "not seen yet"
    catalog = shutil.copytree(compared, tmp_path / "catalog")
    summary = build(Build(source=Folder(root=str(clips)), catalog=str(catalog), recipe=made, where="not duplicate"), runner=in_process)
    assert (summary.clips["kept"], summary.clips["not_selected"]) == (2, 2)
    assert query(catalog, "select clip_id from texts where clip_id is not null order by 1") == [(name,) for name in kept]


def test_again_gives_the_same_rows_and_decodes_nothing(compared: Path, clips: Path, made: Recipe, tmp_path: Path, query: Query) -> None:
    catalog = shutil.copytree(compared, tmp_path / "catalog")
    sql = "select clip_id, method, cluster, keeper, distance, generation from duplicates order by all"
    before = query(catalog, sql)
    assert _dedup(catalog, clips, made).filled.stage_seconds == {}
    assert query(catalog, sql) == before
    _dedup(catalog, clips, made, methods=("near",), comparing=Comparing(near=0.0))
    assert query(catalog, "select count(*) from duplicates where method = 'near' and keeper <> clip_id") == [(1,)], "only that method's rows are replaced"
    assert query(catalog, "select count(*) from duplicates where method = 'exact' and keeper <> clip_id") == [(1,)]


def test_embeddings_find_what_means_the_same(scanned: Path, clips: Path, made: Recipe, tmp_path: Path, query: Query) -> None:
    catalog = shutil.copytree(scanned, tmp_path / "catalog")
    filling.backfill(filling.Request(catalog=str(catalog), steps=(MODEL,), recipe=made, roots={"folder": str(clips)}), runner=in_process)
    found = _dedup(catalog, clips, made, methods=("semantic",), embedding=MODEL, comparing=Comparing(semantic=0.99999)).found
    assert found[0].compared == 4
    assert query(catalog, "select keeper from duplicates where clip_id = 'folder/copy/a.mp4'") == [("folder/a.mp4",)]


def test_clips_that_are_not_asked_about_are_not_seen(scanned: Path, clips: Path, made: Recipe, tmp_path: Path, query: Query) -> None:
    catalog = shutil.copytree(scanned, tmp_path / "catalog")
    _dedup(catalog, clips, made, methods=("exact",), where="clip_id not like '%copy%'")
    assert query(catalog, "select clip_id from clips_wide where duplicate is null") == [("folder/copy/a.mp4",)]


@pytest.mark.parametrize("wrong", [{"near": 0.5}, {"near": -0.1}, {"semantic": 1.5}])
def test_what_cannot_be_alike_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(CallError, match=r"dedup: got .*wanted near from 0 to under 0\.5.*--set dedup\.near=0\.16"):
        Comparing(**wrong)
