"""The loader against the catalog's own reading in float64; global batches that no number of processes changes; errors in time."""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import Hand, hand_made
from torch import Tensor

from catalogs.store import Catalog
from train import data
from train.ahead import ahead
from train.batch import Batch, Reads, Side
from train.data import Loader, Step
from train.index import Index, build_index
from train.method import Objective
from train.objective import Flow, normal, objective_from, seed_of
from vapdata import tiny_transformer
from vapdata.backbones import Backbone, backbone
from vapdata.errors import CallError, CatalogDamaged

TINY = backbone("tiny-cogvideox")
VIDEO = "tiny-cogvideox-vae-9x32x32-8fps"
PAIRS = Reads(text=True, first=1, references=1)
OBJECTIVE = objective_from({"_class_name": "CogVideoXDDIMScheduler", **tiny_transformer.SCHEDULERS["tiny-cogvideox"]})


@pytest.fixture(scope="module")
def index(tiny_catalog: Path) -> Index:
    """16 targets to train on and 4 to evaluate on."""
    return build_index(Catalog.open(tiny_catalog), TINY, PAIRS, method="vap")


def loader(index: Index, facts: Backbone = TINY, objective: Objective = OBJECTIVE, **more: Any) -> Loader:
    return Loader(index, facts, objective, **{"seed": 0, "global_batch": 4, "micro_batch": 4, **more})


# Tensors


def stored(index: Index, role: str, clip: str | None, constant: str | None = None) -> np.ndarray:
    """The catalog's own reading of a clip's tensor."""
    catalog, product = Catalog.open(index.catalog), index.of(role)
    table = {"text": "texts", "pooled": "texts", "image_tokens": "features", "masks": "masks", "picture": "frames"}.get(role, "latents")
    rows = [row for row in catalog.read(table).to_pylist() if row["product"] == product.name and row["clip_id"] == clip]
    (row,) = [row for row in rows if clip or row["role"] == constant]
    return catalog.read_tensor(row, check=True)


def scaled(raw: np.ndarray, facts: Backbone, factor: float) -> Tensor:
    """(z - mean) / std * factor in float64, rounded to float32."""
    mean, std = (np.array(given or (default,) * 16, np.float64).reshape(16, 1, 1, 1) for given, default in ((facts.vae.mean, 0.0), (facts.vae.std, 1.0)))
    return torch.from_numpy(((raw[:16].astype(np.float64) - mean) / std * factor).astype(np.float32))


def padded(raw: np.ndarray, rows: int) -> Tensor:
    return torch.nn.functional.pad(torch.from_numpy(raw), (0, 0, 0, rows - len(raw)))


def same(one: Tensor | None, other: Tensor) -> None:
    assert one is not None and one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.slow
def test_every_tensor_of_a_real_catalog_is_the_stored_one_scaled_in_float64(tiny_catalog: Path) -> None:
    index = build_index(Catalog.open(tiny_catalog), TINY, Reads(text=True, first=2, masks=True, picture=True), method="full")
    for clip in index.clip_ids[:3]:
        side = loader(index).side([clip])
        same(side.video[0], scaled(stored(index, "video", clip), TINY, 1.15258426))
        same(side.first[0], scaled(stored(index, "first", clip), TINY, 1.15258426))
        same(side.text[0], torch.from_numpy(stored(index, "text", clip)))
        same(side.masks[0], torch.from_numpy(stored(index, "masks", clip)))
        same(side.picture[0], torch.from_numpy(stored(index, "picture", clip)).permute(2, 0, 1))
        assert side.condition is None and side.pooled is None and side.image_tokens is None
        assert side.text_mask[0].tolist() == [row < index.length("text", index.number(clip)) for row in range(32)]


