"""What a run reads, resolved from real catalogs; everything that can be missing, in one sentence that says what to type."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hand_made import GRID, Hand, Tensors, hand_made, write

from catalogs.store import Catalog
from train.batch import Reads
from train.footers import located
from train.index import Index, Sample, build_index
from train.products import Grid, wanted_products
from vapdata.backbones import backbone
from vapdata.clip import Sampling
from vapdata.encoders import ENCODERS
from vapdata.errors import CallError, CatalogDamaged, RunError
from vapdata.registry import load

TINY = backbone("tiny-cogvideox")
PAIRS = Reads(text=True, first=1, references=1)
VIDEO = "tiny-cogvideox-vae-9x32x32-8fps"


def built(path: Path, reads: Reads = PAIRS, **more: Any) -> Index:
    return build_index(Catalog.open(path), TINY, reads, **{"method": "vap", **more})


def refused(path: Path, reads: Reads = PAIRS, error: type[Exception] = CallError, **more: Any) -> str:
    """The one sentence with which it is refused."""
    with pytest.raises(error) as raised:
        built(path, reads, **more)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def without(path: Path, table: str, gone: Callable[[dict[str, Any]], bool]) -> int:
    """Takes rows out of a table's files, as no command does. Returns how many."""
    count = 0
    for file in (path / table).glob("*.parquet"):
        rows = pq.read_table(file)
        kept = pa.array([not gone(row) for row in rows.to_pylist()], pa.bool_())
        count += pc.sum(pc.invert(kept)).as_py() or 0
        pq.write_table(rows.filter(kept), file)
    return count


# Samples


def test_without_references_every_selected_clip_is_a_sample_of_its_own_split(tiny_catalog: Path) -> None:
    index = built(tiny_catalog, Reads(first=1), method="full")
    clips = {row["clip_id"]: row["split"] for row in Catalog.open(tiny_catalog).read("clips").to_pylist()}
    assert {sample.target: sample.split for sample in index.samples} == clips
    assert [sample.target for sample in index.samples] == sorted(clips)
    assert (len(index.train), len(index.validation), index.validation_is_train) == (24, 4, False)
    assert (index.generation, dict(index.left_out), index.product) == (None, {}, VIDEO)
    assert all(sample.bucket == (16, 3, 4, 4) and sample.references == () for sample in index.samples)


def test_with_references_samples_are_the_targets_of_pairs_with_all_their_candidates(tiny_catalog: Path) -> None:
    index = built(tiny_catalog)
    pairs = Catalog.open(tiny_catalog).read("pairs").to_pylist()
    for sample in index.samples:
        mine = [row for row in pairs if row["target_clip_id"] == sample.target]
        assert sample.references == tuple(sorted(row["reference_clip_id"] for row in mine))
        assert ({row["split"] for row in mine}, {row["condition"] for row in mine}) == ({sample.split}, set(sample.conditions))
        assert sample.target not in sample.references
    assert (len(index.train), len(index.validation), index.generation) == (16, 4, "g1")
    assert {*index.train, *index.validation} == set(range(20))


def test_a_predicate_holds_on_both_sides_of_a_pair(tiny_catalog: Path) -> None:
    index = built(tiny_catalog, where="clip_id <> 'synthetic/shapes-00000.mp4'")
    assert all("synthetic/shapes-00000.mp4" not in (sample.target, *sample.references) for sample in index.samples)
    assert len(index.samples) == 19


def test_references_have_the_targets_latent_shape_and_splits_are_told_apart(tmp_path: Path) -> None:
    hands = [Hand(name=name) for name in ("a", "b", "c")] + [Hand(name="wide", shape=(16, 3, 4, 6)), Hand(name="v", split="validation")]
    pairs = [("k", "a", "b"), ("k", "wide", "b"), ("m", "c", "b"), ("k", "b", "a"), ("k", "a", "v"), ("k", "b", "b")]
    catalog = hand_made(tmp_path / "c", TINY, hands, pairs=pairs)
    with catalog.lock("pytest"):  # the condition m is held out whole
        rows = [row | {"split": "test"} for row in catalog.read("pairs").to_pylist() if row["condition"] == "m"]
        catalog.append({"pairs": [{name: value for name, value in row.items() if name not in ("run_id", "commit", "created_at")} for row in rows]})
    index = built(tmp_path / "c")
    shape = (16, 3, 4, 4)
    assert index.samples[:] == [
        Sample(target="a", split="train", bucket=shape, references=("b",), conditions=("k",)),
        Sample(target="b", split="test", bucket=shape, references=("c",), conditions=("m",)),
        Sample(target="b", split="train", bucket=shape, references=("a",), conditions=("k",)),
        Sample(target="v", split="validation", bucket=shape, references=("a",), conditions=("k",)),
    ]
    assert (index.train, index.validation) == ((0, 2), (3,))


