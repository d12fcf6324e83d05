"""Clustering over a catalog: real embeddings of a tiny CLIP, members under names of their captions, pairs that keep the law."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines import backfill as filling
from pipelines.prepare import in_process
from pipelines.recipes import recipe
from pipelines.synthesize import Request, synthesize
from vapdata.conditions.clustered import Clustered
from vapdata.errors import CallError
from vapdata.filters.embedding import Embedding

Query = Callable[[Path, str], list[tuple]]


def _paired(catalog: Path, **settings: object) -> object:
    return synthesize(Request(catalog=str(catalog), providers=(Clustered(**settings),)))


def test_without_embeddings_the_call_says_what_to_type(places: tuple[Path, Path, str]) -> None:
    with pytest.raises(CallError, match="clips have no embeddings.*Type vapdata backfill embedding"):
        _paired(places[0])
    with pytest.raises(CallError, match="no clip has 'embedding-x'; there is no embedding"):
        _paired(places[0], embedding="embedding-x")


@pytest.mark.slow
def test_clips_are_members_of_what_looks_and_captions_agree_on(places: tuple[Path, Path, str], tmp_path: Path, query: Query) -> None:
    catalog = Path(shutil.copytree(places[0], tmp_path / "catalog"))
    fill = filling.Request(catalog=str(catalog), steps=(Embedding(model="tiny-cogvideox"),), recipe=recipe(places[2]), roots={"synthetic": str(places[1])}, where="true")
    assert filling.backfill(fill, runner=in_process).done == {"embedding": 7}, "six videos, one with a cut"
    settings = {"clusters": 2, "least_z": 0.1, "least_share": 0.3}
    summary = _paired(catalog, **settings)
    members = query(catalog, "select clip_id, condition, score, text from conditions join captions using (clip_id) where provider = 'clustered' and captioner = 'source'")
    assert members, "six clips whose captions differ, in two clusters"
    for _, condition, score, text in members:
        words = condition.removeprefix("looks_").split("_")
        shown = sum(word in text.lower() for word in words)
        assert score == pytest.approx(70.0 * shown / len(words)) and shown
    assert verify(Catalog.open(catalog)) == []
    again = _paired(catalog, **settings)
    assert again.unchanged == ("clustered",) and [each.generation for each in again.paired] == [each.generation for each in summary.paired]
