"""What happens to a caption before a tokenizer sees it, and to its rows after they were stored.

Exercised by `pytest tests/vapdata/encoders/test_prompts.py`.
"""

import html
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from vapdata.backbones import Backbone, backbone
from vapdata.clip import Caption
from vapdata.errors import CallError
from vapdata.weights import Weight

CONSTANT = "constant"
"""Captioner of the prompts that belong to no clip."""


def speakable(text: str) -> str:
    """`text` with lone surrogates replaced: tokenizers take UTF-8 only."""
    return text.encode("utf-8", "replace").decode("utf-8")


def clean(text: str) -> str:
    """`text` as Wan cleans a prompt: mojibake mended, HTML entities read twice, runs of white space as one space."""
    import ftfy

    mended = html.unescape(html.unescape(ftfy.fix_text(speakable(text)).strip()))
    return " ".join(mended.split())


def plain(text: str, marks: Iterable[str]) -> str:
    """`text` in UTF-8 with a space in place of every one of `marks`: a caption must not end a turn or add a picture."""
    found = speakable(text)
    for mark in marks:
        found = found.replace(mark, " ")
    return found


def blanked(text: str, marks: Iterable[str]) -> str:
    """`text` with as many spaces in place of every one of `marks` as it has characters: the others keep their places."""
    for mark in marks:
        text = text.replace(mark, " " * len(mark))
    return text


def unconditional(negative: str) -> tuple[Caption, Caption]:
    """The empty and the negative prompt, which belong to no clip: dropout and guidance need them."""
    return Caption(text="", captioner=CONSTANT, role="empty"), Caption(text=negative, captioner=CONSTANT, role="negative")


def padded(rows: Float[np.ndarray, "length width"], count: int) -> Float[np.ndarray, "count width"]:
    """`rows` with zeros below, `count` in all: with 512, exactly what WanPipeline feeds its transformer."""
    return np.concatenate([rows, np.zeros((count - len(rows), rows.shape[1]), rows.dtype)])


def of_family(name: str, family: str, encoder: str) -> Backbone:
    """The backbone of this name; raises CallError unless its text goes through the model that `encoder` is made for."""
    facts = backbone(name)
    if facts.family != family:
        raise CallError(f"{encoder}.backbone = {name}: {encoder} is the text model of {family} backbones. Use e.g. --set {encoder}.backbone=tiny-{family}.")
    return facts


def encoder_weight(facts: Backbone, model: str | None) -> Weight:
    """The folder of the backbone's text encoder, or of `model`'s."""
    text = facts.text
    repo, aliases = (text.repo, text.aliases) if text.repo else (facts.repo, facts.aliases)
    return Weight(
        repo=model or repo,
        subfolder=text.subfolder,
        stem="model",
        hub_files=text.hub_files,
        bytes=text.bytes,
        aliases=() if model else aliases,
    )


def tokenizer_weight(facts: Backbone, model: str | None, words: str = "tokenizer.json|spiece.model") -> Weight:
    """The folder of the backbone's tokenizer, or of `model`'s; `words` are the files that may hold it, the hub's own first."""
    text = facts.text
    repo, aliases = (text.repo, text.aliases) if text.repo else (facts.repo, facts.aliases)
    return Weight(
        repo=model or repo,
        subfolder=text.tokenizer_subfolder,
        files=("tokenizer_config.json", words),
        aliases=() if model else aliases,
    )
