"""T5 on the tiny T5EncoderModel, against transformers' own forward."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5EncoderModel

from vapdata import weights
from vapdata.clip import Sample
from vapdata.encoders.prompts import speakable
from vapdata.encoders.t5 import T5


@pytest.fixture
def spec(tiny_models: Path) -> T5:
    """The tiny recipe's texts."""
    return T5(backbone="tiny-cogvideox", negative_prompt="blurry, ugly")


def library_embedding(folder: Path, text: str) -> np.ndarray:
    """As diffusers' CogVideoX pipeline embeds a prompt: padded to the backbone's rows, no attention mask."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = T5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    tokens = tokenizer([text], padding="max_length", max_length=32, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return model(tokens)[0][0].numpy()


@pytest.mark.parametrize("text", ["a red circle moves right", "", "word " * 400])
def test_rows_equal_the_librarys(tiny_models: Path, spec: T5, sample: Callable[..., Sample], text: str) -> None:
    ((cell,),) = spec.open("cpu").encode([sample(text=text)])
    np.testing.assert_allclose(cell.data, library_embedding(tiny_models, text), atol=1e-5)


def test_what_is_declared_is_what_is_written(spec: T5, sample: Callable[..., Sample]) -> None:
    ((cell,),) = spec.open("cpu").encode([sample()])
    (product,) = spec.products()
    assert cell.product == product.name == "tiny-t5-32"
    assert cell.data.dtype == np.float32
    assert cell.shape == cell.data.shape == (32, 64)
    assert cell.columns == {"length": 6, "text_truncated": False}
    assert cell.caption == sample().caption
    assert (product.table, product.dtype, product.reads_caption, product.without_caption) == ("texts", "bf16", True, "empty")


def test_a_clip_without_caption_is_the_empty_text(spec: T5, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    ((without,), (blank,)) = opened.encode([sample(0, text=None), sample(1, text="")])
    np.testing.assert_array_equal(without.data, blank.data)
    assert without.columns["length"] == 1
    assert without.caption is None


def test_the_empty_and_the_negative_prompt_belong_to_no_clip(tiny_models: Path, spec: T5) -> None:
    empty, negative = spec.open("cpu").constants()
    assert (empty.clip_id, negative.clip_id) == (None, None)
    assert [(cell.caption.captioner, cell.caption.role) for cell in (empty, negative)] == [("constant", "empty"), ("constant", "negative")]
    np.testing.assert_allclose(empty.data, library_embedding(tiny_models, ""), atol=1e-5)
    np.testing.assert_allclose(negative.data, library_embedding(tiny_models, "blurry, ugly"), atol=1e-5)


def test_another_negative_prompt_is_another_setting(spec: T5) -> None:
    assert dataclasses.replace(spec, negative_prompt="").products()[0].settings != spec.products()[0].settings


def test_a_text_of_as_many_tokens_as_rows_fits_and_one_more_is_flagged(spec: T5, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    ((fits,), (over,)) = opened.encode([sample(text="red " * 31), sample(text="red " * 32)])
    assert fits.columns == {"length": 32, "text_truncated": False}
    assert over.columns == {"length": 32, "text_truncated": True}
    assert over.shape == (32, 64)


def test_padding_rows_are_kept_and_alive(spec: T5, sample: Callable[..., Sample]) -> None:
    ((one,), (two,)) = spec.open("cpu").encode([sample(text="a dog"), sample(text="a red circle")])
    assert np.abs(one.data[16:]).mean() > 0.01
    assert np.abs(one.data[16:] - two.data[16:]).max() > 1e-4


def test_a_row_does_not_depend_on_its_batch(spec: T5, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    samples = [sample(number, text="shape " * number) for number in range(4)]
    for cells, one in zip(opened.encode(samples), samples, strict=True):
        np.testing.assert_array_equal(cells[0].data, opened.encode([one])[0][0].data)


def test_texts_that_are_not_utf8_are_embedded(spec: T5, sample: Callable[..., Sample]) -> None:
    assert speakable("a\udcffb 🎈") == "a?b 🎈"
    ((cell,),) = spec.open("cpu").encode([sample(text="\udcff 🎈 日本語")])
    assert np.isfinite(cell.data).all()


def test_a_local_folder_gives_the_same_rows(tiny_models: Path, spec: T5, sample: Callable[..., Sample]) -> None:
    local = dataclasses.replace(spec, model=str(tiny_models))
    np.testing.assert_array_equal(local.open("cpu").encode([sample()])[0][0].data, spec.open("cpu").encode([sample()])[0][0].data)


def test_the_real_files_are_named_when_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    absent = weights.missing(T5(backbone="cogvideox-2b").weights())
    assert [one.file for one in absent] == [
        "text_encoder/config.json",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "tokenizer/tokenizer_config.json",
        "tokenizer/spiece.model",
    ]
    assert absent[0].weight.how == 'hf download zai-org/CogVideoX-2b --include "text_encoder/*"'