def test_wan_is_normalised_by_channel_and_its_text_has_zeros_below(tmp_path: Path) -> None:
    facts = backbone("tiny-wan")
    hands = [Hand(name="a", tokens=3), Hand(name="b", tokens=512)]
    index = build_index(hand_made(tmp_path / "c", facts, hands), facts, Reads(condition=True, first=1, image_tokens="wan"), method="full")
    made = loader(index, facts, Flow())
    side = made.side(["a", "b"])
    for place, clip in enumerate(("a", "b")):
        same(side.video[place], scaled(stored(index, "video", clip), facts, 1.0))
        same(side.condition[place], scaled(stored(index, "condition", clip), facts, 1.0))
        same(side.image_tokens[place], torch.from_numpy(stored(index, "image_tokens", clip)))
        same(side.text[place], padded(stored(index, "text", clip), 512))
    assert side.text_mask.sum(1).tolist() == [3, 512]
    assert (float(side.text[0, 3:].abs().sum()), side.text.shape) == (0.0, (2, 512, 8))
    prompt = made.prompt("empty", side)
    same(prompt["text"][1], padded(stored(index, "text", None, "empty"), 512))
    assert prompt["text_mask"].sum(1).tolist() == [1, 1]


def test_hunyuan_has_room_for_image_rows_and_a_pooled_text(tmp_path: Path) -> None:
    facts = backbone("tiny-hunyuan")
    index = build_index(hand_made(tmp_path / "c", facts, [Hand(name="a", tokens=396)]), facts, Reads(condition=True, pooled=True), method="full")
    side = loader(index, facts, Flow()).side(["a"])
    assert side.text.shape == (1, 400, 8) and int(side.text_mask.sum()) == 396
    same(side.pooled[0], torch.from_numpy(stored(index, "pooled", "a")))
    same(side.condition[0], scaled(stored(index, "condition", "a"), facts, 0.476986))


def test_image_latents_of_cogvideox_1_5_are_divided_by_the_factor(tmp_path: Path) -> None:
    facts = backbone("cogvideox-1.5-5b-i2v")
    index = build_index(hand_made(tmp_path / "c", facts, [Hand(name="a")]), facts, Reads(first=1), method="full")
    side = loader(index, facts).side(["a"])
    same(side.video[0], scaled(stored(index, "video", "a"), facts, 0.7))
    same(side.first[0], scaled(stored(index, "first", "a"), facts, 1 / 0.7))


def test_of_a_posterior_with_log_variance_the_mean_is_read(tmp_path: Path) -> None:
    index = build_index(hand_made(tmp_path / "c", TINY, [Hand(name="a")], logvar=True), TINY, Reads(first=1), method="full")
    side = loader(index).side(["a"])
    assert stored(index, "video", "a").shape == (32, 3, 4, 4)
    same(side.video[0], scaled(stored(index, "video", "a"), TINY, 1.15258426))
    same(side.first[0], scaled(stored(index, "first", "a"), TINY, 1.15258426))


@pytest.mark.slow
def test_a_catalog_in_an_object_store_gives_the_same_batches(bucket: str, tmp_path: Path) -> None:
    hands = [Hand(name=name) for name in "abcd"]
    pairs = [("k", one, other) for one in "abcd" for other in "abcd" if one != other]
    here, there = (build_index(hand_made(place, TINY, hands, pairs=pairs), TINY, PAIRS, method="vap") for place in (tmp_path / "c", bucket))
    assert here.fingerprint == there.fingerprint and there.catalog == bucket
    there.save(tmp_path / "index")
    made = loader(Index.load(tmp_path / "index"))
    made.check()
    assert [gathered([step]) for step in made.steps(0, 2)] == [gathered([step]) for step in loader(here).steps(0, 2)]
    made.close()


def test_a_text_with_more_rows_than_the_backbone_takes_is_refused(tmp_path: Path) -> None:
    facts = backbone("tiny-wan")
    index = build_index(hand_made(tmp_path / "c", facts, [Hand(name="a", tokens=513)]), facts, Reads(), method="full")
    with pytest.raises(CatalogDamaged, match=r"\(clip a\) in .*: a text of 513 rows, tiny-wan takes 512"):
        loader(index, facts, Flow()).side(["a"])


# Global batches


def gathered(parts: list[Step]) -> dict[int, tuple[Any, ...]]:
    """Slot -> everything of its sample, over all ranks; fill-ins left out."""
    found: dict[int, tuple[Any, ...]] = {}
    order = itertools.chain.from_iterable(zip(*([list(micro_rows(micro)) for micro in step.micro] for step in parts), strict=True))
    for slot, (weight, row) in enumerate(itertools.chain.from_iterable(order)):
        if weight:
            found[slot] = row
    return found


