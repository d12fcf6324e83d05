"""The attention beside the frozen one and its mask, and text of each frame's own: against float64 written out, and by what may reach what."""

from dataclasses import replace

import pytest
import torch
from random_clips import FRAMES, a_batch
from torch import Tensor, nn

from train.backbones import load_backbone
from train.fca import Fca, _Told
from train.frame_text import FrameNorm, FrameText, Sizes
from train.method import Backbone, unwrapped
from train.objective import normal
from train.parallel_attention import ParallelAttention, frame_mask
from vapdata import backbones
from vapdata.errors import CallError

TEXT, GRID, PER_FRAME = 5, (3, 2, 2), 4
"""Text rows, patches along time, height and width, condition rows of a frame."""
TOKENS = GRID[1] * GRID[2]
CPU = torch.device("cpu")
SIZES = Sizes(frames=3, per_frame=PER_FRAME, width=64, words=32, image=88, out=128)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The tiny CogVideoX, in float32."""
    return load_backbone(backbones.backbone("tiny-cogvideox"), dtype=torch.float32, device=CPU)


def parallel(backbone: Backbone, *, copied: bool = True) -> ParallelAttention:
    """Beside the first block."""
    torch.manual_seed(0)
    return ParallelAttention(backbone.blocks[0].attn1, copied=copied, zero_out=False, scale=0.1, scale_learns=True)


def rows() -> dict[str, Tensor]:
    """What one attention reads: normed rows, the initial frame's, the frames' conditions."""
    return {"rows": normal(1, (2, TEXT + 3 * TOKENS, 128)), "initial": normal(2, (2, TOKENS, 128)), "frames": normal(3, (2, 3, PER_FRAME, 128))}


def mask(initial: int = TOKENS, **more: bool) -> Tensor:
    """The frames' mask."""
    return frame_mask(text=TEXT, grid=GRID, initial=initial, per_frame=PER_FRAME, device=CPU, **more)


def written_out(module: ParallelAttention, queries: Tensor, keys: Tensor, allowed: Tensor | None) -> Tensor:
    """scale * softmax(Q K^T / sqrt(d)) V W_O in the dtype of the module, a head at a time."""
    query, key, value = module.to_q(queries), module.to_k(keys), module.to_v(keys)
    outputs = []
    for q, k, v in zip(*(each.chunk(module.heads, dim=-1) for each in (query, key, value)), strict=True):
        scores = module.norm_q(q) @ module.norm_k(k).transpose(1, 2) / q.shape[-1] ** 0.5
        outputs.append(torch.softmax(scores if allowed is None else scores.masked_fill(~allowed, float("-inf")), dim=-1) @ v)
    return module.scale * module.to_out(torch.cat(outputs, dim=-1))


# The mask


def test_the_mask_is_the_identity_over_frames() -> None:
    made = mask()
    assert made.shape == (TEXT + 3 * TOKENS, TEXT + TOKENS + 3 * PER_FRAME)
    assert made[:, : TEXT + TOKENS].all(), "caption and initial frame are for everyone"
    assert torch.equal(made[TEXT:, TEXT + TOKENS :], torch.kron(torch.eye(3), torch.ones(TOKENS, PER_FRAME)).bool())
    assert not made[:TEXT, TEXT + TOKENS :].any(), "text rows see no frame's text"
    assert mask(text_sees_frames=True)[:TEXT].all()


@pytest.mark.parametrize("initial", [0, TOKENS])
def test_f4_no_row_of_the_mask_is_empty_and_masked_rows_never_give_nan(backbone: Backbone, initial: int) -> None:
    assert mask(initial).any(dim=1).all()
    given = rows()
    made = parallel(backbone)(given["rows"], TEXT, None, given["initial"] if initial else None, None, given["frames"], mask(initial))
    assert made.isfinite().all()
    bare = frame_mask(text=0, grid=GRID, initial=0, per_frame=PER_FRAME, device=CPU)
    assert bare.any(dim=1).all(), "without caption and initial frame each frame still has its own text"


# The attention


