"""Copies of one video are one content: by frames that are equal, by file and thumbnail, by a list that somebody made."""

import contextlib

import pytest
from catalog_samples import clip, video

from catalogs.duplicates import join_duplicates
from catalogs.pairs import contents_sql
from catalogs.queries import connect
from catalogs.store import Catalog

THUMB = {"model_id": "pillow", "revision": "1", "settings_sha256": "0", "dtype": "webp", "shape": [1, 1, 3], "shard": "d-000000", "product": "thumb-256"}


def _thumbs(catalog: Catalog, pictures: dict[str, bytes]) -> None:
    file = catalog.write_tensors("thumb-256", "d-000000", 0, [(f"d/{name}", data) for name, data in pictures.items()])
    catalog.append({"frames": [{**THUMB, "clip_id": f"d/{name}", "file": file, "row_group": number} for number, name in enumerate(pictures)]})


def _contents(catalog: Catalog, listed: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    with contextlib.closing(connect(catalog)) as con:
        if listed:
            con.execute("create or replace temp table duplicates (clip_id varchar, keeper varchar)")
            con.executemany("insert into duplicates values (?, ?)", [list(each) for each in listed])
        con.execute(f"create temp table contents as {contents_sql('clips')}")
        join_duplicates(catalog, con, "contents")
        return {name: content.replace("\x1f", "/") for name, content in con.execute("select clip_id, content from contents order by 1").fetchall()}


def test_files_of_one_size_with_one_thumbnail_are_one_content(empty: Catalog) -> None:
    names = ("a", "b", "c", "e")
    sizes = {"a": 100, "b": 100, "c": 100, "e": 101}
    empty.append({"videos": [video(name, bytes=sizes[name]) for name in names], "clips": [clip(name) for name in names]})
    _thumbs(empty, {"a": b"one", "b": b"one", "c": b"other", "e": b"one"})
    assert _contents(empty) == {"d/a": "d/a", "d/b": "d/a", "d/c": "d/c", "d/e": "d/e"}


def test_equal_first_pictures_of_clips_of_other_length_are_no_copies(empty: Catalog) -> None:
    empty.append({"videos": [video("a", bytes=100), video("b", bytes=100)], "clips": [clip("a"), clip("b", frames=47)]})
    _thumbs(empty, {"a": b"one", "b": b"one"})
    assert _contents(empty) == {"d/a": "d/a", "d/b": "d/b"}


@pytest.mark.parametrize("listed", [(("d/c", "d/b"), ("d/b", "d/a")), (("d/a", "d/c"), ("d/b", "d/c"))])
def test_a_list_of_near_duplicates_is_believed_and_chains_are_followed(empty: Catalog, listed: tuple[tuple[str, str], ...]) -> None:
    names = ("a", "b", "c", "e")
    empty.append({"videos": [video(name) for name in names], "clips": [clip(name) for name in names]})
    assert _contents(empty, listed) == {"d/a": "d/a", "d/b": "d/a", "d/c": "d/a", "d/e": "d/e"}


def test_a_made_video_has_the_content_of_what_it_was_made_from(empty: Catalog) -> None:
    videos = [video("a"), video("b", parent_clip_id="d/a"), video("c", parent_clip_id="d/b"), video("lost", parent_clip_id="d/gone")]
    empty.append({"videos": videos, "clips": [clip(name) for name in ("a", "b", "c", "lost")]})
    assert _contents(empty) == {"d/a": "d/a", "d/b": "d/a", "d/c": "d/a", "d/lost": "d/lost"}