def micro_rows(micro: Batch) -> Iterator[tuple[float, tuple[Any, ...]]]:
    for place, clip in enumerate(micro.target.clip_ids):
        sides = (micro.target, *micro.references)
        tensors = (micro.timesteps[place], micro.noise[place], *(side.video[place] for side in sides), *(side.text[place] for side in sides))
        yield float(micro.weights[place]), (clip, micro.seeds[place], *(tensor.numpy().tobytes() for tensor in tensors))


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 1), (1, 3), (2, 1), (2, 4), (4, 1), (4, 2), (5, 2)])
@pytest.mark.slow
def test_every_number_of_ranks_and_any_accumulation_see_the_same_samples_noise_and_timesteps(index: Index, ranks: int, micro_batch: int) -> None:
    def steps(ranks: int, micro_batch: int) -> list[list[Step]]:
        loaders = [loader(index, global_batch=6, micro_batch=micro_batch, rank=rank, ranks=ranks, caption_drop=0.4) for rank in range(ranks)]
        return [[each.step(number) for each in loaders] for number in range(4)]

    for one, many in zip(steps(1, 6), steps(ranks, micro_batch), strict=True):
        assert gathered(many) == gathered(one)
        assert len(gathered(one)) == one[0].size == sum(float(micro.weights.sum()) for step in many for micro in step.micro)
        assert {(step.size, step.clip_ids, step.epoch, len(step.micro), len(step.micro[0].seeds)) for step in many} == {
            (one[0].size, one[0].clip_ids, one[0].epoch, len(many[0].micro), len(many[0].micro[0].seeds))
        }


def test_an_epoch_takes_every_training_sample_once_and_the_short_batch_is_filled_up(index: Index) -> None:
    made = loader(index, global_batch=6, micro_batch=4)
    assert made.steps_per_epoch == 3
    for epoch in (0, 1):
        steps = [made.step(number) for number in range(3 * epoch, 3 * epoch + 3)]
        targets = [clip for step in steps for clip in step.clip_ids]
        assert sorted(targets) == sorted(index.samples[number].target for number in index.train)
        assert [step.epoch for step in steps] == [epoch] * 3
        assert sorted(step.size for step in steps) == [4, 6, 6]
        assert all(sum(float(micro.weights.sum()) for micro in step.micro) == step.size for step in steps)
    assert made.step(0).clip_ids != made.step(3).clip_ids


def test_a_run_that_goes_on_sees_what_it_would_have_seen(index: Index) -> None:
    whole = list(loader(index, caption_drop=0.3).steps(0, 9))
    rest = list(loader(index, caption_drop=0.3).steps(6, 9))
    assert [step.number for step in whole] == list(range(9))
    assert [gathered([step]) for step in whole[6:]] == [gathered([step]) for step in rest]


def test_seed_step_and_sample_decide_noise_and_timestep(index: Index) -> None:
    step = loader(index).step(5)
    for slot, clip in enumerate(step.clip_ids):
        seed = seed_of(0, 5, slot, clip)
        assert step.micro[0].seeds[slot] == seed
        same(step.micro[0].noise[slot], normal(seed, (16, 3, 4, 4)))
        same(step.micro[0].timesteps[slot], OBJECTIVE.timesteps([seed])[0])
    assert gathered([loader(index, seed=1).step(5)]) != gathered([step])


def test_a_global_batch_has_one_latent_shape(tmp_path: Path) -> None:
    hands = [Hand(name=f"{shape[3]}-{number}", shape=shape) for shape in ((16, 3, 4, 4), (16, 3, 4, 6)) for number in range(5)]
    index = build_index(hand_made(tmp_path / "c", TINY, hands), TINY, Reads(first=1), method="full")
    made = loader(index, global_batch=2)
    steps = list(made.steps(0, made.steps_per_epoch))
    assert sorted((step.micro[0].target.video.shape[-1], step.size) for step in steps) == [(4, 1), (4, 2), (4, 2), (6, 1), (6, 2), (6, 2)]
    assert all({clip.partition("-")[0] for clip in step.clip_ids} == {str(step.micro[0].noise.shape[-1])} for step in steps)


