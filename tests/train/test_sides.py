"""Keywords in batches: clips with different numbers of them side by side, none where the caption was dropped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import Hand, hand_made

from catalogs.store import Catalog
from train.backbones import load_backbone
from train.batch import Reads
from train.data import Loader
from train.denoise import Guidance, _Branches
from train.index import Index, build_index
from train.objective import Flow
from vapdata.backbones import backbone
from vapdata.errors import CallError, CatalogDamaged

WAN = backbone("tiny-wan")
READS = Reads(keywords=True)
HANDS = [Hand(name="none"), Hand(name="one", keywords=1), Hand(name="three", keywords=3, tokens=9), Hand(name="untold", caption=None)]
PREFIX = "tiny-clip-xlm-keywords"


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Clips of 0, 1 and 3 keywords, and one without a caption."""
    return build_index(hand_made(tmp_path / "c", WAN, HANDS), WAN, READS, method="fg")


def backbone_of() -> Any:
    return load_backbone(WAN, dtype=torch.float32, device=torch.device("cpu"))


def loader(index: Index, **more: Any) -> Loader:
    return Loader(index, WAN, Flow(), **{"seed": 0, "global_batch": 3, "micro_batch": 3, **more})


def stored(index: Index, part: str, clip: str) -> torch.Tensor:
    catalog, product = Catalog.open(index.catalog), index.of(f"keyword_{part}").name
    (row,) = [row for row in catalog.read("features").to_pylist() if (row["product"], row["clip_id"]) == (product, clip)]
    return torch.from_numpy(catalog.read_tensor(row, check=True).astype(np.float32))


def test_clips_with_different_numbers_of_keywords_lie_side_by_side_with_zeros_below(index: Index) -> None:
    side = loader(index).side(["none", "one", "three"])
    assert side.keyword_mask.tolist() == [[False] * 3, [True, False, False], [True] * 3]
    assert side.keyword_maps.shape == (3, 3, 16, 16) and side.keyword_anchors.shape == (3, 3, 6) and side.keyword_spans.shape == (3, 3, 2)
    assert side.keyword_spans[2].tolist() == [[0, 1], [1, 2], [2, 3]], "rows of the text; characters are left out"
    for part, made in (("maps", side.keyword_maps), ("anchors", side.keyword_anchors)):
        assert torch.equal(made[2], stored(index, part, "three")) and torch.equal(made[1, :1], stored(index, part, "one"))
        assert not made[0].any() and not made[1, 1:].any()


def test_a_batch_is_as_wide_as_its_own_widest_clip(index: Index) -> None:
    assert loader(index).side(["none", "one"]).keyword_mask.shape == (2, 1)
    alone = loader(index).side(["none"])
    assert alone.keyword_maps.shape == (1, 0, 16, 16) and alone.keyword_mask.shape == (1, 0)


def test_a_dropped_caption_takes_its_keywords_along(index: Index) -> None:
    (dropped,) = loader(index, caption_drop=1.0).step(0).micro
    assert dropped.target.keyword_mask.shape == (3, 0) and dropped.target.keyword_anchors.shape == (3, 0, 6)
    made = loader(index, caption_drop=0.5, micro_batch=1)
    told = {batch.target.clip_ids[0]: batch.target for step in range(8) for batch in made.step(step).micro if batch.target.clip_ids[0] == "three"}
    assert told
    for step in range(8):
        for batch in made.step(step).micro:
            counts = {"none": 0, "one": 1, "three": 3}[batch.target.clip_ids[0]]
            is_empty = bool(batch.target.text_mask.sum() == 1)
            assert int(batch.target.keyword_mask.sum()) == (0 if is_empty else counts)


def test_the_negative_prompt_has_no_keywords_and_nothing_changes_its_shape(index: Index) -> None:
    side = loader(index).side(["one", "three"])
    branches = _Branches(None, backbone_of(), side, (), loader(index).prompt("negative", side), Guidance(scale=5.0))
    assert branches.target.keyword_mask.tolist() == [[False] * 3, [False] * 3, [True, False, False], [True] * 3], "negative first"
    assert torch.equal(branches.target.keyword_anchors[:2], side.keyword_anchors)
    assert side.keyword_mask.sum() == 4
    plain = replace(side, keyword_mask=None)
    assert plain.without_keywords() is plain


