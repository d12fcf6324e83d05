"""G11 of methods.md 3.7 and the selection's and the anchors' formulas, by hand and against a plain float64 reference."""

import math

import pytest
import torch

from vapdata.encoders.keyword_maths import anchors, select, similarity, threshold


@pytest.mark.parametrize("planted", range(6))
def test_a_word_opposite_to_one_patch_scores_one_there(planted: int) -> None:
    patches = torch.randn(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(planted))
    scores = similarity(-3 * patches[planted : planted + 1], patches)
    assert scores[0, planted].item() == pytest.approx(1, abs=1e-12)
    assert scores[0].argmax() == planted
    assert scores.abs().max() <= 1
    flipped = similarity(-3 * patches[planted : planted + 1], patches, "pos")
    torch.testing.assert_close(flipped, -scores, rtol=0, atol=0)
    assert flipped[0].argmin() == planted


def test_similarity_is_minus_the_cosine_and_knows_no_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    words, patches = torch.randn(3, 8, dtype=torch.float64, generator=generator), torch.randn(5, 8, dtype=torch.float64, generator=generator)
    scores = similarity(words, patches)
    for m in range(3):
        for n in range(5):
            expected = -sum(a * b for a, b in zip(words[m].tolist(), patches[n].tolist(), strict=True))
            expected /= math.hypot(*words[m].tolist()) * math.hypot(*patches[n].tolist())
            assert scores[m, n].item() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(similarity(7 * words, 0.1 * patches), scores, rtol=0, atol=1e-12)


def test_the_adaptive_threshold_is_mean_and_one_deviation() -> None:
    assert threshold(torch.tensor([0.0, 0.0, 0.0, 1.0])).item() == pytest.approx(0.25 + math.sqrt(3) / 4)


def test_words_above_the_threshold_are_keywords_in_their_order() -> None:
    scores = torch.tensor([[0.1, 0.0], [0.0, 0.9], [0.1, -0.5], [0.8, 0.1], [0.1, 0.1], [0.1, 0.0]])
    assert select(scores).tolist() == [1, 3]
    assert select(scores, least=0.85).tolist() == [1]
    assert select(scores, least=0.1).tolist() == [1, 3], "the threshold itself does not pass"
    assert select(scores, least=2.0).tolist() == [1]
    assert select(scores, least=2.0, minimum=2).tolist() == [1, 3]
    assert select(scores, least=2.0, minimum=0).tolist() == []


@pytest.mark.parametrize("peaks", [[0.3], [0.3, 0.1], [0.2, 0.2], [0.5, 0.5, 0.5]])
def test_few_or_equal_words_still_give_one(peaks: list[float]) -> None:
    assert select(torch.tensor(peaks)[:, None]).tolist() == [0]


def test_no_words_give_no_keywords() -> None:
    assert select(torch.zeros(0, 256)).tolist() == []
    assert anchors(torch.zeros(0, 256), torch.randn(256, 4)).shape == (0, 4)


def test_anchors_are_weighted_means_of_the_penultimate_tokens() -> None:
    tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    scores = torch.tensor([[-0.5, 0.0, 0.5]])
    torch.testing.assert_close(anchors(scores, tokens), torch.tensor([[4 / 3, 5 / 3]]))  # weights 0, 1/3, 2/3
    torch.testing.assert_close(anchors(scores, tokens, "raw"), torch.tensor([[0.5, 1.0]]))
    torch.testing.assert_close(anchors(scores, tokens, "softmax", 1e-3), tokens[2:])
    torch.testing.assert_close(anchors(scores, tokens, "softmax", 1e4), tokens.mean(0, keepdim=True), rtol=0, atol=1e-3)


def test_an_anchor_lies_within_its_tokens_and_ignores_an_affine_map() -> None:
    generator = torch.Generator().manual_seed(3)
    scores, tokens = torch.randn(4, 9, dtype=torch.float64, generator=generator), torch.randn(9, 5, dtype=torch.float64, generator=generator)
    found = anchors(scores, tokens)
    assert (found >= tokens.min(0).values).all()
    assert (found <= tokens.max(0).values).all()
    torch.testing.assert_close(anchors(3 * scores - 2, tokens), found, rtol=0, atol=1e-12)


def test_a_constant_map_weighs_all_patches_alike() -> None:
    tokens = torch.randn(5, 3)
    torch.testing.assert_close(anchors(torch.full((1, 5), 0.7), tokens), tokens.mean(0, keepdim=True))