# References


@pytest.mark.slow
def test_references_share_the_condition_are_never_the_target_and_change_with_the_epoch(index: Index) -> None:
    made = loader(index)
    conditions = {sample.target: set(sample.conditions) for sample in index.samples}
    seen: dict[str, set[str]] = {}
    for step in (made.step(number) for number in range(20 * made.steps_per_epoch)):
        (micro,) = step.micro
        for target, reference in zip(micro.target.clip_ids, micro.references[0].clip_ids, strict=True):
            assert reference != target and conditions[reference] & conditions[target]
            seen.setdefault(target, set()).add(reference)
    assert seen == {index.samples[number].target: set(index.samples[number].references) for number in index.train}


def test_several_references_are_different_clips_of_one_sample(tiny_catalog: Path) -> None:
    index = build_index(Catalog.open(tiny_catalog), TINY, Reads(first=1, references=3), method="vap")
    (micro,) = loader(index).step(0).micro
    assert len(micro.references) == 3
    for place, target in enumerate(micro.target.clip_ids):
        assert len({target, *(side.clip_ids[place] for side in micro.references)}) == 4
    assert loader(index, references=1).step(0).micro[0].references[0].clip_ids == micro.references[0].clip_ids


# Dropout


def test_dropout_takes_the_empty_prompt_on_both_sides_and_changes_nothing_else(index: Index) -> None:
    kept, dropped = (loader(index, caption_drop=share).step(0).micro[0] for share in (0.0, 1.0))
    empty = loader(index).prompt("empty", kept.target)
    same(empty["text"][0], torch.from_numpy(stored(index, "text", None, "empty")))
    for side, other in ((kept.target, dropped.target), (kept.references[0], dropped.references[0])):
        same(other.text, empty["text"])
        same(other.text_mask, empty["text_mask"])
        assert not torch.equal(side.text, other.text)
        same(other.video, side.video)
        same(other.first, side.first)
    same(dropped.noise, kept.noise)
    same(dropped.timesteps, kept.timesteps)


@pytest.mark.slow
def test_as_many_captions_are_dropped_as_was_asked_for_and_on_both_sides_or_none(index: Index) -> None:
    made = loader(index, caption_drop=0.25, global_batch=16, micro_batch=16)
    empty = made.prompt("empty", made.step(0).micro[0].target)["text"][0]
    drops = []
    for number in range(30):
        (micro,) = made.step(number).micro
        both = [[torch.equal(text, empty) for text in side.text] for side in (micro.target, *micro.references)]
        assert both[0] == both[1]
        drops += both[0]
    assert 0.19 < np.mean(drops) < 0.31  # 480 samples: three deviations are 0.059


# Evaluation and sampling


def test_a_grid_is_fixed_and_has_its_own_timesteps_and_noise(index: Index) -> None:
    timesteps, seeds = torch.tensor([10.0, 900.0]), [11, 12]
    samples = index.validation[:2]
    one, again = (loader(index, caption_drop=1.0, seed=0).grid(samples, timesteps, seeds) for _ in range(2))
    assert (one.step, one.weights.tolist(), one.seeds) == (-1, [1.0, 1.0], (11, 12))
    same(one.timesteps, timesteps)
    same(one.noise[1], normal(12, (16, 3, 4, 4)))
    assert one.target.clip_ids == tuple(index.samples[number].target for number in samples)
    same(one.target.text[0], torch.from_numpy(stored(index, "text", one.target.clip_ids[0])))
    assert one.references[0].clip_ids == again.references[0].clip_ids
    assert all(clip in index.samples[number].references for clip, number in zip(one.references[0].clip_ids, samples, strict=True))


def test_a_shuffled_grid_has_references_of_other_conditions(index: Index) -> None:
    conditions = {sample.target: set(sample.conditions) for sample in index.samples}
    everything = range(len(index.samples))
    timesteps, seeds = torch.zeros(len(everything)), list(everything)
    plain, shuffled, again = (loader(index).grid(everything, timesteps, seeds, shuffled=each) for each in (False, True, True))
    assert shuffled.references[0].clip_ids == again.references[0].clip_ids
    for target, reference in zip(plain.target.clip_ids, shuffled.references[0].clip_ids, strict=True):
        assert not conditions[target] & conditions[reference]
    same(shuffled.target.video, plain.target.video)
    same(shuffled.noise, plain.noise)


