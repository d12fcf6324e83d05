"""The main job on Ray, on synthetic videos: what is made, what is made again, and what is not."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.prepare import Request, build
from pipelines.recipes import Recipe, recipe, with_settings
from pipelines.summary import Summary
from vapdata.errors import CallError, CatalogLocked, RunError
from vapdata.sources.folder import Folder

pytestmark = pytest.mark.slow

Build = Callable[..., Summary]
Query = Callable[[Path, str], list[tuple]]
TENSORS = ("frames", "masks", "latents", "texts")


def tensor_files(catalog: Path) -> dict[str, int]:
    return {str(path.relative_to(catalog)): path.stat().st_mtime_ns for path in catalog.glob("tensors/**/*.parquet")}


def folder_of(videos: Path, root: Path, names: list[str], captions: str | None = None) -> Folder:
    root.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(videos / name, root / Path(name).name)
    if captions is not None:
        (root / "captions.csv").write_text(captions)
    return Folder(root=str(root))


OWN = """
import dataclasses, os, time
from dataclasses import dataclass
from typing import ClassVar
from pipelines.recipes import Recipe, recipe, with_settings
from vapdata.clip import Score

class Meter:
    def __init__(self, clip):
        self.clip = clip
    def add(self, frame, time_s):
        pass
    def finish(self):
        {body}
        return [Score(filter="own", value=1.0)]

@dataclass(frozen=True, kw_only=True)
class Own:
    name: ClassVar[str] = "own"
    fps: float = 0.0
    def writes(self):
        return {{"own": "value"}}
    def open(self):
        return Meter

def make():
    made = recipe("tiny")
    return dataclasses.replace(made, name="own", scan=(*made.scan, Own()))
