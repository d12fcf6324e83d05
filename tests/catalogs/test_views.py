"""Views show the newest rows, `failures` what still stands, `clips_wide` a column per filter."""

from contextlib import closing
from typing import Any

import duckdb
import pyarrow as pa
from catalog_samples import caption, clip, failure, latent, score, video

from catalogs.newest import NO_TEXT_SHA256
from catalogs.store import Catalog
from catalogs.verify import verify
from catalogs.views import connect


def _ask(catalog: Catalog, sql: str) -> list[tuple[Any, ...]]:
    with closing(connect(catalog)) as connection:
        return connection.execute(sql).fetchall()


def test_clips_wide_has_a_number_per_value_filter_and_a_list_per_label_filter(filled: Catalog) -> None:
    filled.append({"scores": [score("b", "camera", 0.2, "zoom")], "clips": [clip("c")]})
    rows = _ask(filled, "select clip_id, motion, camera from clips_wide order by clip_id")
    assert rows == [("d/a", 1.0, None), ("d/b", 6.0, ["zoom"]), ("d/c", None, None)]


def test_a_filter_called_like_a_column_of_clips_gets_another_name(filled: Catalog) -> None:
    filled.append({"scores": [score("a", "fps", 7.0)]})
    assert _ask(filled, "select fps, fps_score from clips_wide where clip_id = 'd/a'") == [(24.0, 7.0)]


def test_clips_wide_without_scores_is_clips(empty: Catalog) -> None:
    empty.append({"clips": [clip("a")]})
    assert _ask(empty, "select clip_id from clips_wide") == [("d/a",)]


def test_many_files_show_the_newest_row_of_each_key_once(empty: Catalog) -> None:
    for number in range(5):
        empty.append({"captions": [caption("a", f"text {number}"), caption(f"n{number}", "x")]})
    rows = _ask(empty, "select clip_id, text from captions order by clip_id")
    assert rows == [("d/a", "text 4"), *((f"d/n{number}", "x") for number in range(5))]


def test_failures_hide_what_has_succeeded_since(filled: Catalog) -> None:
    filled.append(
        {
            "failures": [
                failure("plan", video_id="d/late", permanent=False),
                failure("scan", video_id="d/late"),
                failure("motion", video_id="d/late", clip_id="d/late"),
                failure("source", video_id="d/late", clip_id="d/late"),
                failure("vae", video_id="d/late", clip_id="d/late"),
                failure("plan", message="table.csv:3"),
                failure("plan", message="table.csv:4"),
            ]
        }
    )
    assert _ask(filled, "select count(*) from failures") == [(8,)]
    filled.append({"videos": [video("late")]})
    assert "plan" not in [step for (step,) in _ask(filled, "select step from failures where video_id = 'd/late'")]
    filled.append({"clips": [clip("late")]})
    filled.append({"scores": [score("late", "motion", 1.0)], "captions": [caption("late", "x")]})
    assert _ask(filled, "select step from failures where video_id = 'd/late'") == [("vae",)]
    digest = filled.claim("vae-9x96x160", {"frames": 9, "fps": 8.0, "short": "reject"})
    filled.append({"latents": [latent(filled, "late", "tensors/x.parquet", 0, digest)]})
    assert _ask(filled, "select video_id, message from failures order by all") == [
        ("d/broken", "cannot be read"),
        (None, "table.csv:3"),
        (None, "table.csv:4"),
    ]
    assert _ask(filled, "select count(*) from all_failures") == [(8,)]


def test_a_failure_that_came_with_the_row_or_after_it_stands(filled: Catalog) -> None:
    filled.append({"videos": [video("half")], "clips": [clip("half", truncated=True)], "failures": [failure("scan", video_id="d/half")]})
    assert ("d/half",) in _ask(filled, "select video_id from failures")
    filled.append({"failures": [failure("scan", video_id="d/half", attempts=2)]})
    assert _ask(filled, "select attempts from failures where video_id = 'd/half'") == [(2,)]


def _told(catalog: Catalog) -> list[tuple[Any, ...]]:
    return _ask(catalog, "select clip_id, captioner, text_sha256 = sha256('') as empty from texts where clip_id is not null order by all")


def test_what_was_made_from_a_caption_that_was_taken_away_is_gone_and_merged_away(filled: Catalog) -> None:
    """A step that makes nothing of an empty text leaves no newer row: the caption itself must tell."""
    row = next(row for row in filled.read("texts").to_pylist() if row["clip_id"] == "d/a")
    assert _told(filled) == [("d/a", "source", False), ("d/b", "source", False)]
    filled.append({"captions": [caption("a", "")]})
    assert [finding.check for finding in verify(filled)] == []
    assert _told(filled) == [("d/b", "source", False)] == [tuple(each.values()) for each in _plain(filled.read("texts"))]
    filled.append({"captions": [caption("a", "a red circle")]})
    assert _told(filled) == [("d/a", "source", False), ("d/b", "source", False)], "it came back: nothing has to be made anew"
    filled.append({"captions": [caption("a", "")]})
    assert filled.merge() == ["captions", "texts"]
    assert duckdb.sql(f"select clip_id from '{filled.files.address('texts')}/*.parquet'").fetchall() == [("d/b",)]
    assert filled.merge() == []
    filled.append({"texts": [{**row, "text_sha256": NO_TEXT_SHA256}]})
    assert _told(filled) == [("d/a", "source", True), ("d/b", "source", False)], "made from the empty text, which is there"


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    return [{"clip_id": row["clip_id"], "captioner": row["captioner"], "empty": row["text_sha256"] == NO_TEXT_SHA256} for row in table.to_pylist()]
