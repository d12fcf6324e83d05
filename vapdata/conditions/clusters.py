"""Groups of clips that lie together in CLIP's space, and the words that tell one group's captions from the others'.

Plain numpy. Exercised by `pytest tests/vapdata/conditions/test_clustered.py`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

ROUNDS = 50
PRIOR = 100.0
"""Words' worth of belief that a group speaks as everybody does: what keeps a word of two captions from being distinctive."""

SAYS_LITTLE = frozenset(
    "a an and any are as at be been being but by can during each every for from has have he her his i if in into is it its no not of off on one onto or other out over "
    "she so some than that the their them then there these they this those through to two up was were what when where which while who with within you your "
    "appears appearing background begins camera capture captured captures clip close depicts display displayed displays ends focus footage foreground frame frames "
    "image left middle moment right scene screen seems seen sequence several shot show showing shown shows something still throughout various video view viewer visible".split()
)
"""Words that name nothing in a clip: grammar, and how captions talk about videos."""

_WORD = re.compile(r"[a-z0-9]*[a-z][a-z0-9'-]*[a-z0-9]|[0-9]d")
_BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Distinctive:
    """A word that one group's captions use and others' do not."""

    word: str
    z: float
    """Standard deviations of the log-odds ratio from zero."""
    share: float
    """Of the group's captions that have it."""


def words_of(text: str) -> frozenset[str]:
    """The words of a caption that may name something, lower-case."""
    return frozenset(_WORD.findall(text.lower())) - SAYS_LITTLE


def centred(vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Unit vectors without what all share: CLIP's embeddings lie in a narrow cone, whose axis would be every cluster's."""
    moved = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    return (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def kmeans(vectors: Float32[np.ndarray, "n d"], count: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Cluster of each unit vector, 0 to count - 1, by spherical k-means from k-means++ centres; the same vectors give the same clusters."""
    rng = np.random.default_rng(seed)
    centres = _spread(vectors, min(count, len(vectors)), rng)
    labels = np.full(len(vectors), -1, np.int64)
    for _ in range(ROUNDS):
        nearest = _nearest(vectors, centres)
        if np.array_equal(nearest, labels):
            break
        labels = nearest
        sums = np.zeros(centres.shape, np.float64)
        np.add.at(sums, labels, vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 1e-9, sums / np.maximum(norms, 1e-9), centres).astype(np.float32)  # an empty cluster keeps its centre
    return labels


def _spread(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Centres far from each other: each drawn with the square of its distance from those before (Arthur and Vassilvitskii 2007)."""
    chosen = [int(rng.integers(len(vectors)))]
    far = np.maximum(2.0 - 2.0 * (vectors @ vectors[chosen[0]]).astype(np.float64), 0.0)
    while len(chosen) < count and far.sum() > 1e-9:
        chosen.append(int(np.searchsorted(np.cumsum(far), rng.random() * far.sum()).clip(0, len(vectors) - 1)))
        far = np.minimum(far, np.maximum(2.0 - 2.0 * (vectors @ vectors[chosen[-1]]), 0.0))
    return vectors[chosen].copy()


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.concatenate([(vectors[start : start + _BLOCK] @ centres.T).argmax(axis=1) for start in range(0, len(vectors), _BLOCK)]).astype(np.int64)


def distinctive(said: Sequence[frozenset[str]], labels: Sequence[int]) -> Mapping[int, list[Distinctive]]:
    """For each cluster, the words of its captions, the most distinctive first.

    The log-odds ratio of a word in the cluster against all other clips, under a Dirichlet prior that is the whole
    collection's use of it (Monroe, Colaresi and Quinn 2008, equations 16, 19 and 22), each clip counting a word once.
    """
    every: Counter[str] = Counter()
    each: dict[int, Counter[str]] = {}
    clips: Counter[int] = Counter()
    for words, label in zip(said, labels, strict=True):
        every.update(words)
        each.setdefault(label, Counter()).update(words)
        clips[label] += bool(words)
    return {label: _ranked(counts, every, clips[label]) for label, counts in sorted(each.items())}


def _ranked(counts: Mapping[str, int], every: Mapping[str, int], clips: int) -> list[Distinctive]:
    here, all_words = sum(counts.values()), sum(every.values())
    found = []
    for word, count in counts.items():
        prior = PRIOR * every[word] / all_words
        only = every[word] == all_words  # nobody says anything else: no odds, and nothing distinctive
        z = 0.0 if only else z_score(count, here, every[word] - count, all_words - here, prior)
        found.append(Distinctive(word=word, z=z, share=count / clips))
    return sorted(found, key=lambda each: (-each.z, each.word))


def z_score(count: int, total: int, other: int, other_total: int, prior: float) -> float:
    """How far the log-odds ratio of a word (`count` of `total` here, `other` of `other_total` elsewhere) is from 0, in deviations."""

    def log_odds(some: int, of: int) -> float:
        return math.log(some + prior) - math.log(of + PRIOR - some - prior)

    deviation = math.sqrt(1.0 / (count + prior) + 1.0 / (other + prior))
    return (log_odds(count, total) - log_odds(other, other_total)) / deviation


def union(texts: Iterable[str]) -> frozenset[str]:
    """The words of several captions of one clip."""
    return frozenset().union(*map(words_of, texts))