def test_targets_with_too_few_references_are_left_out_and_counted(tiny_catalog: Path) -> None:
    index = built(tiny_catalog, Reads(references=3))
    assert all(len(sample.references) >= 3 for sample in index.samples)
    assert (len(index.samples), dict(index.left_out)) == (12, {"too few references": 8})


def test_without_a_validation_split_the_samples_of_training_are_evaluated(tiny_catalog: Path) -> None:
    index = built(tiny_catalog, where="split = 'train'")
    assert index.validation_is_train and index.validation == index.train


def test_a_log_variance_behind_the_mean_does_not_count_as_channels(tmp_path: Path) -> None:
    hand_made(tmp_path / "c", TINY, [Hand(name="a")], logvar=True)
    index = built(tmp_path / "c", Reads(first=1))
    assert (index.samples[0].bucket, index.place("video", 0).shape) == ((16, 3, 4, 4), (32, 3, 4, 4))


# Saving


def test_what_was_saved_is_loaded_and_has_the_same_fingerprint(tiny_catalog: Path, tmp_path: Path) -> None:
    index = built(tiny_catalog)
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    assert loaded.samples[:] == index.samples[:]
    for name in ("catalog", "backbone", "method", "where", "caption", "reads", "products", "generation", "left_out", "files", "fingerprint", "train", "validation"):
        assert getattr(loaded, name) == getattr(index, name), name
    for number in range(len(index.clip_ids)):
        assert all(loaded.place(role, number) == index.place(role, number) for role in ("video", "text", "first"))
    assert [loaded.place("text", loaded.constant(name)).clip_id for name in ("empty", "negative")] == [None, None]


