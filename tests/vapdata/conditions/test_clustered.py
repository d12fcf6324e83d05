"""Clusters of looks under the names that their captions give them."""

import math

import numpy as np
import pytest

from vapdata.condition import Provider
from vapdata.conditions.clustered import Clustered
from vapdata.conditions.clusters import PRIOR, centred, distinctive, kmeans, words_of, z_score
from vapdata.errors import CallError


def _world(per: int = 40, seed: int = 0) -> tuple[list[str], np.ndarray, list[list[str]], list[str]]:
    """Three looks about a shared axis, as CLIP's lie in a cone: clips, unit vectors, captions, and the look of each."""
    rng = np.random.default_rng(seed)
    axes, shared = np.linalg.qr(rng.normal(size=(16, 3)))[0].T, np.full(16, 2.0)
    kinds = {
        "watercolor": ["A watercolor painting of a {}.", "Painting in watercolor, a {} in view."],
        "dog": ["A dog next to a {}.", "The dog and its {} in the grass.", "A dog sleeps by the {}."],
        "nothing": ["There is a {}.", "Someone holds a {}.", "Rain falls on a {}."],
    }
    things = ["cup", "tree", "car", "boat", "lamp", "chair", "kite", "road", "bird", "door"]
    vectors, captions, looks = [], [], []
    for axis, (kind, forms) in zip(axes, kinds.items(), strict=True):
        for k in range(per):
            vector = shared + axis + rng.normal(size=16) * 0.05
            vectors.append(vector / np.linalg.norm(vector))
            captions.append([forms[k % len(forms)].format(things[k % len(things)])])
            looks.append(kind)
    return [f"clip-{k:03d}" for k in range(len(vectors))], np.array(vectors, np.float32), captions, looks


def test_clusters_are_found_named_by_their_distinctive_words_and_sorted_into_categories() -> None:
    clips, vectors, captions, looks = _world()
    provider = Clustered(clusters=3)
    assert isinstance(provider, Provider)
    found = list(provider.members_of(clips, vectors, captions))
    by = {name: {each.clip_id for each in found if each.condition == name} for name in {each.condition for each in found}}
    assert by == {
        "looks_painting_watercolor": {clip for clip, look in zip(clips, looks, strict=True) if look == "watercolor"},
        "looks_dog": {clip for clip, look in zip(clips, looks, strict=True) if look == "dog"},
    }, "the third says nothing that others do not"
    assert {each.condition: each.category for each in found} == {"looks_painting_watercolor": "style", "looks_dog": "concept"}
    assert {each.score for each in found} == {70.0}


def test_words_that_only_half_agree_halve_the_score_and_none_is_no_member() -> None:
    clips, vectors, captions, _ = _world()
    captions[0], captions[1], captions[2] = ["A watercolor of a cup."], ["A cup."], []
    scores = {each.clip_id: each.score for each in Clustered(clusters=3).members_of(clips, vectors, captions)}
    assert scores["clip-000"] == 35.0 and "clip-001" not in scores and "clip-002" not in scores and scores["clip-003"] == 70.0


def test_the_same_clips_give_the_same_members_whatever_the_seed_of_their_captions() -> None:
    clips, vectors, captions, _ = _world()
    first = list(Clustered(clusters=3).members_of(clips, vectors, captions))
    assert first == list(Clustered(clusters=3).members_of(clips, vectors, captions))
    assert list(Clustered().members_of([], np.zeros((0, 16), np.float32), [])) == []
    alone = list(Clustered().members_of(["a"], vectors[:1], [["A dog."]]))
    assert alone == [], "one clip: nothing to tell it from"


def test_kmeans_puts_every_vector_with_its_nearest_centre_and_finds_planted_groups() -> None:
    _, vectors, _, looks = _world()
    moved = centred(vectors)
    assert np.allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-6)
    labels = kmeans(moved, 3, seed=0)
    assert len({(look, int(label)) for look, label in zip(looks, labels, strict=True)}) == 3
    centres = np.stack([moved[labels == k].sum(axis=0) for k in range(3)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    assert np.array_equal((moved @ centres.T).argmax(axis=1), labels), "a fixed point"
    assert set(kmeans(moved[:2], 9, seed=0)) == {0, 1}
    assert set(kmeans(np.repeat(moved[:1], 5, axis=0), 3, seed=0)) == {0}, "equal vectors are one cluster"


def test_the_z_score_is_that_of_the_paper_worked_by_hand() -> None:
    # a word 8 times among 50 words here, 2 times among 150 elsewhere: 10 of 200, so its prior is 100 * 10 / 200 = 5
    wanted = (math.log(13 / (150 - 13)) - math.log(7 / (250 - 7))) / math.sqrt(1 / 13 + 1 / 7)
    assert PRIOR == 100.0 and z_score(8, 50, 2, 150, 5.0) == pytest.approx(wanted)
    assert z_score(8, 50, 2, 150, 5.0) > 2
    assert z_score(3, 60, 3, 60, 5.0) == pytest.approx(0), "said as often here as there"


def test_each_clip_counts_a_word_once_and_shares_are_of_captioned_clips() -> None:
    ranked = distinctive([frozenset({"dog"}), frozenset({"dog", "cup"}), frozenset(), frozenset({"cup"}), frozenset({"tree"})], [0, 0, 0, 1, 1])
    assert [(each.word, each.share) for each in ranked[0]] == [("dog", 1.0), ("cup", 0.5)]
    assert {each.word for each in ranked[1]} == {"cup", "tree"}


def test_words_that_say_nothing_about_a_clip_are_left_out() -> None:
    assert words_of("The video shows a black-and-white, 3D-rendered DOG's tail.") == {"black-and-white", "3d-rendered", "dog's", "tail"}


def test_settings_that_cannot_be_are_one_sentence() -> None:
    with pytest.raises(CallError, match="clustered: got clusters=0"):
        Clustered(clusters=0)
    with pytest.raises(CallError, match="least_share=0"):
        Clustered(least_share=0.0)