def test_where_all_share_one_condition_the_references_of_another_target_are_taken(tmp_path: Path) -> None:
    hands = [Hand(name=name) for name in "abc"]
    catalog = hand_made(tmp_path / "c", TINY, hands, pairs=[("k", "c", "a"), ("k", "a", "b")])
    index = build_index(catalog, TINY, PAIRS, method="vap")
    shuffled = loader(index).grid([0, 1], torch.zeros(2), [0, 0], shuffled=True)
    assert shuffled.target.clip_ids == ("a", "b")
    assert shuffled.references[0].clip_ids == ("c", "c")  # b's is a itself, so a keeps its own


def test_a_side_and_prompts_are_to_be_had_for_sampling(index: Index) -> None:
    made = loader(index)
    target = index.samples[0].target
    side = made.side([target, index.samples[1].target])
    assert isinstance(side, Side) and side.clip_ids[0] == target
    prompt = made.prompt("negative", side)
    same(prompt["text"][1], torch.from_numpy(stored(index, "text", None, "negative")))
    assert prompt["text"].shape == side.text.shape and prompt["text_mask"].shape == side.text_mask.shape
    with pytest.raises(CallError, match="clip nobody is in no sample of this run"):
        made.side(["nobody"])


def test_a_method_that_reads_no_captions_is_given_none(tiny_catalog: Path) -> None:
    index = build_index(Catalog.open(tiny_catalog), TINY, Reads(text=False), method="full")
    made = loader(index, caption_drop=0.5)
    made.check()
    (micro,) = made.step(0).micro
    assert micro.target.text is None and micro.target.text_mask is None and micro.references == ()
    with pytest.raises(CallError, match="reads no captions"):
        made.prompt("empty", micro.target)


# Reading ahead


def test_steps_made_ahead_are_those_made_on_the_spot_and_say_how_long_they_were_waited_for(index: Index) -> None:
    ahead_of_use, on_the_spot = (list(loader(index, prefetch=depth).steps(2, 7)) for depth in (3, 0))
    assert [gathered([step]) for step in ahead_of_use] == [gathered([step]) for step in on_the_spot]
    assert all(step.waited_s > 0 for step in on_the_spot + ahead_of_use)
    assert all(step.bytes == 8 * (768 + 256 + 32 * 64) * 2 for step in on_the_spot)  # 4 targets and 4 references: video, first, text in bf16


def test_closing_the_steps_ends_their_thread(index: Index) -> None:
    before = set(threading.enumerate())
    steps = loader(index, prefetch=2).steps(0, 10**6)
    next(steps)
    assert set(threading.enumerate()) - before
    steps.close()
    assert set(threading.enumerate()) == before


def test_what_is_raised_in_the_thread_is_raised_in_its_place() -> None:
    def things() -> Iterator[int]:
        yield 1
        yield 2
        raise CatalogDamaged("the third")

    for depth in (0, 1, 5):
        made = ahead(things, depth)
        assert [next(made)[0], next(made)[0]] == [1, 2]
        with pytest.raises(CatalogDamaged, match="the third"):
            next(made)
    assert [thing for thing, _ in ahead(lambda: iter(()), 2)] == []


# Damage


def poke(index: Index, role: str, clip: str, value: bytes) -> None:
    """Overwrites a tensor's first numbers."""
    place = index.place(role, index.number(clip))
    with open(Path(index.catalog) / place.file, "r+b") as file:
        file.seek(place.start)
        file.write(value)


