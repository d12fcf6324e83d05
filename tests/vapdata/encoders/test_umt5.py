"""Umt5 on the tiny UMT5EncoderModel, against diffusers' own Wan pipeline."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from transformers import AutoTokenizer, UMT5EncoderModel

from vapdata import tiny, weights
from vapdata.clip import Sample
from vapdata.encoders.prompts import padded
from vapdata.encoders.umt5 import Umt5
from vapdata.errors import CallError

TEXTS = ["a red circle moves right", "", "a", "Tom &amp; Jerry  run", "一只红色的狗在草地上跑", "word " * 400, "the video shows " * 5, "🎈 déjà vu"]


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> WanPipeline:
    """WanPipeline with nothing but its text half."""
    folder = tiny.folder("tiny-wan")
    model = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    return WanPipeline(tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"), text_encoder=model, vae=None, scheduler=None)


@pytest.fixture
def spec(tiny_models: Path) -> Umt5:
    """The tiny recipe's texts."""
    return Umt5(backbone="tiny-wan", negative_prompt="blurry, ugly")


def embedded(pipeline: WanPipeline, texts: list[str]) -> np.ndarray:
    """The pipeline's own embedding, 512 rows each."""
    with torch.no_grad():
        return pipeline._get_t5_prompt_embeds(texts, max_sequence_length=512, device=torch.device("cpu")).numpy()


@pytest.mark.parametrize("text", TEXTS)
def test_rows_padded_with_zeros_equal_the_pipelines(pipeline: WanPipeline, spec: Umt5, sample: Callable[..., Sample], text: str) -> None:
    ((cell,),) = spec.open("cpu").encode([sample(text=text)])
    np.testing.assert_allclose(padded(cell.data, 512), embedded(pipeline, [text])[0], rtol=0, atol=1e-5)


def test_one_by_one_equals_a_batch_of_eight(pipeline: WanPipeline, spec: Umt5, sample: Callable[..., Sample]) -> None:
    cells = spec.open("cpu").encode([sample(number, text=text) for number, text in enumerate(TEXTS)])
    ours = np.stack([padded(one[0].data, 512) for one in cells])
    np.testing.assert_allclose(ours, embedded(pipeline, TEXTS), rtol=0, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(spec: Umt5, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    samples = [sample(number, text=text) for number, text in enumerate(TEXTS)]
    for cells, one in zip(opened.encode(samples), samples, strict=True):
        np.testing.assert_array_equal(cells[0].data, opened.encode([one])[0][0].data)


def test_what_is_declared_is_what_is_written(spec: Umt5, sample: Callable[..., Sample]) -> None:
    ((cell,),) = spec.open("cpu").encode([sample(text="a dog")])
    (product,) = spec.products()
    assert cell.product == product.name == "tiny-umt5-512"
    assert cell.data.dtype == np.float32
    assert cell.shape == cell.data.shape == (4, 64)  # a, do, g and the end mark
    assert cell.columns == {"length": 4, "text_truncated": False}
    assert cell.caption == sample(text="a dog").caption
    assert (product.table, product.dtype, product.reads_caption, product.without_caption) == ("texts", "bf16", True, "empty")


def test_a_clip_without_caption_is_the_empty_text(spec: Umt5, sample: Callable[..., Sample]) -> None:
    ((without,), (blank,)) = spec.open("cpu").encode([sample(0, text=None), sample(1, text="")])
    np.testing.assert_array_equal(without.data, blank.data)
    assert without.columns["length"] == 1
    assert without.caption is None


def test_the_empty_and_the_negative_prompt_belong_to_no_clip(pipeline: WanPipeline, spec: Umt5) -> None:
    empty, negative = spec.open("cpu").constants()
    assert (empty.clip_id, negative.clip_id) == (None, None)
    assert [(cell.caption.captioner, cell.caption.role) for cell in (empty, negative)] == [("constant", "empty"), ("constant", "negative")]
    for cell, text in ((empty, ""), (negative, "blurry, ugly")):
        np.testing.assert_allclose(padded(cell.data, 512), embedded(pipeline, [text])[0], rtol=0, atol=1e-5)


def test_a_text_of_512_tokens_fits_and_one_more_is_flagged(spec: Umt5, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    ((fits,), (over,)) = opened.encode([sample(text="a " * 511), sample(text="a " * 512)])
    assert fits.columns == {"length": 512, "text_truncated": False}
    assert over.columns == {"length": 512, "text_truncated": True}


def test_the_attention_mask_counts(spec: Umt5, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    ((cell,),) = opened.encode([sample(text="a dog")])
    tokens = opened.tokenizer(["a dog"], padding="max_length", max_length=512, return_tensors="pt").input_ids
    with torch.no_grad():
        unmasked = opened.model(tokens)[0][0, :4].numpy()
    assert np.abs(unmasked - cell.data).max() > 1e-3


def test_texts_that_are_not_utf8_are_embedded(spec: Umt5, sample: Callable[..., Sample]) -> None:
    ((cell,),) = spec.open("cpu").encode([sample(text="\udcff 🎈 日本語")])
    assert np.isfinite(cell.data).all()


def test_a_local_folder_gives_the_same_rows(spec: Umt5, sample: Callable[..., Sample]) -> None:
    local = dataclasses.replace(spec, model=str(tiny.folder("tiny-wan")))
    np.testing.assert_array_equal(local.open("cpu").encode([sample()])[0][0].data, spec.open("cpu").encode([sample()])[0][0].data)


def test_another_negative_prompt_is_another_setting(spec: Umt5) -> None:
    assert dataclasses.replace(spec, negative_prompt="").products()[0].settings != spec.products()[0].settings


def test_a_backbone_with_another_text_model_is_refused() -> None:
    with pytest.raises(CallError, match="umt5 is the text model of wan backbones"):
        Umt5(backbone="tiny-cogvideox")


def test_the_real_files_are_named_when_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    absent = weights.missing(Umt5(backbone="wan2.1-i2v-14b-480p").weights())
    assert {one.file.split("/")[0] for one in absent} == {"text_encoder", "tokenizer"}
    assert absent[0].weight.how.startswith("hf download Wan-AI/Wan2.1-")
