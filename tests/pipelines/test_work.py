"""What is left to do, in small catalogs whose rows are written by hand."""

from pathlib import Path

import pytest

from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.recipes import recipe
from pipelines.work import CONSTANTS, FATES, MAX_ATTEMPTS, choose_caption, clip_counts, needs, shards_with_work
from vapdata.clip import Caption

TINY = recipe("tiny")
KINDS = {"motion": "value"}


def video(name: str) -> dict:
    return {"video_id": f"d/{name}", "dataset": "d", "source": "folder", "name": name, "uri": name, "shard": "d-000000", "split": "train", "split_group": "g"}


def clip(name: str, end_s: float = 2.0) -> dict:
    facts = {"frames": 20, "fps": 10.0, "width": 64, "height": 64, "codec": "h264", "whole": True, "truncated": False}
    return {"clip_id": f"d/{name}", "video_id": f"d/{name}", "source": "d", "shard": "d-000000", "split": "train", "start_s": 0.0, "end_s": end_s, **facts}


def caption(name: str, text: str) -> dict:
    told = Caption(text=text, captioner="source", role="source")
    return {"clip_id": f"d/{name}", "shard": "d-000000", "captioner": "source", "role": "source", "text": text, "text_sha256": told.text_sha256}


def made(table: str, name: str, product: str, **more: object) -> dict:
    place = {"model_id": "m", "revision": "r", "settings_sha256": "s", "dtype": "f32", "shape": [1], "file": "f", "row_group": 0}
    return {"clip_id": f"d/{name}", "shard": "d-000000", "product": product, **place, **more}


def failure(name: str, step: str, *, permanent: bool, attempts: int = 1, whole_video: bool = False) -> dict:
    ids = {"video_id": f"d/{name}", "clip_id": None if whole_video else f"d/{name}"}
    return {"shard": "d-000000", **ids, "step": step, "error": "E", "message": "m", "attempts": attempts, "permanent": permanent}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    opened = Catalog.open(str(tmp_path), create=True)
    for encoder in TINY.encoders:
        for product in encoder.products():
            opened.claim(product.name, product.settings, step=encoder.name)
    return opened


def append(catalog: Catalog, **rows: list[dict]) -> None:
    with catalog.lock("test"):
        catalog.append(rows)


def left(catalog: Catalog, where: str = "true", only: list[str] | None = None) -> tuple[set[str], dict[str, set[str]]]:
    """(videos to scan, products to make by clip), without the rows that belong to no clip."""
    with connect(catalog) as con:
        works = [work for work in shards_with_work(con, "d", TINY, where, KINDS, only=only) if work.shard != CONSTANTS]
    videos = {row["name"] for work in works for row in work.videos}
    return videos, {each.clip["clip_id"]: set(each.products) for work in works for each in work.todo}


@pytest.mark.slow
def test_a_planned_video_without_clips_is_to_be_scanned(catalog: Catalog) -> None:
    append(catalog, videos=[video("a"), video("b")], clips=[clip("a")])
    assert left(catalog)[0] == {"b"}
    assert left(catalog, only=["d/a"])[0] == set()


@pytest.mark.slow
def test_a_video_that_failed_for_good_or_too_often_is_left_alone_until_its_file_changes(catalog: Catalog) -> None:
    append(catalog, videos=[video(name) for name in "abcd"])
    failures = [
        failure("a", "scan", permanent=True, whole_video=True),
        failure("b", "scan", permanent=False, attempts=MAX_ATTEMPTS, whole_video=True),
        failure("c", "scan", permanent=False, attempts=1, whole_video=True),
    ]
    append(catalog, failures=failures)
    assert left(catalog)[0] == {"c", "d"}
    append(catalog, videos=[{**video("a"), "bytes": 7}])
    assert left(catalog)[0] == {"a", "c", "d"}


def test_a_scanned_clip_needs_every_product_and_a_mask_only_with_a_caption(catalog: Catalog) -> None:
    append(catalog, videos=[video("a"), video("b")], clips=[clip("a"), clip("b")], captions=[caption("a", "a cat")])
    todo = left(catalog)[1]
    every = {product.name for product in TINY.products()}
    masks = {product.name for product in TINY.products() if product.table == "masks"}
    assert todo == {"d/a": every, "d/b": every - masks}
    assert set(needs(TINY, None)) == every - masks


@pytest.mark.slow
def test_too_short_and_unselected_clips_need_nothing(catalog: Catalog) -> None:
    score = {"clip_id": "d/b", "shard": "d-000000", "filter": "motion", "value": 1.0, "by": "x"}
    append(catalog, videos=[video("a"), video("b")], clips=[clip("a", end_s=0.3), clip("b")], scores=[score])
    assert left(catalog, where="motion > 2")[1] == {}
    assert set(left(catalog, where="motion > 0.5")[1]) == {"d/b"}


@pytest.mark.slow
def test_a_row_made_from_another_text_is_stale(catalog: Catalog) -> None:
    old = Caption(text="old", captioner="source", role="source").text_sha256
    rows: dict[str, list[dict]] = {product.table: [] for product in TINY.products()}
    law = {"kind": "video", "pixel_frames": 9, "latent_frames": 3, "temporal_stride": 4, "first_alone": True, "has_logvar": False}
    for product in TINY.products():
        more = {"latents": law, "texts": {"length": 1}}.get(product.table, {})
        told = {"captioner": "source", "role": "source", "text_sha256": old} if product.reads_caption else {}
        rows[product.table].append(made(product.table, "a", product.name, **more, **told))
    append(catalog, videos=[video("a")], clips=[clip("a")], captions=[caption("a", "old")], **rows)
    assert left(catalog)[1] == {}
    append(catalog, captions=[caption("a", "new")])
    assert left(catalog)[1] == {"d/a": {product.name for product in TINY.products() if product.reads_caption}}


def test_a_clip_whose_step_failed_for_good_is_not_tried_by_that_step(catalog: Catalog) -> None:
    append(catalog, videos=[video("a")], clips=[clip("a")], captions=[caption("a", "a cat")])
    append(catalog, failures=[failure("a", "vae", permanent=True)])
    todo = left(catalog)[1]["d/a"]
    vae = {product.name for encoder in TINY.encoders if encoder.name == "vae" for product in encoder.products()}
    assert todo == {product.name for product in TINY.products()} - vae


@pytest.mark.slow
def test_counts_put_every_clip_into_one_fate(catalog: Catalog) -> None:
    score = {"clip_id": "d/b", "shard": "d-000000", "filter": "motion", "value": 1.0, "by": "x"}
    append(catalog, videos=[video(name) for name in "ab"], clips=[clip("a", end_s=0.3), clip("b")], scores=[score])
    with connect(catalog) as con:
        counts = clip_counts(con, "d", TINY, "motion > 0.5", KINDS)
        other = clip_counts(con, "d", TINY, "motion > 5", KINDS)
    assert counts == {"clips": 2, "kept": 0, "too_short": 1, "not_selected": 0, "failed": 0, "to_do": 1, "without_caption": 1}
    assert (other["not_selected"], other["to_do"]) == (1, 0)
    assert counts["clips"] == sum(counts[fate] for fate in FATES)


def test_the_preferred_caption_with_words_in_it_is_chosen() -> None:
    texts = [Caption(text=" ", captioner="source", role="source"), Caption(text="part", captioner="source", role="source_parent")]
    assert choose_caption(TINY, texts) is None
    assert choose_caption(TINY, [Caption(text="a cat", captioner="source", role="source"), *texts[1:]]).text == "a cat"
