"""ClipMask on the tiny CLIP, against open_clip's own pre-processing, towers and tokenizer; S12 of methods.md 4.4."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from vapdata import weights
from vapdata.clip import Sample, Sampling
from vapdata.encoders import clip_features, mask_maths
from vapdata.encoders.clip_mask import ClipMask, OpenClipMask, first_sentence
from vapdata.errors import CallError
from vapdata.step import Cell

LONG = "A red circle moves. " + "It goes on and on, " * 30 + "until it stops."


@pytest.fixture
def spec(tiny_models: Path, sampling: Sampling) -> ClipMask:
    """The tiny recipe's masks."""
    return ClipMask(backbone="tiny-cogvideox", sampling=sampling)


@pytest.fixture
def opened(spec: ClipMask) -> OpenClipMask:
    """Those, open."""
    return spec.open("cpu")


def only(cells: list[list[Cell]]) -> Cell:
    """The one cell of the one sample."""
    ((cell,),) = cells
    return cell


@pytest.mark.parametrize(("asked", "block", "kernel"), [({}, 0, 1), ({"layer": 2, "kernel": 3}, 2, 3), ({"layer": -2}, 2, 1)])
def test_masks_equal_open_clips_own_functions_taken_apart(
    tiny_models: Path, spec: ClipMask, sample: Callable[..., Sample], asked: dict[str, int], block: int, kernel: int
) -> None:
    one, opened = sample(), dataclasses.replace(spec, **asked).open("cpu")
    name = f"local-dir:{tiny_models / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model = model.eval()
    picture = preprocess(Image.fromarray(one.first))[None]
    with torch.no_grad():
        text = model.encode_text(open_clip.get_tokenizer(name)([one.caption.text]), normalize=True)
        features = clip_features.patch_features(model.visual, picture, block)
        torch.testing.assert_close(features.image, model.encode_image(picture), rtol=0, atol=1e-5)
    attention = mask_maths.attention_mask((features.attention @ text[0]).reshape(1, 12, 12), 5, kernel)
    mlp = mask_maths.mlp_mask((features.mlp @ text[0]).reshape(1, 12, 12), kernel)
    expected = torch.stack([attention, mlp, mask_maths.minmax(mask_maths.fuse(attention, mlp))], dim=1)[0]
    np.testing.assert_allclose(only(opened.encode([one])).data, expected.numpy(), atol=1e-5)


def test_what_is_declared_is_what_is_written(spec: ClipMask, opened: OpenClipMask, sample: Callable[..., Sample]) -> None:
    cell, (product,) = only(opened.encode([sample()])), spec.products()
    assert cell.product == product.name == "tiny-clip-mask-96x160"
    assert cell.data.dtype == np.float32
    assert cell.shape == cell.data.shape == (3, 12, 12)
    assert cell.data.min() >= 0
    assert cell.data.max() <= 1
    assert cell.data[2].min() == 0
    assert cell.data[2].max() == 1
    assert cell.columns == {"resize": "stretch", "pixel_height": 96, "pixel_width": 160, "text_truncated": False}
    assert cell.caption == sample().caption
    assert (product.table, product.dtype, product.reads_caption, product.without_caption) == ("masks", "f32", True, "none")
    assert opened.constants() == []


def test_a_clip_without_caption_gets_no_mask(opened: OpenClipMask, sample: Callable[..., Sample]) -> None:
    cells = opened.encode([sample(0), sample(1, text=None), sample(2)])
    assert [len(one) for one in cells] == [1, 0, 1]
    assert cells[2][0].clip_id == "made/2"


def test_a_row_does_not_depend_on_its_batch(opened: OpenClipMask, sample: Callable[..., Sample]) -> None:
    samples = [sample(number, text=f"shape {number}") for number in range(3)]
    for together, alone in zip(opened.encode(samples), samples, strict=True):
        np.testing.assert_array_equal(together[0].data, only(opened.encode([alone])).data)


def test_picture_and_text_both_change_the_mask(opened: OpenClipMask, sample: Callable[..., Sample]) -> None:
    reference = only(opened.encode([sample()])).data
    assert np.abs(only(opened.encode([sample(text="a dog")])).data - reference).max() > 0.01
    assert np.abs(only(opened.encode([sample(3)])).data - reference).max() > 0.01


