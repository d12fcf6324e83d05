"""Words of a text, and which tokens of a tokenizer they are: tokenizers agree on characters and on nothing else.

A span is (start, end) in characters of the text, a row range (first, last + 1) in tokens.
Exercised by `pytest tests/vapdata/encoders/test_word_spans.py`.
"""

import unicodedata
from collections.abc import Sequence

Span = tuple[int, int]

STOP_WORDS = frozenset(
    "a an the this that these those it its it's he him his she her hers they them their there here we us our you your i me my "
    "and or but nor so yet as if than then while when where which who whom whose what how why because although though "
    "of in on at to from by for with without into onto over under about above below between through during across along "
    "around behind before after against near off out up down upon within toward towards is are was were be been being am "
    "do does did has have had can could will would shall should may might must not no also very more most some any each "
    "every all both one's only just too such own same other another again once "
    "的 了 在 是 和 与 或 也 都 就 着 过 地 得 有 这 那 它 他 她 其 之 而 及 被 把 向 从 到 为 以 于 一 个 中 里 上 下 の に は を が と で も へ".split()
)
"""Words that name nothing in a picture; compared in lower case."""
_JOINERS = "'’-‐‑"
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x9FFF),  # Chinese characters
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts that put no space between words."""


def words(text: str, token_starts: frozenset[int] = frozenset()) -> list[Span]:
    """Spans of the words of `text`, in order: runs of letters, marks and digits, joined over an inner apostrophe or hyphen.

    In scripts without spaces a run is cut where a token starts, since a multilingual tokenizer's pieces are about words.
    """
    found: list[Span] = []
    at = 0
    while at < len(text):
        end = _word_end(text, at, token_starts)
        if end > at:
            found.append((at, end))
        at = max(end, at + 1)
    return found


def names_something(text: str, span: Span) -> bool:
    """Whether the word may be a keyword: it has a letter and is no stop word."""
    word = text[span[0] : span[1]]
    return any(character.isalpha() for character in word) and word.lower() not in STOP_WORDS


def rows(offsets: Sequence[Span], span: Span) -> Span | None:
    """The range of tokens that touch the word: every one that holds some character of it.

    `offsets` are the tokenizer's, in characters; special tokens have empty ones. None when the word's end was cut off.
    """
    touching = [row for row, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    if not touching or max(offsets[row][1] for row in touching) < span[1]:
        return None
    return touching[0], touching[-1] + 1


def covered(offsets: Sequence[Span], tokens: Span) -> Span:
    """The characters from the first to the last of a range of tokens: `rows` turned round."""
    inside = [one for one in offsets[tokens[0] : tokens[1]] if one[1] > one[0]]
    return min(start for start, _ in inside), max(end for _, end in inside)


def _word_end(text: str, at: int, token_starts: frozenset[int]) -> int:
    """Where the word that starts at `at` ends; `at` itself when none starts there."""
    end = at
    while end < len(text):
        character = text[end]
        joins = character in _JOINERS and end > at and end + 1 < len(text) and _in_word(text[end + 1]) and not _unspaced(text[end + 1])
        if not _in_word(character) and not joins:
            break
        if end > at and (_unspaced(character) or _unspaced(text[end - 1])):
            changes = _unspaced(character) != _unspaced(text[end - 1])
            if changes or end in token_starts:
                break
        end += 1
    return end


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _unspaced(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _UNSPACED)