@torch.no_grad()
def test_f3_the_masked_attention_is_the_one_written_out_and_an_attention_for_each_frame(backbone: Backbone) -> None:
    module, given = parallel(backbone).double(), {name: value.double() for name, value in rows().items()}
    made = module(given["rows"], TEXT, None, given["initial"], None, given["frames"], mask())
    keys = torch.cat([given["rows"][:, :TEXT], given["initial"], given["frames"].flatten(1, 2)], dim=1)
    torch.testing.assert_close(made, written_out(module, given["rows"], keys, mask()), rtol=1e-10, atol=1e-12)
    shared = keys[:, : TEXT + TOKENS]
    apart = [written_out(module, given["rows"][:, :TEXT], shared, None)]
    for frame in range(3):
        own = torch.cat([shared, given["frames"][:, frame]], dim=1)
        apart.append(written_out(module, given["rows"][:, TEXT + frame * TOKENS : TEXT + (frame + 1) * TOKENS], own, None))
    torch.testing.assert_close(made, torch.cat(apart, dim=1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("masked", [True, False])
def test_f2_a_frames_rows_react_to_their_own_condition_alone(backbone: Backbone, masked: bool) -> None:
    """The Jacobian's blocks: own frame not zero, others exactly zero under the mask and not zero without."""
    given = rows()
    frames = given["frames"].requires_grad_(True)
    made = parallel(backbone)(given["rows"], TEXT, None, given["initial"], None, frames, mask() if masked else None)
    for frame in range(3):
        (gradient,) = torch.autograd.grad(made[:, TEXT + frame * TOKENS : TEXT + (frame + 1) * TOKENS].square().sum(), frames, retain_graph=True)
        reached = [bool(gradient[:, other].abs().max() > 0) for other in range(3)]
        assert reached == [other == frame or not masked for other in range(3)]


@torch.no_grad()
def test_the_initial_frame_has_the_positions_of_its_own_pass(backbone: Backbone) -> None:
    """Turned as frame 0 is: a copy of the frozen weights asks and answers as the frozen attention does."""
    batch, module = a_batch(backbone), parallel(backbone)
    stream = backbone.embed(batch.noise, batch.timesteps, batch.target)
    inputs = backbone.attention_inputs(backbone.blocks[0], stream)
    text, tokens = stream.text.shape[1], stream.grid[1] * stream.grid[2]
    first = replace(stream, video=stream.video[:, :tokens], rotary=tuple(each[:tokens] for each in stream.rotary), grid=(1, *stream.grid[1:]))
    alone = backbone.attention_inputs(backbone.blocks[0], first)
    made = module(inputs.normed, text, stream.rotary, alone.normed[:, text:], first.rotary, None, None)
    attended = nn.functional.scaled_dot_product_attention(inputs.query, alone.key, alone.value)
    frozen = backbone.blocks[0].attn1.to_out[0](attended.transpose(1, 2).flatten(2))
    torch.testing.assert_close(made, 0.1 * frozen, rtol=1e-4, atol=1e-5)
    unturned = module(inputs.normed, text, stream.rotary, alone.normed[:, text:], None, None, None)
    assert (unturned - made).abs().max() > 1e-4


@torch.no_grad()
def test_one_block_is_local_by_frames_and_the_next_is_not(backbone: Backbone) -> None:
    """The control: another condition of frame 1 moves the rows of frame 1 alone after one block; frozen attention then spreads it."""
    torch.manual_seed(0)
    module = Fca(latent_frames=FRAMES, ftc_width=64, ftc="uniform", prenorm="ln").attach(backbone, unwrapped)
    batch = a_batch(backbone)
    stream = backbone.embed(batch.noise, batch.timesteps, batch.target)
    told, initial = module._told(batch.target), list(module.initial(batch.target, batch.seeds))
    other = told.shared.clone()
    other[:, 1] = normal(4, other[:, 1].shape)
    tokens = stream.grid[1] * stream.grid[2]
    ends = []
    for shared in (told.shared, other):
        after = stream
        passed = []
        for number in (0, 1):
            after = module._block(backbone.blocks[number], module.blocks[str(number)], after, initial[number], _Told(None, None, None, shared), module._mask(stream))
            passed.append(after)
        ends.append(passed)
    one, two = ([(a.video - b.video).unflatten(1, (FRAMES, tokens)).abs().amax(dim=(0, 2, 3)) for a, b in zip(*ends, strict=True)][number] for number in (0, 1))
    assert (one > 1e-4).tolist() == [False, True, False]
    assert one[0] == one[2] == 0
    assert torch.equal(ends[0][0].text, ends[1][0].text), "the caption carries nothing on"
    assert (two > 1e-6).all(), "a property of one block, not of the model"


# Text of each frame's own


def frame_text(**more: int) -> FrameText:
    """Drawn from a seed."""
    torch.manual_seed(1)
    return FrameText(replace(SIZES, **more), CPU)


def told() -> tuple[Tensor, Tensor, Tensor]:
    """Words, which of them are words, image tokens."""
    return normal(1, (2, 9, 32), "words"), torch.arange(9) < torch.tensor([[9], [4]]), normal(2, (2, 17, 88), "image")


@torch.no_grad()
def test_f7_image_tokens_have_no_order_words_count_and_padding_does_not() -> None:
    module, (words, words_mask, image) = frame_text(), told()
    made = module(words, words_mask, image)
    assert made.shape == (2, 3, PER_FRAME, 128)
    torch.testing.assert_close(module(words, words_mask, image[:, torch.randperm(17, generator=torch.Generator().manual_seed(0))]), made)
    assert (module(words.flip(1), words_mask, image)[0] - made[0]).abs().max() < 1e-5, "words bring their positions with them, in their embeddings"
    assert (module(words + 1, words_mask, image) - made).abs().max() > 1e-4
    assert (module(words, words_mask, image + 1) - made).abs().max() > 1e-4
    padded = words.clone()
    padded[1, 4:] = 99.0
    torch.testing.assert_close(module(padded, words_mask, image), made)
    torch.testing.assert_close(module(words[1:, :4], words_mask[1:, :4], image[1:]), made[1:])


@torch.no_grad()
def test_f7_row_q_n_plus_j_is_frame_qs_jth() -> None:
    module, (words, words_mask, image) = frame_text(), told()
    made = module(words, words_mask, image)
    module.queries[PER_FRAME * 1 + 2] += 5.0
    changed = (module(words, words_mask, image) - made).abs().amax(dim=(0, 3))
    assert int(changed.flatten().argmax()) == PER_FRAME * 1 + 2
    assert changed[1, 2] == changed.max()


def test_f7_layers_have_modules_of_their_own_and_uniform_text_one(backbone: Backbone) -> None:
    layerwise, uniform = (Fca(latent_frames=FRAMES, ftc_width=64, ftc=each).attach(backbone, unwrapped) for each in ("layerwise", "uniform"))
    pointers = [{parameter.data_ptr() for parameter in block.frame_text.parameters()} for block in layerwise.blocks.values()]
    assert len(set.union(*pointers)) == sum(map(len, pointers))
    assert not hasattr(layerwise, "frame_text") and hasattr(uniform, "frame_text")
    assert not any(hasattr(block, "frame_text") for block in uniform.blocks.values())


@torch.no_grad()
def test_one_layer_is_berts_written_out() -> None:
    """Self-attention of queries and words, cross-attention and feed-forward of the queries, each added and normed; float64."""
    module, (words, words_mask, image) = frame_text().double(), told()
    words, image = words.double(), image.double()
    layer = module.layers[0]

    def attended(part: nn.Module, asking: Tensor, answering: Tensor) -> Tensor:
        scores = part.to_q(asking) @ part.to_k(answering).transpose(1, 2) / 64**0.5
        return part.to_out(torch.softmax(scores, dim=-1) @ part.to_v(answering))

    for clip, length in ((0, 9), (1, 4)):
        both = torch.cat([module.queries[None], module.words(words[clip : clip + 1, :length])], dim=1)
        queries = layer.norms[0](both + attended(layer.attend, both, both))[:, : SIZES.queries]
        queries = layer.norms[1](queries + attended(layer.look, queries, image[clip : clip + 1]))
        queries = layer.norms[2](queries + layer.feed(queries))
        torch.testing.assert_close(module(words, words_mask, image)[clip : clip + 1], module.out(queries).unflatten(1, (3, PER_FRAME)), rtol=1e-9, atol=1e-11)


def test_words_of_another_model_are_refused() -> None:
    words, words_mask, image = told()
    with pytest.raises(CallError, match="the caption's words are 16 wide and the image tokens 88; wanted 32 and 88"):
        frame_text()(words[..., :16], words_mask, image)


@torch.no_grad()
def test_f11_adaptive_normalisation_begins_as_layer_norm_and_then_follows_time() -> None:
    frames, time = 3 + 2 * normal(5, (2, 3, PER_FRAME, 128)), normal(6, (2, 16))
    module = FrameNorm(128, 16, adaptive=True, device=CPU)
    wanted = nn.functional.layer_norm(frames, (128,), eps=1e-5)
    torch.testing.assert_close(module(frames, time), wanted)
    torch.testing.assert_close(FrameNorm(128, 16, adaptive=False, device=CPU)(frames, time), wanted)
    module.modulate.weight.normal_(std=0.1)
    scale, shift = (nn.functional.silu(time) @ module.modulate.weight.T)[:, None, None].chunk(2, dim=-1)
    torch.testing.assert_close(module(frames, time), wanted * (1 + scale) + shift)
    torch.testing.assert_close(module(frames, torch.zeros(2, 16)), wanted, msg="silu(0) = 0")