@pytest.mark.parametrize(("role", "bits"), [("video", b"\xc0\x7f"), ("text", b"\x80\x7f"), ("first", b"\x80\xff")])
@pytest.mark.slow
def test_nan_and_infinity_are_named_before_the_step_that_would_use_them(fresh_catalog: Path, role: str, bits: bytes) -> None:
    index = build_index(Catalog.open(fresh_catalog), TINY, PAIRS, method="vap")
    made = loader(index, references=0)
    steps = [made.step(number) for number in range(made.steps_per_epoch)]
    clip = steps[2].clip_ids[1]
    poke(index, role, clip, bits)
    place = index.place(role, index.number(clip))
    remedy = f"Leave the clip out: --where \"clip_id <> '{clip}'\""
    said = rf"{place.file} row group {place.row_group} \(clip {clip}\) of {place.product} in .*: 1 of \d+ numbers are NaN or infinite\. {remedy}\. "
    taken = loader(index, references=0).steps(0, 4)
    assert [next(taken).number, next(taken).number] == [0, 1]
    with pytest.raises(CatalogDamaged, match=said):
        next(taken)
    with pytest.raises(CatalogDamaged, match=said):
        loader(index).check()


def test_each_rank_checks_its_share_and_of_a_large_catalog_a_part(fresh_catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build_index(Catalog.open(fresh_catalog), TINY, PAIRS, method="vap")
    loader(index).check()
    poke(index, "video", index.clip_ids[3], b"\xc0\x7f")
    loader(index, rank=0, ranks=2).check()
    with pytest.raises(CatalogDamaged, match="NaN"):
        loader(index, rank=1, ranks=2).check()
    monkeypatch.setattr(data, "CHECKED_BYTES", 10 * sum(place.bytes for place in (index.place(role, 0) for role in ("video", "text", "first"))))
    loader(index).check()  # 20 clips, every second


def test_a_sum_that_overflows_is_not_taken_for_a_nan(fresh_catalog: Path) -> None:
    index = build_index(Catalog.open(fresh_catalog), TINY, PAIRS, method="vap")
    poke(index, "text", index.clip_ids[0], b"\x7f\x7f" * 4)  # 3.4e38 four times
    side = loader(index).side([index.clip_ids[0]])
    assert torch.isfinite(side.text).all() and torch.isinf(side.text.sum())


def test_page_checksums_are_verified_in_the_first_epoch_when_asked(fresh_catalog: Path) -> None:
    index = build_index(Catalog.open(fresh_catalog), TINY, PAIRS, method="vap")
    made = loader(index, references=0, checksums=True)
    clip = made.step(1).clip_ids[0]
    poke(index, "video", clip, b"\x00\x00")
    made.step(0)
    with pytest.raises(CatalogDamaged, match=rf"\(clip {clip}\) in .* cannot be read: .*CRC"):
        made.step(1)
    loader(index, references=0).step(1)
    assert all(made.step(number).epoch == 1 for number in range(4, 8))


def test_a_tensor_file_that_changed_since_the_index_was_made_is_refused_at_once(fresh_catalog: Path) -> None:
    index = build_index(Catalog.open(fresh_catalog), TINY, PAIRS, method="vap")
    file = fresh_catalog / index.place("video", 0).file
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(CatalogDamaged, match=rf"{VIDEO}/.* has \d+ bytes, wanted \d+ bytes"):
        loader(index)
    file.unlink()
    with pytest.raises(CatalogDamaged, match="is gone, wanted"):
        loader(index)


def test_numbers_that_do_not_fit_are_refused(index: Index) -> None:
    with pytest.raises(CallError, match="the index holds latents of tiny-cogvideox, the run's backbone is tiny-wan"):
        loader(index, backbone("tiny-wan"), Flow())
    with pytest.raises(CallError, match="3 references are wanted, the index was made for 1"):
        loader(index, references=3)
    for wrong in ({"global_batch": 0}, {"micro_batch": 0}, {"rank": 2, "ranks": 2}):
        with pytest.raises(CallError, match="wanted sizes of 1 or more and a rank below"):
            loader(index, **wrong)
    with pytest.raises(CallError, match="no catalog at"):
        loader(replace(index, catalog="/nowhere"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_batches_reach_a_gpu_as_they_are(index: Index) -> None:
    (micro,) = loader(index, pin=True).step(0).micro
    moved = micro.to(torch.device("cuda"))
    torch.cuda.synchronize()
    assert micro.noise.is_pinned() and micro.target.video.is_pinned() and micro.target.text.is_pinned()
    same(moved.target.video.cpu(), loader(index).step(0).micro[0].target.video)
