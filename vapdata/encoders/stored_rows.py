"""Which characters of a caption each row of its stored text embedding speaks of, for whoever must find a word there.

The embeddings are those of `umt5` and `llava`: cleaned, cut and laid out as those store them.
Exercised by `pytest tests/vapdata/encoders/test_stored_rows.py`.
"""

from dataclasses import dataclass
from typing import Any

from vapdata.backbones import Backbone
from vapdata.encoders import llava_prompt
from vapdata.encoders.prompts import clean, plain
from vapdata.encoders.word_spans import Span

NOTHING: Span = (0, 0)
"""What a row of the picture, of the template or of a special token holds of the caption."""


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """A caption as its encoder reads it."""

    text: str
    """Spans count its characters."""
    offsets: list[Span]
    """For each stored row, the characters that its token holds."""
    truncated: bool
    """The caption has more tokens than rows."""


def stored_rows(facts: Backbone, tokenizer: Any, caption: str, every: int) -> StoredRows:
    """The rows of `caption` in the embedding that the backbone's text encoder stores (Wan, HunyuanVideo).

    `tokenizer` is that encoder's; `every` is of how many image rows HunyuanVideo's keeps one.
    """
    if facts.family == "wan":
        text = clean(caption)
        return StoredRows(text=text, offsets=_offsets(tokenizer, text, facts.text.rows), truncated=_tokens(tokenizer, text) > facts.text.rows)
    text = plain(caption, tokenizer.get_added_vocab())
    prompt, limit = llava_prompt.TEMPLATE.format(text), facts.text.rows + llava_prompt.CROP
    ids = tokenizer(prompt, max_length=limit, truncation=True).input_ids
    kept = llava_prompt.kept(ids, tokenizer.convert_tokens_to_ids("<|end_header_id|>"), len(ids), every)
    behind = llava_prompt.CROP + llava_prompt.PATCHES - 1  # where the caption begins once the picture is spread over its patches
    offsets = _offsets(tokenizer, prompt, limit)[llava_prompt.CROP :]
    told = [_within(offsets[row - behind], len(text)) if row >= behind else NOTHING for row in kept]
    return StoredRows(text=text, offsets=told, truncated=_tokens(tokenizer, prompt) > limit)


def _within(offset: Span, length: int) -> Span:
    """A token's characters in the prompt as characters of the caption in it."""
    start, end = (min(max(place - llava_prompt.CAPTION_AT, 0), length) for place in offset)
    return (start, end) if end > start else NOTHING


def _offsets(tokenizer: Any, text: str, limit: int) -> list[Span]:
    return [(start, end) for start, end in tokenizer(text, max_length=limit, truncation=True, return_offsets_mapping=True).offset_mapping]


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, truncation=False, verbose=False).input_ids)
