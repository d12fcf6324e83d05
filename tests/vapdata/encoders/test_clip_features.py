"""S2 of methods.md 4.4 in float64 on open_clip's own classes, and a planted direction through a real tower."""

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from vapdata import tiny
from vapdata.encoders import clip_features, mask_maths
from vapdata.encoders.clip_features import PostNorm, attention_contributions, patch_features
from vapdata.errors import CallError


def tower(seed: int = 0, **vision: float) -> CLIP:
    """A random open_clip CLIP in float64; norms and biases are random too, so that every share counts."""
    torch.manual_seed(seed)
    model = CLIP(**{**tiny.CLIP, "vision_cfg": {**tiny.CLIP["vision_cfg"], **vision}}).double().eval().requires_grad_(False)
    for name, parameter in model.visual.named_parameters():
        if parameter.ndim == 1:
            parameter += 0.2 * torch.randn_like(parameter)
        elif "in_proj" in name:
            parameter *= 2
    return model


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Two random pictures."""
    return torch.randn(2, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.3}], ids=["plain", "layer scale"])
def test_contributions_sum_to_the_cls_row_of_the_librarys_attention(pictures: Tensor, vision: dict[str, float]) -> None:
    visual = tower(**vision).visual
    stream = visual._embeds(pictures)
    for block in visual.transformer.resblocks:
        normed = block.ln_1(stream)
        theirs = block.ls_1(block.attn(normed, normed, normed, need_weights=False)[0][:, 0])
        torch.testing.assert_close(attention_contributions(block, stream).sum(dim=1), theirs, rtol=0, atol=1e-12)
        stream = block(stream)


@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.3}, {"layers": 2}], ids=["plain", "layer scale", "two blocks"])
def test_all_terms_sum_to_the_image_embedding(pictures: Tensor, vision: dict[str, float]) -> None:
    visual = tower(**vision).visual
    count = clip_features.shares(visual)
    stream = visual._embeds(pictures)
    cls, attention, mlp = stream[:, :1], [], []
    for block in visual.transformer.resblocks:
        attention.append(attention_contributions(block, stream))
        middle = stream[:, 0] + attention[-1].sum(dim=1)
        stream = block(stream)
        mlp.append((stream[:, 0] - middle)[:, None])
    norm = PostNorm.of(visual, stream[:, 0])
    terms = [norm.project(visual, one, count) for one in (cls, *mlp)]
    terms += [norm.project(visual, one, count * one.shape[1]) for one in attention]
    total = torch.cat(terms, dim=1).sum(dim=1)
    torch.testing.assert_close(total, visual(pictures), rtol=0, atol=1e-11)


def test_one_share_of_everything_is_ln_post_itself(pictures: Tensor) -> None:
    visual = tower().visual
    final = visual.transformer(visual._embeds(pictures))[:, :1]
    norm = PostNorm.of(visual, final[:, 0])
    torch.testing.assert_close(norm.project(visual, final, 1), visual.ln_post(final) @ visual.proj, rtol=0, atol=1e-12)


def test_features_come_from_the_block_that_was_asked_for(pictures: Tensor) -> None:
    model = tower()
    visual = model.visual
    stream = visual._embeds(pictures)
    for block in visual.transformer.resblocks[:2]:
        stream = block(stream)
    block = visual.transformer.resblocks[2]
    middle = stream + block.ls_1(block.attention(block.ln_1(stream)))
    branch = block.mlp(block.ln_2(middle))
    image = model.encode_image(pictures)
    norm = PostNorm.of(visual, visual.transformer(visual._embeds(pictures))[:, 0])
    length = image.norm(dim=-1)[:, None, None]
    for kind, expected in (("output", middle + branch), ("branch", branch)):
        found = patch_features(visual, pictures, -2, kind)
        torch.testing.assert_close(found.image, image, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.mlp, norm.project(visual, expected, 9)[:, 1:] / length, rtol=0, atol=1e-11)
        contributions = norm.project(visual, attention_contributions(block, stream), 9 * 145)[:, 1:] / length
        torch.testing.assert_close(found.attention, contributions, rtol=0, atol=1e-11)


def test_the_share_adds_the_same_to_every_patch(pictures: Tensor) -> None:
    visual = tower().visual
    stream = visual._embeds(pictures)
    norm = PostNorm.of(visual, stream[:, 0])
    difference = norm.project(visual, stream, 9) - norm.project(visual, stream, 7)
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference), rtol=0, atol=1e-12)


def test_hooks_are_gone_after_use(pictures: Tensor) -> None:
    visual = tower().visual
    patch_features(visual, pictures, -2)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in visual.modules())


def test_towers_without_a_cls_token_are_refused() -> None:
    with pytest.raises(CallError, match="not a plain ViT with a CLS token"):
        clip_features.check(tower(pool_type="avg").visual, -2, "some/model")
    with pytest.raises(CallError, match=r"4 blocks, wanted -4 to 3"):
        clip_features.check(tower().visual, 4, "some/model")


@pytest.mark.parametrize("seed", range(3))
def test_a_rectangle_planted_in_a_picture_comes_back_through_a_real_tower(seed: int) -> None:
    """The text is the direction that tells bright patches from dark ones, learnt on another picture."""
    visual = tower(seed).visual
    visual.positional_embedding *= 0.05  # random positions would drown the picture, trained ones do not
    lesson, exam = planted_picture((1, 1, 11, 6)), planted_picture((2, 3, 11, 11))
    inside = lesson[1].flatten()
    learnt, found = patch_features(visual, lesson[0], -2), patch_features(visual, exam[0], -2)
    for part, kind in ((learnt.attention[0], "attention"), (learnt.mlp[0], "mlp")):
        text = torch.nn.functional.normalize(part[inside].mean(0) - part[~inside].mean(0), dim=0)
        scores = torch.einsum("bpd,d->bp", getattr(found, kind), text).reshape(1, 12, 12)
        mask = mask_maths.attention_mask(scores, 5, 3) if kind == "attention" else mask_maths.mlp_mask(-scores, 3)
        shown = mask[0] > 0.5
        assert (shown & exam[1]).sum() / (shown | exam[1]).sum() > 0.9, kind


def planted_picture(rectangle: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """A picture, bright with a little noise inside the rectangle of patches and dark outside; and the patches inside."""
    truth = torch.zeros(12, 12, dtype=torch.bool)
    truth[rectangle[0] : rectangle[2], rectangle[1] : rectangle[3]] = True
    noise = torch.randn(1, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    bright = truth.repeat_interleave(8, 0).repeat_interleave(8, 1).double()
    return 2 * bright - 1 + 0.1 * noise, truth