def test_a_clip_without_a_caption_is_left_out_and_counted(index: Index) -> None:
    assert dict(index.left_out) == {"no caption": 1} and len(index.samples) == 3


def test_hunyuan_has_keywords_of_its_own_rows(tmp_path: Path) -> None:
    facts = backbone("tiny-hunyuan")
    index = build_index(hand_made(tmp_path / "c", facts, HANDS), facts, READS, method="fg")
    assert index.of("keyword_spans").name == f"{PREFIX}-spans-stretch-32x32-llava-i4"
    assert Loader(index, facts, Flow(), seed=0, global_batch=1, micro_batch=1).side(["three"]).keyword_mask.sum() == 3


def test_keywords_of_another_text_than_the_one_that_is_read_are_refused(tmp_path: Path, change: Callable[..., int]) -> None:
    hand_made(tmp_path / "c", WAN, HANDS)
    other = {"captioner": "model", "role": "long"}
    change(tmp_path / "c", "captions", lambda row: row | other | {"text": "other words", "text_sha256": "f" * 64} if row["clip_id"] == "one" else None)
    change(tmp_path / "c", "features", lambda row: row | other | {"text_sha256": "f" * 64} if row["clip_id"] == "one" and "keywords" in row["product"] else None)
    said = r"-spans-stretch-32x32 in .*: 1 clips have keywords of model/long, and the embeddings of source/source are read\. Type --set run\.caption=model/long"
    with pytest.raises(CallError, match=said):
        build_index(Catalog.open(tmp_path / "c"), WAN, READS, method="fg")


def test_keywords_of_a_caption_that_has_changed_are_stale(tmp_path: Path, change: Callable[..., int]) -> None:
    hand_made(tmp_path / "c", WAN, HANDS)
    change(tmp_path / "c", "features", lambda row: row | {"text_sha256": "f" * 64} if row["clip_id"] == "one" and "keywords" in row["product"] else None)
    with pytest.raises(CallError, match=rf"1 of 4 clips have {PREFIX}-maps-stretch-32x32 of a caption that has changed since \(first: one\)"):
        build_index(Catalog.open(tmp_path / "c"), WAN, READS, method="fg")


def poke(index: Index, role: str, value: np.ndarray) -> None:
    """Overwrites the tensor of the clip `three` from its beginning."""
    place = index.place(role, index.number("three"))
    with open(Path(index.catalog) / place.file, "r+b") as file:
        file.seek(place.start)
        file.write(value.tobytes())


def test_damaged_keywords_are_named(index: Index) -> None:
    poke(index, "keyword_spans", np.array([0, 1, 0, 513], np.float32))
    with pytest.raises(CatalogDamaged, match=r"\(clip three\) of .*-spans-.*: a keyword ends at row 513, texts have 512"):
        loader(index).check()
    poke(index, "keyword_spans", np.array([0, 1, 0, 1], np.float32))
    loader(index).check()
    poke(index, "keyword_maps", np.array([np.nan], np.float16))
    with pytest.raises(CatalogDamaged, match=r"\(clip three\) of .*-maps-.*: 1 of 768 numbers are NaN or infinite"):
        loader(index).check()


def test_maps_anchors_and_spans_of_different_numbers_of_keywords_are_refused(tmp_path: Path, change: Callable[..., int]) -> None:
    hand_made(tmp_path / "c", WAN, HANDS)
    change(tmp_path / "c", "features", lambda row: row | {"shape": [2, 6]} if row["clip_id"] == "three" and "anchors" in row["product"] else None)
    index = build_index(Catalog.open(tmp_path / "c"), WAN, READS, method="fg")
    with pytest.raises(CatalogDamaged, match=r"-anchors-stretch-32x32 has 2 keywords, .*-maps-stretch-32x32 3"):
        loader(index).side(["three"])
