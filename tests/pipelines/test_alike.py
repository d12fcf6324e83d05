"""Close pairs among many vectors, against all pairs at once; who is kept."""

import numpy as np
import pytest

from pipelines.alike import all_close_pairs, cells, close_pairs, keepers


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """600 directions, 60 of them twice, nearly."""
    rng = np.random.default_rng(0)
    some = rng.normal(size=(600, 16))
    return _unit(np.concatenate([some, some[:60] + 0.02 * rng.normal(size=(60, 16))]))


def test_few_vectors_are_all_compared(vectors: np.ndarray) -> None:
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    pairs = all_close_pairs(vectors, 0.95)
    assert [(i, j) for i, j, _ in pairs] == [(int(i), int(j)) for i, j in np.argwhere(np.triu(cosines >= 0.95, 1))]
    assert [cosine for *_, cosine in pairs] == pytest.approx([cosines[i, j] for i, j, _ in pairs], abs=1e-6)


def test_cells_hold_every_vector_twice_and_lose_no_close_pair(vectors: np.ndarray) -> None:
    found = cells(vectors, size=100)
    assert len(found) > 10
    assert np.bincount(np.concatenate(found), minlength=len(vectors)).tolist() == [2] * len(vectors)
    met = {(i, j) for members in found for i, j, _ in close_pairs(vectors, members, 0.95)}
    assert met == {(i, j) for i, j, _ in all_close_pairs(vectors, 0.95)}
    assert len(met) >= 60


def test_the_same_vectors_give_the_same_cells(vectors: np.ndarray) -> None:
    assert [each.tolist() for each in cells(vectors, size=100)] == [each.tolist() for each in cells(vectors.copy(), size=100)]


def test_the_first_of_the_order_is_kept_and_a_chain_joins_nothing_that_is_not_near() -> None:
    near = {"a": {"b": 0.1}, "b": {"a": 0.1, "c": 0.2}, "c": {"b": 0.2}}
    assert list(keepers(["a", "b", "c", "d"], near)) == [("a", "a", 0.0), ("b", "a", 0.1), ("c", "c", 0.0), ("d", "d", 0.0)]
    assert list(keepers(["b", "a", "c"], near)) == [("b", "b", 0.0), ("a", "b", 0.1), ("c", "b", 0.2)]
