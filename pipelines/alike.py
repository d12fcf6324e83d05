"""Which of many vectors lie close together, and which of the close ones is kept. Plain numpy.

Up to CELL vectors all pairs are compared; more are first sorted into cells by k-means, each vector into the two nearest,
so that a pair which a border parts still meets in one. Exercised by `pytest tests/pipelines/test_alike.py`.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int64

CELL = 8192
"""Vectors whose pairs are all compared: 67 M cosines, about a second on one core."""
TRAINED_ON = 50_000
"""Vectors that the cells' centres are found from."""
ROUNDS = 10
_BLOCK = 2048

Pair = tuple[int, int, float]
"""(index, larger index, cosine)."""


def cells(vectors: Float32[np.ndarray, "n d"], size: int = CELL, seed: int = 0) -> list[Int64[np.ndarray, " m"]]:
    """Indices of the vectors of each cell, ascending. Unit vectors; the same ones give the same cells."""
    count = len(vectors)
    if count <= size:
        return [np.arange(count)]
    wanted = int(np.ceil(4 * count / size))  # each vector is in two cells, and cells are not equally full
    rng = np.random.default_rng(seed)
    some = vectors[np.sort(rng.choice(count, min(count, TRAINED_ON), replace=False))]
    centres = some[np.sort(rng.choice(len(some), wanted, replace=False))]
    for _ in range(ROUNDS):
        nearest = _nearest(some, centres, 1)[:, 0]
        order = np.argsort(nearest, kind="stable")
        there, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(some[order], starts, axis=0, dtype=np.float64)
        centres[there] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)  # an empty cell keeps its centre
    both = _nearest(vectors, centres, 2)
    return [found for cell in range(wanted) if len(found := np.flatnonzero((both == cell).any(axis=1)))]


def close_pairs(vectors: Float32[np.ndarray, "n d"], members: Int64[np.ndarray, " m"], least: float) -> list[Pair]:
    """Every pair among `members` whose cosine is at least `least`."""
    found: list[Pair] = []
    mine = vectors[members]
    for start in range(0, len(members), _BLOCK):
        cosines = mine[start : start + _BLOCK] @ mine[start:].T
        for row, column in zip(*np.nonzero(cosines >= least), strict=True):
            if column > row:
                found.append((int(members[start + row]), int(members[start + column]), float(cosines[row, column])))
    return found


def all_close_pairs(vectors: Float32[np.ndarray, "n d"], least: float) -> list[Pair]:
    """Close pairs over all cells, each once, in order."""
    found: dict[tuple[int, int], float] = {}
    for members in cells(vectors):
        for one, other, cosine in close_pairs(vectors, members, least):
            found.setdefault((one, other), cosine)  # in another cell its last digit may differ
    return [(one, other, cosine) for (one, other), cosine in sorted(found.items())]


def keepers(order: Sequence[str], near: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, str, float]]:
    """(name, the one kept in its place, their distance) for every name of `order`, the best first.

    Whoever is not spoken for yet is kept, and speaks for all near it that are not: so each is near its own keeper, and no
    chain of small steps joins what is far apart.
    """
    spoken: dict[str, tuple[str, float]] = {}
    for name in order:
        if name in spoken:
            continue
        spoken[name] = (name, 0.0)
        for other, distance in near.get(name, {}).items():
            spoken.setdefault(other, (name, distance))
    return ((name, *spoken[name]) for name in order)


def _nearest(vectors: Float32[np.ndarray, "n d"], centres: Float32[np.ndarray, "k d"], count: int) -> Int64[np.ndarray, "n c"]:
    found = np.empty((len(vectors), count), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ centres.T
        found[start : start + _BLOCK] = cosines.argmax(axis=1)[:, None] if count == 1 else np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return found
