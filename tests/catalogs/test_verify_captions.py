"""Captions that were mixed up are told from captions that are where they belong, by planted embeddings."""

from functools import partial

import numpy as np
from catalog_samples import caption, clip, video

from catalogs.store import Catalog
from catalogs.tensors import pack
from catalogs.verify import verify
from catalogs.verify_captions import MARGIN, captions, embedded, misfits
from catalogs.views import connect

WIDTH = 512
PRODUCT = "embedding-planted"


def _unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def _planted(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of texts and clips as CLIP's lie: all have much in common, each pair a little of its own."""
    draw = np.random.default_rng(seed)
    own = _unit(draw.standard_normal((count, WIDTH)))
    text, film = _unit(draw.standard_normal((2, WIDTH)))
    noise = _unit(draw.standard_normal((2, count, WIDTH)))
    return _unit(text + 0.45 * own + 0.8 * noise[0]), _unit(film + 0.25 * text + 0.45 * own + 0.8 * noise[1])


def _fill(catalog: Catalog, texts: np.ndarray, clips: np.ndarray, order: np.ndarray, **changes: str) -> dict[str, np.ndarray]:
    """A catalog of these clips, clip i under the caption `order[i]`; gives the vector of each text."""
    names = [f"c{number:03}" for number in range(len(clips))]
    digest = catalog.claim(PRODUCT, {"pooling": "mean"}, step="embedding")
    file = catalog.write_tensors(PRODUCT, "d-000000", 0, [(f"d/{name}", pack(vector.astype(np.float32), "f32")) for name, vector in zip(names, clips, strict=True)])
    made = {"shard": "d-000000", "product": PRODUCT, "model_id": "m", "revision": "r", "settings_sha256": digest, "dtype": "f32", "shape": [WIDTH], "file": file}
    catalog.append(
        {
            "videos": [video(name) for name in names],
            "clips": [clip(name) for name in names],
            "captions": [caption(name, f"text {order[number]}", **changes) for number, name in enumerate(names)],
            "features": [{**made, "clip_id": f"d/{name}", "row_group": number} for number, name in enumerate(names)],
        }
    )
    return {f"text {number}": vector for number, vector in enumerate(texts)}


def _findings(catalog: Catalog, vectors: dict[str, np.ndarray]) -> list[str]:
    check = partial(captions, product=PRODUCT, embed=lambda told: np.stack([vectors[text] for text in told]))
    return [str(finding) for finding in verify(catalog, ["keys"], handed=[check])]


def test_captions_in_their_places_have_no_findings(empty: Catalog) -> None:
    texts, clips = _planted(60)
    cosines = texts @ clips.T
    assert np.diagonal(cosines).mean() > 0.2 > np.median(cosines), "planted as CLIP's are"
    assert _findings(empty, _fill(empty, texts, clips, np.arange(60))) == []


def test_captions_that_moved_on_by_one_are_all_flagged(empty: Catalog) -> None:
    texts, clips = _planted(60)
    found = _findings(empty, _fill(empty, texts, clips, np.roll(np.arange(60), 1)))
    assert len(found) == 21, "20 are shown and the rest counted"
    assert "findings, wanted none" in found[-1]
    assert int(found[-1].partition("got ")[2].split()[0]) >= 57


def test_two_captions_that_changed_places_are_found_and_their_clips_named(empty: Catalog) -> None:
    texts, clips = _planted(60, seed=1)
    order = np.arange(60)
    order[[7, 30]] = 30, 7
    first, second = sorted(_findings(empty, _fill(empty, texts, clips, order)))
    assert first.startswith("captions (d/c007, source, source): a caption fits another clip better: got cosine ")
    assert "with d/c030, wanted the own clip, or " in first
    assert "of that clip's own caption, higher. Look at both. Leave such clips out" in first
    assert "captions (d/c030, source, source)" in second
    assert "with d/c007" in second


def test_texts_of_parents_and_of_other_captioners_are_not_compared(empty: Catalog) -> None:
    texts, clips = _planted(12)
    vectors = _fill(empty, texts, clips, np.roll(np.arange(12), 1), role="source_parent")
    assert _findings(empty, vectors) == []
    empty.append({"captions": [caption("c000", "text 5", captioner="qwen_vl", role="long")]})
    assert _findings(empty, vectors) == [], "one text has nothing to be compared with"


def test_which_embeddings_there_are(empty: Catalog) -> None:
    _fill(empty, *_planted(3), np.arange(3))
    (found,) = embedded(connect(empty))
    assert (found.product, found.model_id, found.revision, found.clips) == (PRODUCT, "m", "r", 3)


def test_the_rule_by_hand() -> None:
    own, low, middle, high = 0.4, 0.1, 0.5, 0.9
    texts = np.array([[low, high, 0.0, 0.0], [high, low, 0.0, 0.0], [low, middle, own, 0.0], [0.0, 0.0, own + MARGIN / 2, own]])
    wrong, best, cosines = misfits(texts, np.eye(4), np.arange(4))
    assert wrong.tolist() == [True, True, True, False], "0 and 1 changed places, 2 fits 1 better than both own ones, 3 is within the margin"
    assert best.tolist()[:3] == [1, 0, 1]
    assert cosines[2].tolist() == [low, middle, own, 0.0]


def test_a_general_text_that_fits_a_better_told_clip_is_not_flagged() -> None:
    texts = np.array([[0.3, 0.5], [0.0, 0.9]])
    assert misfits(texts, np.eye(2), np.arange(2))[0].tolist() == [False, False]


def test_clips_of_one_text_are_not_compared() -> None:
    texts = np.array([[0.1, 0.9, 0.0], [0.1, 0.2, 0.0], [0.0, 0.1, 0.9]])
    assert misfits(texts, np.eye(3), np.array([0, 1, 2]))[0].tolist() == [True, False, False]
    assert misfits(texts, np.eye(3), np.array([0, 0, 2]))[0].tolist() == [False, False, False]
    assert misfits(texts, np.eye(3), np.array([0, 0, 0]))[0].tolist() == [False, False, False]


def test_how_often_the_rule_errs_on_planted_catalogs() -> None:
    missed = false = 0
    for seed in range(20):
        texts, clips = _planted(200, seed=seed)
        false += int(misfits(texts, clips, np.arange(200))[0].sum())
        missed += 200 - int(misfits(np.roll(texts, 1, axis=0), clips, np.arange(200))[0].sum())
    assert false <= 4, f"{false} of 4000 right captions"
    assert missed <= 120, f"{missed} of 4000 captions that moved on by one"
