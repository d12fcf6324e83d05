"""Rows of captions say who wrote the text."""

from catalogs.tables import TABLES
from pipelines.record import caption_row
from vapdata.clip import Author, Caption

AUTHOR = Author(model_id="m", revision="r", prompt_version="long-1")


def test_a_models_caption_carries_its_author_and_what_it_took() -> None:
    row = caption_row("d/a", Caption(text="A dog.", captioner="qwen_vl", role="long", author=AUTHOR, frames_used=8, tokens=3, seconds=0.5), "s")
    told = {name: row[name] for name in ("model_id", "revision", "prompt_version", "frames_used", "tokens", "seconds")}
    assert told == {"model_id": "m", "revision": "r", "prompt_version": "long-1", "frames_used": 8, "tokens": 3, "seconds": 0.5}
    assert set(row) <= {column.name for column in TABLES["captions"].columns}


def test_a_datasets_caption_has_none_of_these() -> None:
    row = caption_row("d/a", Caption(text="A dog.", captioner="source", role="source"), "s")
    assert [row[name] for name in ("model_id", "revision", "prompt_version", "frames_used", "tokens", "seconds")] == [None] * 6
