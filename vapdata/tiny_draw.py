"""How tiny weights are drawn and which words tiny tokenizers know: what every maker of tiny models shares.

Exercised by `pytest tests/vapdata/test_tiny.py`.
"""

import hashlib
import math
import string
from collections.abc import Iterator
from typing import Any

import numpy as np

SEED = 20_240_901
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
"""OpenAI's picture statistics, as in open_clip's constants."""

WORDS = (
    "a an the and of in on at to with from by over under near behind its his her their is are was has into for as it "
    "red green blue yellow white black gray orange purple pink brown dark bright light "
    "circle square triangle star ring bar shape background camera scene video shot view frame "
    "man woman person people child boy girl hand hands face hair head shirt table room street city car road "
    "water sky tree trees mountain building house dog cat bird food kitchen robot arm bowl plate pot cup "
    "moves moving move left right up down forward slowly fast turns still static pan pans zoom zooms shows showing "
    "wearing standing sitting walking holding talking looking playing one two three large small close another"
)
"""Whole words of the tiny tokenizer, separated by spaces."""


def fill(model: Any, salt: str) -> None:
    """Draws every parameter of a torch module anew, in place, the same on every machine and torch version.

    Uniform with variance 1/fan_in for matrices and kernels, near 1 for norm weights, near 0 for biases. Each
    parameter has its own Philox stream keyed by (seed, salt, name): torch's generators promise less.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim:  # scalars are temperatures: their defaults are meant
                parameter.copy_(torch.from_numpy(_draw(f"{salt}.{name}", tuple(parameter.shape))))


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    key = int.from_bytes(hashlib.sha256(f"{SEED}\0{name}".encode()).digest()[:16], "big")
    bits = np.random.Philox(key=key).random_raw(math.prod(shape))
    uniform = ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0) * math.sqrt(3.0)
    mean, deviation = _moments(name, shape)
    return (mean + deviation * uniform).astype(np.float32).reshape(shape)


def _moments(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of one parameter."""
    if name.endswith("class_embedding"):
        return 0.0, 1.0
    if name.endswith(".gamma"):  # the norms of Wan's VAE
        return 1.0, 0.05
    if len(shape) == 1:
        return (1.0, 0.05) if name.endswith("weight") else (0.0, 0.05)
    if "embedding" in name or "shared" in name or "relative_attention_bias" in name:
        return 0.0, 0.5
    if name.endswith((".proj", "text_projection")):  # open_clip multiplies by these from the right
        return 0.0, shape[0] ** -0.5
    return 0.0, math.prod(shape[1:]) ** -0.5


def vocabulary() -> list[tuple[str, float]]:
    """Unigram pieces with scores: single characters, pairs of letters, and words of captions.

    Each piece costs one, so that the fewest pieces win: about two letters a token, one token for a listed word.
    """
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    return pieces + [(piece, -1.0) for piece in dict.fromkeys(_pieces())]


def _pieces() -> Iterator[str]:
    letters = string.ascii_lowercase
    yield from string.ascii_letters + string.digits + string.punctuation + "àâäáçèéêëíîïñóôöúûüß–—‘’“”…°"
    yield from (f"▁{letter}" for letter in string.ascii_letters)
    yield from (first + second for first in letters for second in letters)
    for word in WORDS.split():
        yield from (f"▁{word}", f"▁{word.capitalize()}")
