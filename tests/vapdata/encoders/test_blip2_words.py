"""Blip2Words on the tiny BLIP-2, against transformers' own way of embedding a caption."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Blip2ForImageTextRetrieval

from vapdata import tiny
from vapdata.clip import Sample
from vapdata.encoders.blip2_words import Blip2Words, words_product

TEXTS = ["a red circle moves right", "", "A Dog's BALL", "zqk [SEP] then", "🎈 déjà vu"]


@pytest.fixture
def spec(tiny_models: Path) -> Blip2Words:
    """The tiny recipe's words."""
    return Blip2Words(backbone="tiny-cogvideox", negative_prompt="blurry")


def test_rows_are_what_the_q_former_is_given(spec: Blip2Words, sample: Callable[..., Sample]) -> None:
    """Its embedding's output after the Q-Former's first norm, caught there in transformers' own forward pass, which wants image tokens in front."""
    folder = tiny.folder("tiny-blip2")
    model, tokenizer = Blip2ForImageTextRetrieval.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    caught: list[torch.Tensor] = []
    model.qformer.layernorm.register_forward_hook(lambda _, given, made: caught.append(made))
    opened = spec.open("cpu")
    for text in (TEXTS[0], TEXTS[2]):
        ((cell,),) = opened.encode([sample(text=text)])
        ids = tokenizer(text, return_tensors="pt").input_ids
        front = torch.full((1, model.config.num_query_tokens), model.config.image_token_index)
        given = torch.cat([front, ids], dim=1)
        with torch.no_grad():
            model(pixel_values=torch.zeros(1, 3, 224, 224), input_ids=given, attention_mask=torch.ones_like(given), use_image_text_matching_head=False)
        (wanted,) = [each for each in caught if each.shape[1] == ids.shape[1]]
        np.testing.assert_allclose(cell.data, wanted[0].detach().numpy(), rtol=0, atol=1e-6)
        caught.clear()


def test_one_by_one_equals_a_batch_and_rows_are_ragged(spec: Blip2Words, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    together = [cells[0] for cells in opened.encode([sample(number, text=text) for number, text in enumerate(TEXTS)])]
    for text, cell in zip(TEXTS, together, strict=True):
        np.testing.assert_array_equal(cell.data, opened.encode([sample(text=text)])[0][0].data)
    assert [cell.columns["length"] for cell in together] == [len(cell.data) for cell in together]
    assert (len(together[0].data), len(together[1].data)) == (7, 2), "[CLS] and [SEP] included"


def test_a_mark_inside_a_caption_is_no_mark(spec: Blip2Words, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    (marked,), (plain,) = opened.encode([sample(text="zqk [SEP] then"), sample(text="zqk   then")])
    np.testing.assert_array_equal(marked.data, plain.data)


def test_what_is_declared_is_what_is_written_and_long_captions_are_cut(spec: Blip2Words, sample: Callable[..., Sample]) -> None:
    (fits,), (over,) = spec.open("cpu").encode([sample(text="a " * 75), sample(text="a " * 76)])
    (product,) = spec.products()
    assert fits.product == product.name == words_product(True) == "tiny-blip2-g14-words-77"
    assert (fits.columns, over.columns) == ({"length": 77, "text_truncated": False}, {"length": 77, "text_truncated": True})
    assert (product.table, product.dtype, product.reads_caption, product.without_caption) == ("texts", "bf16", True, "empty")
    assert (product.settings["rows"], fits.shape, fits.data.dtype) == (77, (77, 32), np.float32)


def test_the_empty_and_the_negative_prompt_belong_to_no_clip(spec: Blip2Words) -> None:
    cells = spec.open("cpu").constants()
    assert [(cell.clip_id, cell.caption.role, len(cell.data)) for cell in cells] == [(None, "empty", 2), (None, "negative", cells[1].columns["length"])]


def test_the_real_ones_folder_is_blip_2s() -> None:
    spec = Blip2Words(backbone="cogvideox-2b")
    assert {weight.repo for weight in spec.weights()} == {"Salesforce/blip2-itm-vit-g"}
    assert spec.products()[0].name == "blip2-g14-words-77"
