"""What every family gives beside the stock attention: the query before rotary positions, rows added before the gate, the caption as blocks read it."""

from dataclasses import replace

import pytest
import torch
from random_sides import a_side
from torch import Tensor

from train.backbones import load_backbone
from train.batch import Side
from train.method import AttentionInputs, Backbone, Stream, attention
from train.objective import normal
from vapdata import backbones

TINY = ("tiny-cogvideox", "tiny-wan", "tiny-hunyuan")
"""Every family's."""


@pytest.fixture(scope="module", params=TINY)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Each family's tiny backbone, in float32."""
    return load_backbone(backbones.backbone(request.param), dtype=torch.float32, device=torch.device("cpu"))


def streamed(backbone: Backbone, side: Side) -> Stream:
    """The stream before the first block."""
    return backbone.embed(side.video, torch.tensor([37.0, 981.0]), side)


def ends(backbone: Backbone) -> tuple[int, int]:
    """Numbers of the first and the last block: HunyuanVideo's are of two kinds."""
    return 0, len(backbone.blocks) - 1


def attended(inputs: AttentionInputs) -> Tensor:
    """The stock attention."""
    return attention(inputs.query, inputs.key, inputs.value, inputs.mask)


def test_the_unturned_query_is_the_query_without_rotary_positions_and_they_touch_the_videos_rows_alone(backbone: Backbone) -> None:
    stream = streamed(backbone, a_side(backbone))
    for number in ends(backbone):
        block = backbone.blocks[number]
        turned, plain = backbone.attention_inputs(block, stream), backbone.attention_inputs(block, replace(stream, rotary=None))
        assert torch.equal(turned.unturned, plain.query)
        assert torch.equal(plain.unturned, plain.query)
        different = (turned.query != turned.unturned).any(dim=-1).any(dim=1)
        rows = torch.zeros_like(different)
        rows[:, turned.video_rows] = True
        assert int(rows[0].sum()) == stream.video.shape[1]
        assert not different[~rows].any(), "text has no position"
        assert different[rows].float().mean() > 0.9, "but for the token at the origin"


def test_added_rows_come_in_before_the_gate_beside_the_output_projection(backbone: Backbone) -> None:
    """What the projection makes of a change of the attended rows, added behind it, is that change; zeros are nothing, bit for bit."""
    stream = streamed(backbone, a_side(backbone))
    for number in ends(backbone):
        block = backbone.blocks[number]
        inputs = backbone.attention_inputs(block, stream)
        states = attended(inputs)
        plain = backbone.attention_output(block, stream, states, inputs.carry)
        silent = backbone.attention_output(block, stream, states, inputs.carry, added=torch.zeros_like(stream.video))
        assert torch.equal(plain.video, silent.video)
        assert plain.text is None or torch.equal(plain.text, silent.text)
        change = torch.zeros_like(states)
        change[:, :, inputs.video_rows] = normal(7, stream.video.shape).unflatten(-1, (states.shape[1], -1)).transpose(1, 2)
        name = next(each for each in backbone.projections(block) if each in ("attn1.to_out.0", "attn.to_out.0", "proj_out"))
        weight = block.get_submodule(name).weight[:, : stream.video.shape[2]]
        added = torch.nn.functional.linear(normal(7, stream.video.shape), weight)
        changed = backbone.attention_output(block, stream, states + change, inputs.carry)
        same = backbone.attention_output(block, stream, states, inputs.carry, added=added)
        assert (changed.video - plain.video).abs().max() > 0.01
        torch.testing.assert_close(same.video, changed.video, rtol=1e-4, atol=1e-4)
        assert plain.text is None or torch.equal(same.text, plain.text), "the text's rows are not touched"


def test_rows_may_be_added_to_the_text_that_walks_along_too(backbone: Backbone) -> None:
    """The same in the video's rows; in the text's something where there is text, nothing where rows are zero."""
    stream = streamed(backbone, a_side(backbone))
    for number in ends(backbone):
        block = backbone.blocks[number]
        inputs = backbone.attention_inputs(block, stream)
        states, rows = attended(inputs), inputs.query.shape[2]
        every = torch.zeros(2, rows, stream.video.shape[2])
        every[:, inputs.video_rows] = normal(7, stream.video.shape)
        video = backbone.attention_output(block, stream, states, inputs.carry, added=normal(7, stream.video.shape))
        both = backbone.attention_output(block, stream, states, inputs.carry, added=every)
        torch.testing.assert_close(both.video, video.video)
        if stream.text is not None:
            torch.testing.assert_close(both.text, video.text)
            spoken = backbone.attention_output(block, stream, states, inputs.carry, added=torch.ones_like(every))
            assert ((spoken.text - video.text).abs().amax(dim=2) > 1e-4).all()


def test_the_rows_that_are_projected_are_given_where_they_lie_together(backbone: Backbone) -> None:
    stream, block = streamed(backbone, a_side(backbone)), backbone.blocks[0]
    inputs = backbone.attention_inputs(block, stream)
    if backbone.facts.family == "hunyuan":
        assert inputs.normed is None
        return
    value = block.get_submodule(backbone.projections(block)[2])(inputs.normed)
    assert torch.equal(value.unflatten(2, (inputs.value.shape[1], -1)).transpose(1, 2), inputs.value)


def test_the_caption_is_given_as_wide_as_the_blocks_with_its_true_rows_and_nothing_of_the_picture(backbone: Backbone) -> None:
    side = a_side(backbone)
    stream = streamed(backbone, side)
    tokens, mask = backbone.caption_tokens(stream)
    assert tokens.shape == (2, backbone.facts.text.rows, stream.video.shape[2])
    if backbone.facts.family == "hunyuan":
        assert torch.equal(mask, side.text_mask)
    else:
        assert mask is None, "padding is attended to"
    pictured = {name: value + 1 for name in ("first", "condition", "image_tokens") if (value := getattr(side, name)) is not None}
    assert torch.equal(backbone.caption_tokens(streamed(backbone, replace(side, **pictured)))[0], tokens)
    assert not torch.equal(backbone.caption_tokens(streamed(backbone, replace(side, text=side.text + 1)))[0], tokens)
