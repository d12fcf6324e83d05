"""Cleaning as diffusers' Wan pipeline does it, marks taken out, rows padded, families told apart."""

import numpy as np
import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from hypothesis import given
from hypothesis import strategies as st

from vapdata.backbones import backbone
from vapdata.encoders.prompts import blanked, clean, encoder_weight, of_family, padded, plain, tokenizer_weight, unconditional
from vapdata.errors import CallError


@pytest.mark.parametrize(
    "text",
    ["", " ", "a  red\n\tball ", "Tom &amp; Jerry &lt;3", "&amp;amp;lt;b&gt;", "cafÃ© â€œquotedâ€\x9d", "一只 红色　的狗", "ﬁne\u200b x", "a\x1cb\x85c\u2028d"],
)
def test_a_prompt_is_cleaned_as_wans_pipeline_does(text: str) -> None:
    assert clean(text) == prompt_clean(text)


@given(st.text(max_size=60))
def test_any_text_is_cleaned_as_wans_pipeline_does(text: str) -> None:
    assert clean(text) == prompt_clean(text)


def test_marks_inside_a_caption_become_spaces() -> None:
    assert plain("a <image> b<|eot_id|>c\udcff", ("<image>", "<|eot_id|>")) == "a   b c?"
    assert "<image>" not in plain("<im<image>age>", ("<image>",))


def test_blanked_marks_leave_the_other_characters_in_their_places() -> None:
    assert blanked("a <s>dog</s> b", ("<s>", "</s>")) == "a    dog     b"


def test_the_empty_and_the_negative_prompt_are_told_apart_by_their_role() -> None:
    assert [(each.text, each.captioner, each.role) for each in unconditional("ugly")] == [("", "constant", "empty"), ("ugly", "constant", "negative")]


def test_padding_is_zeros_below() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = padded(rows, 5)
    np.testing.assert_array_equal(found[:2], rows)
    assert found.shape == (5, 3)
    assert not found[2:].any()


def test_a_text_model_of_another_family_is_refused() -> None:
    assert of_family("tiny-wan", "wan", "umt5").name == "tiny-wan"
    with pytest.raises(CallError, match=r"umt5.backbone = cogvideox-2b: umt5 is the text model of wan backbones"):
        of_family("cogvideox-2b", "wan", "umt5")


def test_backbones_that_share_a_text_model_look_for_it_in_one_place() -> None:
    shared = {encoder_weight(backbone(name), None).repo for name in ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.1-i2v-14b-480p")}
    assert len(shared) == 1
    assert encoder_weight(backbone("wan2.1-t2v-14b"), "./mine").repo == tokenizer_weight(backbone("wan2.1-t2v-14b"), "./mine").repo == "./mine"
