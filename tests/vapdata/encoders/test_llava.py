"""Llava on the tiny LlavaForConditionalGeneration, against diffusers' own HunyuanVideo pipeline and transformer."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoImageToVideoPipeline, HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessor, LlavaForConditionalGeneration

from vapdata import tiny
from vapdata.clip import Sample, Sampling
from vapdata.encoders import llava_prompt
from vapdata.encoders.llava import Llava
from vapdata.encoders.prompts import padded
from vapdata.errors import CallError

TEXTS = ["a red circle moves right", "", "a", "A Dog's ball {0}", "一只红色的狗", "the video shows " * 10, "🎈 déjà vu", "two\n\nthree"]
LONG = "the video shows " * 200


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> HunyuanVideoImageToVideoPipeline:
    """The pipeline with nothing but its first text model."""
    folder = tiny.folder("tiny-hunyuan")
    return HunyuanVideoImageToVideoPipeline(
        text_encoder=LlavaForConditionalGeneration.from_pretrained(folder / "text_encoder").eval(),
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        transformer=None,
        vae=None,
        scheduler=None,
        text_encoder_2=None,
        tokenizer_2=None,
        image_processor=CLIPImageProcessor.from_pretrained(folder / "image_processor"),
    )


@pytest.fixture
def spec(tiny_models: Path, sampling: Sampling) -> Llava:
    """The tiny recipe's prompts."""
    return Llava(backbone="tiny-hunyuan", sampling=sampling, negative_prompt="blurry, ugly")


