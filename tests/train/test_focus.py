"""Focal Guidance's maths: where tokens are about a keyword, and what is added there."""

import pytest
import torch
from torch import Tensor

from train import focus
from train.objective import normal

GRID = (3, 4, 5)
TOKENS = 60


def drawn(name: str, *shape: int) -> Tensor:
    return normal(0, shape, name).double()


def test_a_keyword_is_all_rows_of_its_span_and_a_padded_one_is_none() -> None:
    belongs = focus.rows_of(torch.tensor([[[1, 3], [4, 5], [0, 2]]]), torch.tensor([[True, True, False]]), 6)
    assert belongs.tolist() == [[[False, True, True, False, False, False], [False] * 4 + [True, False], [False] * 6]]


def test_a_keywords_value_is_the_mean_over_its_rows() -> None:
    values = drawn("values", 1, 6, 8)
    belongs = focus.rows_of(torch.tensor([[[1, 3], [4, 5], [0, 0]]]), torch.tensor([[True, True, True]]), 6)
    found = focus.keyword_values(values, belongs)
    torch.testing.assert_close(found[0, 0], (values[0, 1] + values[0, 2]) / 2)
    assert torch.equal(found[0, 1], values[0, 4]) and not found[0, 2].any()


def test_g8_similarity_is_the_cosine_scale_free_and_between_minus_one_and_one() -> None:
    keywords, tokens = drawn("keywords", 2, 3, 8), drawn("tokens", 2, TOKENS, 8)
    found = focus.similarity(keywords, tokens)
    torch.testing.assert_close(found, torch.nn.functional.cosine_similarity(keywords[:, :, None], tokens[:, None], dim=-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(focus.similarity(7 * keywords, 0.01 * tokens), found, rtol=0, atol=1e-12)
    torch.testing.assert_close(focus.similarity(-keywords, tokens), -found, rtol=0, atol=1e-12)
    assert found.abs().max() <= 1
    assert focus.similarity(keywords.float(), keywords.float()).max() <= 1, "rounding does not carry it above 1"


def test_g8_a_region_that_holds_the_value_itself_is_the_maps_peak() -> None:
    keywords, tokens = drawn("keywords", 1, 2, 8), drawn("tokens", 1, TOKENS, 8)
    region = [7, 8, 12]
    tokens[0, region] = 3 * keywords[0, 1]
    found = focus.similarity(keywords, tokens)
    torch.testing.assert_close(found[0, 1, region], torch.ones(3).double(), rtol=0, atol=1e-12)
    assert {*found[0, 1].topk(3).indices.tolist()} == {*region}


def test_a_zero_vector_is_about_nothing() -> None:
    assert not focus.similarity(torch.zeros(1, 2, 8), torch.ones(1, 4, 8)).any()
    assert not focus.similarity(torch.ones(1, 2, 8), torch.zeros(1, 4, 8)).any()


def test_similarity_in_bfloat16_is_near_the_exact_one() -> None:
    keywords, tokens = drawn("keywords", 1, 3, 64), drawn("tokens", 1, TOKENS, 64)
    near = focus.similarity(keywords.bfloat16(), tokens.bfloat16())
    assert near.dtype == torch.float32
    torch.testing.assert_close(near.double(), focus.similarity(keywords, tokens), rtol=0, atol=0.01)


def test_g6_a_region_lies_in_latent_frame_0_where_the_map_is_high() -> None:
    maps = torch.zeros(1, 2, 16, 16)
    maps[0, 0, :8, :8] = 0.4  # the upper left quarter
    maps[0, 0] -= 0.1  # whatever the map's level
    maps[0, 1] = 0.7  # constant
    weights = focus.regions(maps, (3, 4, 4), 0.5).unflatten(2, (3, 4, 4))
    assert not weights[:, :, 1:].any(), "no other frame"
    assert not weights[0, 1].any(), "a constant map points nowhere"
    assert torch.equal(weights[0, 0, 0] > 0, torch.tensor([[True, True, False, False]] * 2 + [[False] * 4] * 2))
    torch.testing.assert_close(weights[0, 0, 0, :2, :2], torch.ones(2, 2))


def test_a_regions_weight_is_the_map_itself_on_a_grid_of_its_size_and_bilinear_elsewhere() -> None:
    maps = normal(3, (1, 1, 16, 16), "map")
    scaled = (maps - maps.min()) / (maps.max() - maps.min())
    torch.testing.assert_close(focus.regions(maps, (1, 16, 16), 0.0).view(16, 16), scaled[0, 0])
    finer = focus.regions(maps, (1, 30, 52), 0.0).view(30, 52)
    torch.testing.assert_close(finer, torch.nn.functional.interpolate(scaled, size=(30, 52), mode="bilinear")[0, 0])
    assert focus.regions(maps[:, :0], (2, 3, 4), 0.5).shape == (1, 0, 24), "no keyword"


def test_g2_above_the_threshold_strictly_and_at_1_nothing_is_left() -> None:
    maps = torch.tensor([[[1.0, 0.5, 0.3, -1.0]]])
    assert focus.above(maps, 0.3).tolist() == [[[1.0, 0.5, 0.0, 0.0]]]
    assert not focus.above(maps, 1.0).any()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_g6_what_is_added_is_a_sum_over_keywords_in_any_order(order: tuple[int, ...]) -> None:
    weights, values = drawn("weights", 2, 3, TOKENS).relu(), drawn("values", 2, 3, 8)
    dense = torch.stack([sum(weights[b, k, :, None] * values[b, k] for k in range(3)) for b in range(2)])
    torch.testing.assert_close(focus.spread(weights[:, list(order)], values[:, list(order)]), dense, rtol=0, atol=1e-12)
    assert not focus.spread(weights, values)[(weights == 0).all(dim=1)].any(), "exactly nothing where no weight is"


def test_on_rows_puts_a_value_on_each_row_of_its_keyword_and_adds_where_two_share_one() -> None:
    belongs = focus.rows_of(torch.tensor([[[1, 3], [2, 4]]]), torch.tensor([[True, True]]), 5)
    values = drawn("values", 1, 2, 8)
    found = focus.on_rows(belongs, values)[0]
    assert torch.equal(found[1], values[0, 0]) and torch.equal(found[3], values[0, 1])
    torch.testing.assert_close(found[2], values[0].sum(dim=0))
    assert not found[[0, 4]].any()
