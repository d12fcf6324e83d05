"""G9 of methods.md 3.7: words and tokens of two real tokenizer classes find each other by characters."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from vapdata import tiny
from vapdata.encoders import word_spans
from vapdata.encoders.prompts import clean


@pytest.fixture(scope="module")
def tokenizers(tiny_models: Path) -> dict[str, Any]:
    """UMT5's tokenizer, which cuts words into pairs of letters, and XLM-RoBERTa's, which knows whole words."""
    folder = tiny.folder("tiny-wan")
    return {"umt5": AutoTokenizer.from_pretrained(folder / "tokenizer"), "xlm": AutoTokenizer.from_pretrained(folder / "xlm_roberta")}


def offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Characters of each token."""
    return [tuple(one) for one in tokenizer(text, return_offsets_mapping=True).offset_mapping]


def found(text: str, starts: frozenset[int] = frozenset()) -> list[str]:
    """The words of a text."""
    return [text[start:end] for start, end in word_spans.words(text, starts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ,. 🎈!", []),
        ("a red circle.", ["a", "red", "circle"]),
        ("it's the dog's close-up", ["it's", "the", "dog's", "close-up"]),
        ("'quoted' - and-", ["quoted", "and"]),
        ("déjà vu, naïve", ["déjà", "vu", "naïve"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("Привет, мир", ["Привет", "мир"]),
        ("red🎈blue", ["red", "blue"]),
        ("snake_case 3D", ["snake", "case", "3D"]),
        ("一只狗", ["一只狗"]),
        ("AI狗run", ["AI", "狗", "run"]),
    ],
)
def test_words_of_a_text(text: str, expected: list[str]) -> None:
    assert found(text) == expected


def test_a_script_without_spaces_is_cut_where_tokens_start() -> None:
    assert found("红色的狗", frozenset({0, 2, 3})) == ["红色", "的", "狗"]
    assert found("circle", frozenset({0, 2, 3})) == ["circle"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.lists(st.text(alphabet="abcdefghijkABCéüß", min_size=1, max_size=14), min_size=1, max_size=8))
@pytest.mark.parametrize("name", ["umt5", "xlm"])
def test_random_words_go_to_tokens_and_back(tokenizers: dict[str, Any], name: str, drawn: list[str]) -> None:
    text = " ".join(drawn)
    tokens = offsets(tokenizers[name], text)
    spans = word_spans.words(text)
    assert [text[start:end] for start, end in spans] == drawn
    ranges = [word_spans.rows(tokens, span) for span in spans]
    assert [word_spans.covered(tokens, one) for one in ranges if one] == spans
    # Every token but the special ones belongs to exactly one word, in order: nothing left out, nothing shared.
    assert [row for first, last in ranges for row in range(first, last)] == [row for row, (start, end) in enumerate(tokens) if end > start]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.text(max_size=40))
def test_in_any_text_each_character_of_a_word_lies_in_its_rows(tokenizers: dict[str, Any], drawn: str) -> None:
    text = clean(drawn)
    for tokenizer in tokenizers.values():
        tokens = offsets(tokenizer, text)
        for span in word_spans.words(text):
            rows = word_spans.rows(tokens, span)
            assert rows is not None
            inside = [place for start, end in tokens[rows[0] : rows[1]] for place in range(start, end)]
            assert set(range(*span)) <= set(inside)
            outside = [place for row, one in enumerate(tokens) if not rows[0] <= row < rows[1] for place in range(*one)]
            assert not set(range(*span)) & set(outside)


def test_a_word_of_several_tokens_is_covered_whole(tokenizers: dict[str, Any]) -> None:
    text = "a mountain moves"
    tokens = offsets(tokenizers["umt5"], text)
    assert word_spans.rows(tokens, (2, 10)) == (1, 6)
    assert len(tokens) == 10  # a, five of mountain, three of moves, the end mark
    assert word_spans.rows(offsets(tokenizers["xlm"], text), (2, 10)) == (2, 3)


def test_chinese_words_of_one_tokenizer_find_the_others_rows(tokenizers: dict[str, Any]) -> None:
    text = "红色的狗 runs"
    starts = frozenset(start for start, end in offsets(tokenizers["xlm"], text) if end > start)
    assert found(text, starts) == ["红色", "的", "狗", "runs"]
    rows = [word_spans.rows(offsets(tokenizers["umt5"], text), span) for span in word_spans.words(text, starts)]
    assert rows == [(0, 3), (3, 4), (4, 5), (5, 8)]  # the mark of a word's start counts to the first


def test_a_word_whose_end_was_cut_off_has_no_rows() -> None:
    assert word_spans.rows([(0, 1), (2, 4)], (2, 6)) is None
    assert word_spans.rows([(0, 1), (0, 0)], (2, 6)) is None
    assert word_spans.rows([(0, 1), (2, 4), (4, 6), (0, 0)], (2, 6)) == (1, 3)


@pytest.mark.parametrize(("word", "expected"), [("dog", True), ("The", False), ("12", False), ("3D", True), ("的", False), ("狗", True), ("it's", False)])
def test_stop_words_and_numbers_name_nothing(word: str, expected: bool) -> None:
    assert word_spans.names_something(f"x {word}", (2, 2 + len(word))) is expected