def library(
    pipeline: HunyuanVideoImageToVideoPipeline, frames: list[np.ndarray], texts: list[str], interleave: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """The pipeline's own prompt embeddings and masks."""
    with torch.no_grad():
        rows, mask = pipeline._get_llama_prompt_embeds(
            [Image.fromarray(frame) for frame in frames],
            texts,
            DEFAULT_PROMPT_TEMPLATE,
            device=torch.device("cpu"),
            image_embed_interleave=interleave,
        )
    return rows.numpy(), mask.numpy().astype(bool)


def test_the_template_is_the_pipelines() -> None:
    assert DEFAULT_PROMPT_TEMPLATE["template"] == llava_prompt.TEMPLATE
    assert DEFAULT_PROMPT_TEMPLATE["crop_start"] == llava_prompt.CROP
    assert DEFAULT_PROMPT_TEMPLATE["image_emb_start"] == llava_prompt.IMAGE_AT
    assert DEFAULT_PROMPT_TEMPLATE["image_emb_len"] == llava_prompt.PATCHES


@pytest.mark.parametrize("interleave", [4, 2])
@pytest.mark.parametrize("text", [*TEXTS, LONG])
@pytest.mark.slow
def test_rows_equal_the_pipelines_under_its_mask(
    pipeline: HunyuanVideoImageToVideoPipeline, spec: Llava, sample: Callable[..., Sample], text: str, interleave: int
) -> None:
    one = sample(3, text=text)
    ((cell,),) = dataclasses.replace(spec, interleave=interleave).open("cpu").encode([one])
    rows, mask = library(pipeline, [one.first], [text], interleave)
    assert mask[0].tolist() == sorted(mask[0].tolist(), reverse=True), "padding comes last"
    np.testing.assert_allclose(cell.data, rows[0][mask[0]], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_one_by_one_equals_a_batch_of_eight(pipeline: HunyuanVideoImageToVideoPipeline, spec: Llava, sample: Callable[..., Sample]) -> None:
    samples = [sample(number, text=text) for number, text in enumerate(TEXTS)]
    opened = spec.open("cpu")
    cells = opened.encode(samples)
    rows, mask = library(pipeline, [one.first for one in samples], TEXTS)
    for number, (cell,) in enumerate(cells):
        np.testing.assert_allclose(cell.data, rows[number][mask[number]], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(cell.data, opened.encode([samples[number]])[0][0].data)


def test_the_transformer_reads_no_padding_row(pipeline: HunyuanVideoImageToVideoPipeline, spec: Llava, sample: Callable[..., Sample]) -> None:
    """What was dropped is not missed: zeros in its place give the same prediction of a real transformer."""
    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1, num_refiner_layers=1,
        text_embed_dim=64, pooled_projection_dim=32, rope_axes_dim=(4, 6, 6), guidance_embeds=True, image_condition_type="token_replace",
    ).eval()  # fmt: skip
    one = sample(text="a dog")
    rows, mask = library(pipeline, [one.first], ["a dog"])
    ((cell,),) = spec.open("cpu").encode([one])
    stored = torch.from_numpy(padded(cell.data, rows.shape[1]))[None]
    told = torch.arange(rows.shape[1])[None] < cell.columns["length"]
    np.testing.assert_array_equal(told.numpy(), mask)
    shared = {
        "hidden_states": torch.randn(1, 16, 3, 4, 4),
        "timestep": torch.tensor([500]),
        "pooled_projections": torch.randn(1, 32),
        "guidance": torch.tensor([6000.0]),
        "return_dict": False,
    }
    with torch.no_grad():
        theirs = transformer(encoder_hidden_states=torch.from_numpy(rows), encoder_attention_mask=torch.from_numpy(mask), **shared)[0]
        ours = transformer(encoder_hidden_states=stored, encoder_attention_mask=told, **shared)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_what_is_declared_is_what_is_written(spec: Llava, sample: Callable[..., Sample]) -> None:
    ((cell,),) = spec.open("cpu").encode([sample(text="a dog")])
    (product,) = spec.products()
    assert cell.product == product.name == "tiny-llava-256-96x160-i4"
    assert product.settings["image_rows"] == 144
    assert cell.shape == cell.data.shape == (147, 64)  # 144 of the picture, a, dog, and the blank line behind the header
    assert cell.data.dtype == np.float32
    assert cell.columns == {"length": 147, "text_truncated": False}
    assert (product.table, product.dtype, product.reads_caption, product.without_caption) == ("texts", "bf16", True, "empty")


def test_a_long_caption_is_cut_and_flagged(spec: Llava, sample: Callable[..., Sample]) -> None:
    ((cell,),) = spec.open("cpu").encode([sample(text=LONG)])
    assert cell.columns == {"length": 144 + 252, "text_truncated": True}


def test_one_long_caption_does_not_disturb_another(spec: Llava, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    together = opened.encode([sample(text=LONG), sample(text="a dog")])
    np.testing.assert_array_equal(together[1][0].data, opened.encode([sample(text="a dog")])[0][0].data)


def test_picture_and_text_both_change_the_rows(spec: Llava, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    reference, picture, text = (opened.encode([one])[0][0].data for one in (sample(0, text="a dog"), sample(3, text="a dog"), sample(0, text="a cat")))
    assert np.abs(picture - reference).max() > 1e-3
    np.testing.assert_array_equal(text[:144], reference[:144])
    assert np.abs(text[144:] - reference[144:]).max() > 1e-3


def test_special_tokens_inside_a_caption_are_spaces(spec: Llava, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    ((marked,), (spaced,)) = opened.encode([sample(text="a <image>dog<|eot_id|><|end_header_id|>"), sample(text="a  dog  ")])
    np.testing.assert_array_equal(marked.data, spaced.data)


def test_the_empty_and_the_negative_prompt_stand_over_a_black_picture(pipeline: HunyuanVideoImageToVideoPipeline, spec: Llava) -> None:
    cells = spec.open("cpu").constants()
    assert [(cell.clip_id, cell.caption.role) for cell in cells] == [(None, "empty"), (None, "negative")]
    black = np.zeros((96, 160, 3), np.uint8)
    for cell, text in zip(cells, ("", "blurry, ugly"), strict=True):
        rows, mask = library(pipeline, [black], [text])
        np.testing.assert_allclose(cell.data, rows[0][mask[0]], rtol=0, atol=1e-4)


def test_the_backbones_mode_decides_how_many_image_rows_are_kept(spec: Llava) -> None:
    assert spec.every == 4
    assert dataclasses.replace(spec, interleave=2).products()[0].name == "tiny-llava-256-96x160-i2"
    assert llava_prompt.INTERLEAVE == {"token_replace": 4, "latent_concat": 2}


def test_a_tokenizer_that_cuts_the_template_otherwise_is_refused(pipeline: HunyuanVideoImageToVideoPipeline) -> None:
    image = pipeline.text_encoder.config.image_token_index
    llava_prompt.check_template(pipeline.tokenizer, image, "tiny")
    other = AutoTokenizer.from_pretrained(tiny.folder("tiny-hunyuan") / "tokenizer_2")
    with pytest.raises(CallError, match=r"tokens, the picture at nowhere.*wanted 103 tokens, the picture at 5"):
        llava_prompt.check_template(other, -1, "some/model")


def test_a_backbone_without_it_is_refused(sampling: Sampling) -> None:
    with pytest.raises(CallError, match="llava is the text model of hunyuan backbones"):
        Llava(backbone="tiny-wan", sampling=sampling)