@pytest.mark.slow
def test_the_fingerprint_changes_with_what_is_read_and_with_nothing_else(tiny_catalog: Path, fresh_catalog: Path) -> None:
    index = built(tiny_catalog)
    assert built(tiny_catalog).fingerprint == index.fingerprint
    assert built(fresh_catalog).fingerprint == index.fingerprint  # the same catalog at another address
    others = [built(tiny_catalog, Reads(first=1, references=2)), built(tiny_catalog, Reads(references=1)), built(tiny_catalog, where="clip_id > 'synthetic/shapes-00001.mp4'")]
    assert len({index.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_folder_without_an_index_or_with_a_damaged_one_is_one_sentence(tiny_catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="holds no index: no run has begun there"):
        Index.load(tmp_path)
    index = built(tiny_catalog)
    index.save(tmp_path / "i")
    table = pq.read_table(tmp_path / "i" / "samples.parquet")
    pq.write_table(table.slice(1), tmp_path / "i" / "samples.parquet")
    with pytest.raises(RunError, match=r"tables are not those that index\.json speaks of"):
        Index.load(tmp_path / "i")
    os.truncate(tmp_path / "i" / "samples.parquet", 10)
    with pytest.raises(RunError, match="the index cannot be read"):
        Index.load(tmp_path / "i")
    index.save(tmp_path / "old")
    (tmp_path / "old" / "index.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(CallError, match="of another version of this program"):
        Index.load(tmp_path / "old")


def test_a_clip_of_no_sample_is_refused_by_name(tiny_catalog: Path) -> None:
    with pytest.raises(CallError, match="clip d/x is in no sample of this run"):
        built(tiny_catalog).number("d/x")


# What is missing


def test_a_missing_product_is_named_with_the_step_and_the_command(tiny_catalog: Path) -> None:
    said = refused(tiny_catalog, Reads(first=1, references=1, image_tokens="wan"))
    assert "train.vap on tiny-cogvideox reads tiny-clip-h14-tokens-crop-32x32 (image_tokens)" in said
    assert f"image_tokens: vapdata build --source SOURCE --catalog {tiny_catalog} --recipe tiny-cogvideox" in said


def test_clips_without_a_product_are_counted_and_the_build_is_named(fresh_catalog: Path) -> None:
    first = "tiny-cogvideox-vae-first1-32x32"
    removed = without(fresh_catalog, "latents", lambda row: row["product"] == first and row["clip_id"] in ("synthetic/shapes-00003.mp4", "synthetic/shapes-00004.mp4"))
    assert removed == 2
    said = refused(fresh_catalog)
    assert "2 of 20 clips have no tiny-cogvideox-vae-first1-32x32 (first: synthetic/shapes-00003.mp4)" in said
    assert f"Make it: vapdata build --source synthetic --recipe tiny (how far it is: vapdata status --catalog {fresh_catalog})" in said


def test_text_of_a_caption_that_has_changed_is_stale(fresh_catalog: Path, change: Callable[..., int]) -> None:
    def rewritten(row: dict[str, Any]) -> dict[str, Any] | None:
        return row | {"text": "another", "text_sha256": "0" * 64} if row["clip_id"].endswith("00004.mp4") else None

    assert change(fresh_catalog, "captions", rewritten) == 1
    said = refused(fresh_catalog, Reads(masks=True))
    assert "1 of 28 clips have tiny-t5-32 of a caption that has changed since (first: synthetic/shapes-00004.mp4)" in said
    assert "1 of 28 clips have tiny-clip-mask-32x32 of a caption that has changed since" in said
    assert "tiny-cogvideox-vae" not in said
    assert len(built(fresh_catalog, where="clip_id <> 'synthetic/shapes-00004.mp4'").samples) == 19


def test_a_caption_that_came_later_makes_the_empty_text_stale(fresh_catalog: Path, change: Callable[..., int]) -> None:
    one = "synthetic/shapes-00005.mp4@0-1250"
    change(fresh_catalog, "captions", lambda row: row | {"clip_id": one, "text": "now told", "text_sha256": "1" * 64} if row["clip_id"].endswith("00004.mp4") else None)
    assert f"(first: {one})" in refused(fresh_catalog, Reads())


@pytest.mark.slow
def test_clips_without_caption_have_the_empty_prompts_text_but_no_mask(tiny_catalog: Path) -> None:
    assert len(built(tiny_catalog, Reads(text=True)).samples) == 28
    masked = built(tiny_catalog, Reads(text=True, masks=True))
    assert (len(masked.samples), dict(masked.left_out)) == (20, {"no caption": 8})
    said = refused(tiny_catalog, Reads(masks=True), where="not whole")
    assert "no sample in the split train, none at all (8 no caption were left out)" in said


def test_clips_too_short_and_steps_that_failed_for_good_are_left_out_and_counted(tmp_path: Path) -> None:
    hands = [Hand(name="a"), Hand(name="b"), Hand(name="short", seconds=0.9), Hand(name="odd"), Hand(name="tried")]
    catalog = hand_made(tmp_path / "c", TINY, hands)
    without(tmp_path / "c", "latents", lambda row: row["clip_id"] in ("short", "odd"))
    failure = {"video_id": "odd", "clip_id": "odd", "step": "vae", "error": "ValueError", "message": "not finite", "attempts": 1, "permanent": True}
    with catalog.lock("pytest"):
        catalog.append({"failures": [failure, failure | {"step": "vae_first-1"}]})
    index = built(tmp_path / "c", Reads(first=1))
    assert [sample.target for sample in index.samples] == ["a", "b", "tried"]
    assert dict(index.left_out) == {"failed": 1, "too short": 1}
    with catalog.lock("pytest"):
        catalog.append({"failures": [failure | {"step": each, "permanent": False, "attempts": 2} for each in ("vae", "vae_first-1")]})
    assert "1 of 5 clips have no tiny-cogvideox-vae-9x32x32-8fps (first: odd)" in refused(tmp_path / "c", Reads(first=1))


def test_the_newest_builds_predicate_is_offered_where_it_left_clips_out(fresh_catalog: Path, change: Callable[..., int]) -> None:
    change(fresh_catalog, "runs", lambda row: row | {"run_id": "later", "predicate": "motion > 1", "command": "vapdata build --where ..."})
    change(fresh_catalog, "clips", lambda row: row | {"clip_id": "synthetic/new.mp4"} if row["clip_id"].endswith("00004.mp4") else None)
    said = refused(fresh_catalog, Reads())
    assert 'Make it: vapdata build --where ...' in said and 'The newest build took only clips where motion > 1: type --where "motion > 1"' in said


def test_no_pairs_at_all_and_none_that_are_selected_say_so(fresh_catalog: Path, tmp_path: Path) -> None:
    assert "none of the 56 pairs" in refused(fresh_catalog, where="not whole")
    hand_made(tmp_path / "c", TINY, [Hand(name="a")])
    said = refused(tmp_path / "c")
    assert said == f"train.vap learns from pairs, and {tmp_path / 'c'} has none. Make them: vapdata pairs --catalog {tmp_path / 'c'}"


def test_a_wrong_predicate_and_one_that_selects_nothing_are_refused(tiny_catalog: Path) -> None:
    assert "motion" in refused(tiny_catalog, where="moton > 1")
    assert "selects none of the 28 clips" in refused(tiny_catalog, where="motion > 1e9")
    assert "no sample in the split train, 4 in validation" in refused(tiny_catalog, Reads(), where="split = 'validation'")


def test_latents_of_another_backbone_or_of_none_are_told(tiny_catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"has no video latents of tiny-wan, only of tiny-cogvideox\. Type --backbone tiny-cogvideox, or vapdata build .* --recipe tiny-wan"):
        build_index(Catalog.open(tiny_catalog), backbone("tiny-wan"), PAIRS, method="vap")
    Catalog.open(tmp_path / "empty", create=True)
    command = f"vapdata build --source SOURCE --catalog {tmp_path / 'empty'} --recipe tiny-cogvideox"
    assert refused(tmp_path / "empty") == f"{tmp_path / 'empty'} has no video latents. Make them: {command}"


def test_several_grids_are_listed_and_one_is_named(tmp_path: Path) -> None:
    catalog = hand_made(tmp_path / "c", TINY, [Hand(name="a")])
    other = VIDEO.replace("9x32x32", "17x32x32")
    hand, array = Hand(name="a"), np.ones((16, 5, 4, 4), np.float32)
    columns = {"kind": "video", "pixel_frames": 17, "latent_frames": 5, "temporal_stride": 4, "first_alone": True, "has_logvar": False}
    settings = {**GRID, "kind": "video", "pixel_frames": 17, "fps": 8.0, "short": "reject"}
    with catalog.lock("pytest"):
        catalog.append({"latents": write(catalog, Tensors(table="latents", name=other, settings=settings, dtype="bf16", arrays=[(hand, array)], columns=columns))})
    said = refused(tmp_path / "c", Reads(first=1))
    assert f"several grids: {other} (1 clips), {VIDEO} (1 clips). Type --product NAME" in said
    assert built(tmp_path / "c", Reads(first=1), product=other).samples[0].bucket == (16, 5, 4, 4)
    assert f"--product x: {tmp_path / 'c'} has no such video latents of tiny-cogvideox. It has {other}" in refused(tmp_path / "c", product="x")


@pytest.mark.slow
def test_several_texts_of_one_clip_must_be_chosen_from(fresh_catalog: Path, change: Callable[..., int]) -> None:
    change(fresh_catalog, "texts", lambda row: row | {"role": "neutral"} if row["clip_id"] == "synthetic/shapes-00000.mp4" else None)
    said = refused(fresh_catalog)
    assert "has several texts of one clip: source/neutral (1 clips), source/source (20 clips). Type --set run.caption=source/neutral, or another of them" in said
    assert built(fresh_catalog, caption="source/source").caption == "source/source"
    assert "19 of 20 clips have no tiny-t5-32" in refused(fresh_catalog, caption="source/neutral")
    assert "run.caption=x/y: tiny-t5-32" in refused(fresh_catalog, caption="x/y")


def test_rows_of_other_settings_or_another_resize_are_refused(fresh_catalog: Path, change: Callable[..., int]) -> None:
    settings = fresh_catalog / "tensors" / "first-32x32" / "settings.json"
    record = json.loads(settings.read_text())
    settings.write_text(json.dumps(record | {"settings": record["settings"] | {"resize": "crop"}}))
    assert "first-32x32 in" in (said := refused(fresh_catalog, Reads(picture=True))) and "was made with resize=crop, the video latents with stretch" in said
    change(fresh_catalog, "texts", lambda row: row | {"settings_sha256": "3" * 64} if row["clip_id"] == "synthetic/shapes-00000.mp4" else None)
    assert "its rows were made with 2 different settings" in refused(fresh_catalog)


def test_a_text_product_without_its_constants_is_refused(fresh_catalog: Path) -> None:
    without(fresh_catalog, "texts", lambda row: row["role"] == "empty")
    assert "tiny-t5-32 in" in (said := refused(fresh_catalog)) and "no row for the empty or the negative prompt" in said


def test_keywords_of_another_text_encoder_and_unknown_towers_are_refused(tiny_catalog: Path) -> None:
    assert "keywords: spans are of UMT5's or LLaVA's rows, tiny-cogvideox reads another" in (said := refused(tiny_catalog, Reads(keywords=True))) and "--backbone tiny-wan" in said
    assert "there is no tower 'clip-h'. Name one of wan, blip2, clip" in refused(tiny_catalog, Reads(image_tokens="clip-h"))


@pytest.mark.slow
def test_a_tensor_file_that_is_gone_cut_short_or_holds_other_clips_ends_the_run_at_once(fresh_catalog: Path) -> None:
    file = fresh_catalog / "tensors" / VIDEO / "synthetic-000000.0.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert f"tensors/{VIDEO}/synthetic-000000.0.parquet in {fresh_catalog} cannot be read" in refused(fresh_catalog, error=CatalogDamaged)
    file.unlink()
    assert "cannot be read" in refused(fresh_catalog, error=CatalogDamaged)
    other = fresh_catalog / "tensors" / "tiny-t5-32" / "constants.0.parquet"
    file.write_bytes(other.read_bytes())
    said = refused(fresh_catalog, error=CatalogDamaged)
    assert "holds clip None, the row that points to it says synthetic/shapes-00000.mp4" in said


# Names of products, against the encoders' own


@pytest.mark.parametrize(
    ("name", "reads", "wanted"),
    [
        ("tiny-cogvideox", Reads(first=2, masks=True, picture=True, image_tokens="clip"), "vae vae_first clip_mask first_frame t5 image_tokens"),
        ("tiny-wan", Reads(condition=True, image_tokens="wan"), "vae vae_condition umt5 image_tokens"),
        ("tiny-hunyuan", Reads(condition=True, pooled=True, image_tokens="blip2"), "vae vae_condition llava clip_text image_tokens"),
    ],
)
def test_products_are_called_as_their_encoders_call_them(name: str, reads: Reads, wanted: str) -> None:
    facts, sampling = backbone(name), Sampling(frames=9, height=32, width=64, fps=16)
    grid = Grid(frames=9, height=32, width=64, fps=16.0, short="reject", resize="stretch")
    found = {wants.step: wants for wants in wanted_products(facts, reads, f"{facts.vae.product}-{sampling.label()}", grid)}
    assert sorted(found) == sorted(wanted.split())
    for step, wants in found.items():
        plugin = load(ENCODERS, step, "encoder")
        more = {"first": reads.first} if step == "vae_first" else {"tower": reads.image_tokens} if step == "image_tokens" else {}
        fields = {"backbone": name, "sampling": sampling, **more}
        product = plugin(**{key: value for key, value in fields.items() if key in plugin.__dataclass_fields__}).products()[0]
        assert (wants.name, wants.table, wants.captioned) == (product.name, product.table, product.reads_caption and product.without_caption == "none")


def test_places_are_those_of_the_footers(tiny_catalog: Path) -> None:
    index = built(tiny_catalog)
    place = index.place("video", 3)
    group = pq.ParquetFile(tiny_catalog / place.file).metadata.row_group(place.row_group)
    assert place.page == group.column(1).data_page_offset
    assert place.start + place.bytes == place.page + group.column(1).total_compressed_size
    assert index.files[place.file] == os.path.getsize(tiny_catalog / place.file)
    assert located(Catalog.open(tiny_catalog), {}, {}) == ({}, {})