"""


def own_recipe(folder: Path, body: str) -> Recipe:
    """The tiny recipe with a filter of a user's own, from a file of a user's own."""
    (folder / "own.py").write_text(OWN.format(body=body))
    return recipe(f"{folder / 'own.py'}:make")


@pytest.fixture(scope="session")
def mp4s(videos: Path) -> list[str]:
    return sorted(str(path.relative_to(videos)) for path in videos.rglob("*.mp4"))


def test_a_build_makes_every_product_of_the_recipe_for_every_kept_clip(built: Path, query: Query) -> None:
    clips = query(built, "select count(*) from clips")[0][0]
    kept = query(built, "select count(distinct clip_id) from latents")[0][0]
    assert clips >= 8
    assert kept > 0
    for product in recipe("tiny").products():
        rows = query(built, f"select count(*) from {product.table} where product = '{product.name}' and clip_id is not null")[0][0]
        told = query(built, "select count(*) from clips where whole")[0][0]
        assert rows == (told if product.table == "masks" else kept), product.name
    assert query(built, "select distinct role from texts where clip_id is null order by role") == [("empty",), ("negative",)]
    assert query(built, "select count(*) from frames where product = 'thumb-256'")[0][0] == clips


def test_a_built_catalog_keeps_its_promises(built: Path) -> None:
    assert verify(Catalog.open(str(built))) == []


def test_a_plain_glob_answers_without_this_project(built: Path, query: Query) -> None:
    plain = duckdb.connect().execute(f"select count(*), count(distinct clip_id) from '{built}/clips/*.parquet'").fetchone()
    assert plain == (query(built, "select count(*) from clips")[0][0],) * 2


def test_a_summary_adds_up(built: Path, build_here: Build, tmp_path: Path) -> None:
    catalog = shutil.copytree(built, tmp_path / "catalog")
    summary = build_here(catalog, where="motion > 1")
    clips = summary.clips
    assert clips["clips"] == clips["kept"] + clips["too_short"] + clips["not_selected"] + clips["failed"] + clips["to_do"]
    assert sum(summary.videos.values()) == 8
    assert any("kept" in line for line in summary.lines())


def test_a_run_with_nothing_to_do_imports_no_ray_and_changes_no_tensor(built: Path, synthetic: object, tmp_path: Path) -> None:
    catalog = shutil.copytree(built, tmp_path / "catalog")
    before = tensor_files(catalog)
    code = (
        "import sys; from pipelines.prepare import Request, build; from pipelines.recipes import recipe; "
        "from vapdata.sources.synthetic import Synthetic; "
        f"summary = build(Request(source=Synthetic(root={synthetic.root!r}, count=8), catalog={str(catalog)!r}, recipe=recipe('tiny'))); "
        "assert summary.stage_seconds == {}, summary.stage_seconds; print('ray' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
    assert tensor_files(catalog) == before


def test_a_build_in_this_process_imports_no_ray_and_makes_the_same_catalog(built: Path, synthetic: object, tmp_path: Path, assert_equal_catalogs: Callable) -> None:
    code = (
        "import sys; from pipelines.prepare import HERE, Request, build; from pipelines.recipes import recipe; "
        "from vapdata.sources.synthetic import Synthetic; shown = []; "
        f"request = Request(source=Synthetic(root={synthetic.root!r}, count=8), catalog={str(tmp_path / 'catalog')!r}, recipe=recipe('tiny'), address=HERE); "
        "build(request, show=lambda total, done, failed: shown.append((dict(total), dict(done)))); print('ray' in sys.modules, shown[-1][0] == shown[-1][1])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "True"], "no Ray, and the last progress is the whole"
    assert_equal_catalogs(built, tmp_path / "catalog")


def test_a_moved_predicate_encodes_only_what_is_new(build_here: Build, tmp_path: Path, assert_equal_catalogs: Callable, query: Query) -> None:
    build_here(tmp_path / "one", where="motion > 1")
    build_here(tmp_path / "two", where="motion > 3.5")
    first = tensor_files(tmp_path / "two")
    few = query(tmp_path / "two", "select count(*) from masks")[0][0]
    build_here(tmp_path / "two", where="motion > 1")
    assert_equal_catalogs(tmp_path / "one", tmp_path / "two")
    many = query(tmp_path / "two", "select count(*) from masks")[0][0]
    assert 0 < few < many
    assert first.items() <= tensor_files(tmp_path / "two").items()


def test_a_dataset_that_arrives_in_parts_equals_one_that_was_there(
    build_here: Build, videos: Path, mp4s: list[str], tmp_path: Path, assert_equal_catalogs: Callable
) -> None:
    source = folder_of(videos, tmp_path / "root", mp4s[:3])
    build_here(tmp_path / "parts", source=source)
    folder_of(videos, tmp_path / "root", mp4s[3:5])
    build_here(tmp_path / "parts", source=source)
    build_here(tmp_path / "whole", source=source)
    assert_equal_catalogs(tmp_path / "parts", tmp_path / "whole", ignore=("shard",))


def test_a_changed_caption_makes_its_texts_and_masks_anew_and_nothing_else(
    build_here: Build, videos: Path, mp4s: list[str], tmp_path: Path, query: Query
) -> None:
    names = [Path(name).name for name in mp4s[:3]]
    rows = "".join(f"{name},a clip called {name}\n" for name in names)
    source = folder_of(videos, tmp_path / "root", mp4s[:3], captions="file,caption\n" + rows)
    catalog = tmp_path / "catalog"
    build_here(catalog, source=source)
    places = "select product, clip_id, file, row_group, text_sha256 from {} where clip_id is not null and product <> 'thumb-256'"
    before = {table: set(query(catalog, places.format(table).replace(", text_sha256", "" if table in ("texts", "masks") else ", null"))) for table in TENSORS}
    whole = query(catalog, "select clip_id from clips where whole order by 1")
    changed = whole[0][0].partition("/")[2]
    (tmp_path / "root" / "captions.csv").write_text("file,caption\n" + rows.replace(f"a clip called {changed}", "another text"))
    build_here(catalog, source=source)
    after = {table: set(query(catalog, places.format(table).replace(", text_sha256", "" if table in ("texts", "masks") else ", null"))) for table in TENSORS}
    assert before["latents"] == after["latents"]
    assert before["frames"] == after["frames"]
    for table in ("texts", "masks"):
        assert {row[1] for row in before[table] ^ after[table]} == {whole[0][0]}
    assert query(catalog, f"select text from captions where clip_id = '{whole[0][0]}'") == [("another text",)]
    assert verify(Catalog.open(str(catalog))) == []
    # Taken away, it leaves no mask, and the embedding of the empty text.
    (tmp_path / "root" / "captions.csv").write_text("file,caption\n" + "".join(line for line in rows.splitlines(keepends=True) if changed not in line))
    build_here(catalog, source=source)
    masked = duckdb.sql(f"select distinct clip_id from '{catalog}/masks/*.parquet'").fetchall()
    assert sorted(masked) == sorted({(row[1],) for row in after["masks"]} - {whole[0]})
    hashed = query(catalog, f"select distinct text_sha256 = sha256('') from texts where clip_id = '{whole[0][0]}'")
    assert hashed == [(True,)]
    assert verify(Catalog.open(str(catalog))) == []


def test_a_filter_that_kills_its_process_costs_one_clip(build_tiny: Build, tmp_path: Path, query: Query) -> None:
    made = own_recipe(tmp_path, "if '00003' in self.clip.clip_id: os._exit(1)")
    summary = build_tiny(tmp_path / "catalog", recipe=made)
    assert summary.videos == {"scanned": 7, "failed": 1, "to_do": 0}
    failures = query(tmp_path / "catalog", "select video_id, step, error, permanent from failures")
    assert len(failures) == 1
    assert "00003" in failures[0][0]
    assert failures[0][1:] == ("scan", "WorkerDied", True)
    assert query(tmp_path / "catalog", "select count(distinct video_id) from latents join clips using (clip_id)") == [(7,)]


def test_encoding_begins_before_scanning_ends(build_tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: Query) -> None:
    from pipelines.commit import Committer

    told = tmp_path / "a clip is encoded"
    wait = f"""
        for _ in range(2400):
            if "00007" not in self.clip.clip_id or os.path.exists({str(told)!r}):
                break
            time.sleep(0.1)
        else:
            raise TimeoutError("four minutes went by, and no clip was encoded")
    """
    consume = Committer.consume

    def tell(run: object, stream: object) -> None:
        consume(run, (("encode" in record.spans and told.touch()) or record for record in stream))

    monkeypatch.setattr(Committer, "consume", tell)
    build_tiny(tmp_path / "catalog", recipe=own_recipe(tmp_path, wait.strip()))
    assert query(tmp_path / "catalog", "select * from failures") == []
    assert query(tmp_path / "catalog", "select count(*) from clips_wide where own is not null and clip_id like '%00007%'") == [(1,)]


def test_a_predicate_over_the_whole_catalog_waits_for_the_scan(build_here: Build, tmp_path: Path, query: Query) -> None:
    where = "motion >= (select quantile_cont(motion, 0.5) from clips_wide)"
    build_here(tmp_path / "catalog", where=where)
    counts = query(tmp_path / "catalog", "select count(*), count(*) filter (motion is not null) from clips_wide")[0]
    kept = query(tmp_path / "catalog", "select count(distinct clip_id) from masks")[0][0]
    assert 0 < kept < counts[1]


def test_a_second_build_is_told_who_holds_the_catalog(built: Path, build_here: Build, tmp_path: Path) -> None:
    catalog = shutil.copytree(built, tmp_path / "catalog")
    with Catalog.open(str(catalog)).lock("vapdata build --first"), pytest.raises(CatalogLocked, match="vapdata build --first"):
        build_here(catalog)


def test_a_second_root_under_one_name_is_refused(built: Path, build_here: Build, mp4s: list[str], videos: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog"
    build_here(catalog, source=folder_of(videos, tmp_path / "one", mp4s[:1]))
    with pytest.raises(CallError, match="--name"):
        build_here(catalog, source=folder_of(videos, tmp_path / "two", mp4s[1:2]))


def test_other_settings_under_one_product_name_are_refused(built: Path, build_here: Build, tmp_path: Path) -> None:
    catalog = shutil.copytree(built, tmp_path / "catalog")
    made = recipe("tiny")
    crop = dataclasses.replace(made.sampling, resize="crop")
    with pytest.raises(RunError, match="crop"):
        build_here(catalog, recipe=with_settings(made, [("sampling", "resize", crop.resize)]))


def test_limit_plans_the_first_and_a_later_run_adds_the_rest(build_here: Build, built: Path, tmp_path: Path, assert_equal_catalogs: Callable, query: Query) -> None:
    build_here(tmp_path / "catalog", limit=3)
    assert query(tmp_path / "catalog", "select count(*) from videos") == [(3,)]
    build_here(tmp_path / "catalog")
    assert_equal_catalogs(built, tmp_path / "catalog", ignore=("shard",))


def test_a_wrong_predicate_or_root_is_told_before_anything_is_written(synthetic: object, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="motoin"):
        build(Request(source=synthetic, catalog=str(tmp_path / "catalog"), recipe=recipe("tiny"), where="motoin > 1"))
    with pytest.raises(CallError, match="nowhere"):
        build(Request(source=Folder(root=str(tmp_path / "nowhere")), catalog=str(tmp_path / "catalog"), recipe=recipe("tiny")))
    assert not (tmp_path / "catalog").exists()