@pytest.mark.parametrize(
    ("switch", "same"),
    [
        ({"layer": -1}, []),
        ({"mlp_feature": "branch"}, ["attention"]),
        ({"mlp_inverse": False}, ["attention"]),
        ({"coefficient": 10.0}, ["mlp"]),
        ({"kernel": 3}, []),
        ({"geometry": "crop"}, []),
        ({"image_size": 64}, []),
    ],
)
def test_each_switch_changes_what_it_should_and_the_settings(
    spec: ClipMask, opened: OpenClipMask, sample: Callable[..., Sample], switch: dict[str, Any], same: list[str]
) -> None:
    other = dataclasses.replace(spec, **switch)
    assert other.products()[0].settings != spec.products()[0].settings
    before, after = only(opened.encode([sample()])).data, only(other.open("cpu").encode([sample()])).data
    for number, grid in enumerate(("attention", "mlp")):
        equal = before.shape == after.shape and np.allclose(before[number], after[number], atol=1e-6)
        assert equal == (grid in same), grid


def test_layer_counts_from_the_front_or_the_back(spec: ClipMask, sample: Callable[..., Sample]) -> None:
    front, back = (dataclasses.replace(spec, layer=layer).open("cpu") for layer in (2, -2))
    np.testing.assert_array_equal(only(front.encode([sample()])).data, only(back.encode([sample()])).data)


def test_a_caption_beyond_77_tokens_is_flagged_and_its_first_sentence_goes_in(opened: OpenClipMask, sample: Callable[..., Sample]) -> None:
    cell = only(opened.encode([sample(text=LONG)]))
    assert cell.columns["text_truncated"] is True
    np.testing.assert_array_equal(cell.data, only(opened.encode([sample(text="A red circle moves.")])).data)


def test_a_long_caption_may_be_cut_instead(spec: ClipMask, opened: OpenClipMask, sample: Callable[..., Sample]) -> None:
    cut = dataclasses.replace(spec, long_caption="cut").open("cpu")
    cell = only(cut.encode([sample(text=LONG)]))
    assert cell.columns["text_truncated"] is True
    assert np.abs(cell.data - only(opened.encode([sample(text=LONG)])).data).max() > 1e-3


def test_75_words_fit_and_76_do_not(opened: OpenClipMask) -> None:
    assert opened.prompt("dog " * 75) == ("dog " * 75, False)
    assert opened.prompt("dog " * 76)[1] is True


def test_a_caption_of_one_endless_word_takes_no_endless_time(opened: OpenClipMask) -> None:
    assert opened.prompt("therainbow" * 100_000)[1] is True


@pytest.mark.parametrize("text", ["", " \n", "🎈🎈", "\udcff broken", "<end_of_text>", "。"])
def test_odd_captions_give_finite_masks(opened: OpenClipMask, sample: Callable[..., Sample], text: str) -> None:
    assert np.isfinite(only(opened.encode([sample(text=text)])).data).all()


def test_a_picture_of_one_colour_gives_finite_masks(opened: OpenClipMask, sample: Callable[..., Sample]) -> None:
    flat = dataclasses.replace(sample(), frames=np.full((1, 96, 160, 3), 128, np.uint8))
    assert np.isfinite(only(opened.encode([flat])).data).all()


def test_frames_of_another_size_are_refused(opened: OpenClipMask, sample: Callable[..., Sample]) -> None:
    with pytest.raises(ValueError, match=r"got frames of shape \(48, 80, 3\), wanted \(96, 160, 3\)"):
        opened.encode([dataclasses.replace(sample(), frames=np.zeros((9, 48, 80, 3), np.uint8))])


def test_a_local_folder_of_the_same_model_gives_the_same_mask(
    tiny_models: Path, spec: ClipMask, opened: OpenClipMask, sample: Callable[..., Sample]
) -> None:
    local = dataclasses.replace(spec, model=str(tiny_models / "clip"))
    np.testing.assert_array_equal(only(local.open("cpu").encode([sample()])).data, only(opened.encode([sample()])).data)
    assert local.products()[0].model_id == "clip"
    assert local.products()[0].settings != spec.products()[0].settings


def test_bad_settings_are_refused_at_once(sampling: Sampling) -> None:
    for wrong in ({"kernel": 2}, {"coefficient": 0.0}, {"backbone": "tiny-cogvideo"}):
        with pytest.raises(CallError, match=r"Use|Did you mean"):
            ClipMask(**{"backbone": "tiny-cogvideox", "sampling": sampling, **wrong})


def test_the_real_model_is_named_by_its_file_when_absent(sampling: Sampling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    real = ClipMask(backbone="cogvideox-2b", sampling=sampling)
    assert (real.block, real.side) == (-2, 3)
    absent = weights.missing(real.weights())
    assert [one.file for one in absent] == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert absent[0].weight.how == "hf download timm/vit_large_patch14_clip_336.openai"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("Only one", "Only one"),
        ("At 3.5 metres it stops! Then", "At 3.5 metres it stops!"),
        ("红色。蓝色。", "红色。"),
        ("", ""),
    ],
)
def test_the_first_sentence_ends_at_the_first_full_stop_of_a_word(text: str, first: str) -> None:
    assert first_sentence(text) == first
