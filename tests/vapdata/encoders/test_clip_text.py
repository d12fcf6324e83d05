"""ClipText on the tiny CLIPTextModel, against diffusers' own HunyuanVideo pipeline."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoImageToVideoPipeline
from transformers import AutoTokenizer, CLIPTextModel

from vapdata import tiny, weights
from vapdata.clip import Sample
from vapdata.encoders.clip_text import ClipText
from vapdata.errors import CallError

TEXTS = ["a red circle moves right", "", "a", "A Dog's BALL", "一只红色的狗", "the video shows " * 3, "🎈 déjà vu", "two three"]


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> HunyuanVideoImageToVideoPipeline:
    """The pipeline with nothing but its second text model."""
    folder = tiny.folder("tiny-hunyuan")
    return HunyuanVideoImageToVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=None,
        vae=None,
        scheduler=None,
        text_encoder_2=CLIPTextModel.from_pretrained(folder / "text_encoder_2").eval(),
        tokenizer_2=AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
        image_processor=None,
    )


@pytest.fixture
def spec(tiny_models: Path) -> ClipText:
    """The tiny recipe's pooled texts."""
    return ClipText(backbone="tiny-hunyuan", negative_prompt="blurry, ugly")


def pooled(pipeline: HunyuanVideoImageToVideoPipeline, texts: list[str]) -> np.ndarray:
    """The pipeline's own embedding."""
    with torch.no_grad():
        return pipeline._get_clip_prompt_embeds(texts, device=torch.device("cpu")).numpy()


@pytest.mark.parametrize("text", [*TEXTS, "word " * 400])
def test_vectors_equal_the_pipelines(pipeline: HunyuanVideoImageToVideoPipeline, spec: ClipText, sample: Callable[..., Sample], text: str) -> None:
    ((cell,),) = spec.open("cpu").encode([sample(text=text)])
    np.testing.assert_allclose(cell.data, pooled(pipeline, [text])[0], rtol=0, atol=1e-5)


def test_one_by_one_equals_a_batch_of_eight(pipeline: HunyuanVideoImageToVideoPipeline, spec: ClipText, sample: Callable[..., Sample]) -> None:
    samples = [sample(number, text=text) for number, text in enumerate(TEXTS)]
    opened = spec.open("cpu")
    together = np.stack([cells[0].data for cells in opened.encode(samples)])
    np.testing.assert_allclose(together, pooled(pipeline, TEXTS), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(together, np.stack([opened.encode([one])[0][0].data for one in samples]))


def test_what_is_declared_is_what_is_written(spec: ClipText, sample: Callable[..., Sample]) -> None:
    ((cell,),) = spec.open("cpu").encode([sample(text="a red")])
    (product,) = spec.products()
    assert cell.product == product.name == "tiny-hunyuan-clip-l-pooled"
    assert cell.shape == cell.data.shape == (32,)
    assert cell.data.dtype == np.float32
    assert cell.columns == {"length": 4, "text_truncated": False}
    assert (product.table, product.dtype, product.reads_caption, product.without_caption) == ("texts", "bf16", True, "empty")


def test_75_words_fit_and_76_do_not(spec: ClipText, sample: Callable[..., Sample]) -> None:
    ((fits,), (over,)) = spec.open("cpu").encode([sample(text="a " * 75), sample(text="a " * 76)])
    assert fits.columns == {"length": 77, "text_truncated": False}
    assert over.columns == {"length": 77, "text_truncated": True}


def test_the_empty_and_the_negative_prompt_belong_to_no_clip(pipeline: HunyuanVideoImageToVideoPipeline, spec: ClipText) -> None:
    cells = spec.open("cpu").constants()
    assert [(cell.clip_id, cell.caption.role) for cell in cells] == [(None, "empty"), (None, "negative")]
    np.testing.assert_allclose(np.stack([cell.data for cell in cells]), pooled(pipeline, ["", "blurry, ugly"]), rtol=0, atol=1e-5)


def test_an_end_mark_in_a_caption_does_not_end_it(spec: ClipText, sample: Callable[..., Sample]) -> None:
    ((marked,), (spaced,)) = spec.open("cpu").encode([sample(text="a dog<|endoftext|>runs"), sample(text="a dog runs")])
    np.testing.assert_array_equal(marked.data, spaced.data)


def test_a_caption_of_one_endless_word_takes_no_endless_time(spec: ClipText, sample: Callable[..., Sample]) -> None:
    ((cell,),) = spec.open("cpu").encode([sample(text="therainbow" * 100_000)])
    assert cell.columns["text_truncated"] is True


def test_a_local_folder_gives_the_same_vectors(spec: ClipText, sample: Callable[..., Sample]) -> None:
    local = dataclasses.replace(spec, model=str(tiny.folder("tiny-hunyuan")))
    np.testing.assert_array_equal(local.open("cpu").encode([sample()])[0][0].data, spec.open("cpu").encode([sample()])[0][0].data)


def test_a_backbone_without_it_is_refused_and_real_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallError, match="clip_text is the text model of hunyuan backbones"):
        ClipText(backbone="tiny-wan")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    absent = weights.missing(ClipText(backbone="hunyuanvideo-i2v").weights())
    assert [one.file for one in absent] == [
        "text_encoder_2/config.json",
        "text_encoder_2/model.safetensors",
        "tokenizer_2/tokenizer_config.json",
        "tokenizer_2/vocab.json",
    ]
