"""Characters of a caption and rows of its stored embedding, against the embeddings that the encoders store."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vapdata import tiny
from vapdata.backbones import backbone
from vapdata.clip import Sample, Sampling
from vapdata.encoders import word_spans
from vapdata.encoders.llava import Llava
from vapdata.encoders.stored_rows import NOTHING, StoredRows, stored_rows
from vapdata.encoders.umt5 import Umt5

TEXTS = ["a red circle moves right", "", " two\n\nthree ", "A Dog's ball {0}", "一只红色的狗", "🎈 déjà &amp; vu", "a <image>dog<|eot_id|>", "the video shows " * 200]


@pytest.fixture(scope="module")
def llama(tiny_models: Path) -> PreTrainedTokenizerBase:
    """The tiny HunyuanVideo's tokenizer."""
    return AutoTokenizer.from_pretrained(tiny.folder("tiny-hunyuan") / "tokenizer")


def row_of(stored: StoredRows, word: str) -> tuple[int, int]:
    """First and last + 1 row of the word's first place."""
    at = stored.text.index(word)
    rows = word_spans.rows(stored.offsets, (at, at + len(word)))
    assert rows is not None
    return rows


@pytest.mark.parametrize("every", [4, 2, 1])
@pytest.mark.parametrize("text", TEXTS)
def test_there_is_one_offset_for_each_row_that_llava_stores(
    llama: PreTrainedTokenizerBase, sampling: Sampling, sample: Callable[..., Sample], text: str, every: int
) -> None:
    ((cell,),) = Llava(backbone="tiny-hunyuan", sampling=sampling, interleave=every).open("cpu").encode([sample(text=text)])
    stored = stored_rows(backbone("tiny-hunyuan"), llama, text, every)
    assert len(stored.offsets) == len(cell.data)
    assert stored.truncated == cell.columns["text_truncated"]
    assert set(stored.offsets[: 576 // every]) == {NOTHING}


@pytest.mark.parametrize("text", TEXTS)
def test_there_is_one_offset_for_each_row_that_umt5_stores(tiny_models: Path, sample: Callable[..., Sample], text: str) -> None:
    ((cell,),) = Umt5(backbone="tiny-wan").open("cpu").encode([sample(text=text)])
    stored = stored_rows(backbone("tiny-wan"), AutoTokenizer.from_pretrained(tiny.folder("tiny-wan") / "tokenizer"), text, 1)
    assert len(stored.offsets) == len(cell.data)
    assert stored.truncated == cell.columns["text_truncated"]


@pytest.mark.parametrize(
    ("before", "after"), [("circle", "square"), ("mountain", "building"), ("dog", "cat"), ("ballon", "balles"), ("狗狗", "猫狗")]
)
def test_the_first_row_that_another_word_changes_is_its_span(
    llama: PreTrainedTokenizerBase, sampling: Sampling, sample: Callable[..., Sample], before: str, after: str
) -> None:
    """LLaVA looks back only: rows before the word stay what they were, the word's last row does not."""
    text = f"a red {before} moves past it, déjà vu"
    opened = Llava(backbone="tiny-hunyuan", sampling=sampling).open("cpu")
    ((one,), (other,)) = opened.encode([sample(text=text), sample(text=text.replace(before, after))])
    stored = stored_rows(backbone("tiny-hunyuan"), llama, text, 4)
    first, last = row_of(stored, before)
    np.testing.assert_array_equal(one.data[:first], other.data[:first])
    assert np.abs(one.data[first:last] - other.data[first:last]).max() > 1e-4
    assert stored.offsets[first][0] in (stored.text.index(before) - 1, stored.text.index(before)), "a token may begin with the space before"


def test_words_behind_the_last_row_have_none(llama: PreTrainedTokenizerBase) -> None:
    stored = stored_rows(backbone("tiny-hunyuan"), llama, "the video shows " * 200 + "mountain", 4)
    assert stored.truncated
    at = stored.text.index("mountain")
    assert word_spans.rows(stored.offsets, (at, at + 8)) is None


def test_a_special_token_in_the_caption_moves_no_word(llama: PreTrainedTokenizerBase) -> None:
    marked, plain = (stored_rows(backbone("tiny-hunyuan"), llama, text, 4) for text in ("a <image>dog<|eot_id|> runs", "a  dog  runs"))
    assert (marked.text, marked.offsets) == (plain.text, plain.offsets)
