"""Image encoders that learn: the frozen CLIP gives what the catalog would hold, patches keep their order and places."""

from pathlib import Path

import numpy as np
import pytest
import torch

from train.visual_encoder import ClipEncoder, PatchEncoder
from vapdata import backbones
from vapdata.clip import Sampling
from vapdata.encoders.image_tokens import ImageTokens
from vapdata.errors import MissingWeights

CPU = torch.device("cpu")
TINY = backbones.backbone("tiny-cogvideox")


def pictures(count: int = 2, height: int = 48, width: int = 80) -> torch.Tensor:
    """Smooth random RGB pictures, u8."""
    coarse = torch.randn(count, 3, 6, 10, generator=torch.Generator().manual_seed(4)).sigmoid() * 255
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255).byte()


def test_the_frozen_tower_gives_the_tokens_that_the_encoder_would_have_stored() -> None:
    """But for PIL's rounding to whole numbers between resizing and normalising."""
    frames = pictures()
    spec = ImageTokens(backbone=TINY.name, sampling=Sampling(frames=1, height=48, width=80, fps=8), tower="clip")
    stored = np.stack(spec.open("cpu").tokens([frame.permute(1, 2, 0).numpy() for frame in frames]))
    tower = ClipEncoder(TINY, 32, head="mlp", queries=1, device=CPU)._tower[0]
    found = tower.tokens(tower.squeezed(frames.float() / 255)).numpy()
    assert found.shape == stored.shape == (2, 145, 64)
    assert np.linalg.norm(found - stored) < 0.02 * np.linalg.norm(stored)


@pytest.mark.parametrize(("head", "tokens"), [("mlp", 145), ("resampler", 5)])
def test_a_head_learns_and_the_tower_is_neither_trained_nor_part_of_the_state(head: str, tokens: int) -> None:
    encoder = ClipEncoder(TINY, 32, head=head, queries=5, device=CPU)  # type: ignore[arg-type]
    made = encoder(pictures().float() / 255)
    assert made.shape == (2, tokens, 32)
    made.square().sum().backward()
    assert encoder.state_dict().keys() == {name for name, each in encoder.named_parameters() if each.grad is not None}
    assert all(name.startswith("head.") for name in encoder.state_dict())
    assert not any(each.requires_grad for each in encoder._tower[0].visual.parameters())
    assert not torch.equal(made[0], made[1]), "another picture, other tokens"


def test_a_clip_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"vit_large_patch14_clip_336\.openai"):
        ClipEncoder(backbones.backbone("wan2.1-t2v-1.3b"), 32, head="mlp", queries=1, device=CPU)


def test_patches_stand_in_order_with_places_of_their_own() -> None:
    encoder = PatchEncoder(32, side=16, patch=8, inner=16, depth=1, device=CPU)
    assert encoder.grid(480, 832) == (2, 3)
    assert PatchEncoder(8, side=224, patch=16, inner=4, depth=1, device=CPU).grid(480, 832) == (14, 24)
    frame = torch.full((1, 3, 32, 48), 0.5)
    plain = encoder(frame)
    assert plain.shape == (1, 6, 32)
    assert len({tuple(row.tolist()) for row in plain[0].detach()}) == 6, "one grey, six places"
    encoder.blocks = torch.nn.Identity()  # patches alone: each sees itself
    plain = encoder(frame)
    changed = frame.clone()
    changed[:, :, 16:, 32:] = 1.0
    different = (encoder(changed) - plain).abs().amax(dim=2)[0] > 1e-2
    assert different[5] and not different[[0, 1, 3]].any(), "the last of two rows and three columns (antialiasing reaches its neighbours)"


def test_every_weight_of_the_patch_encoder_learns() -> None:
    encoder = PatchEncoder(32, side=24, patch=8, inner=16, depth=2, device=CPU)
    target = torch.randn(2, 15, 32, generator=torch.Generator().manual_seed(0))
    (encoder(pictures().float() / 255) - target).square().sum().backward()
    silent = [name for name, each in encoder.named_parameters() if each.grad is None or not each.grad.abs().max() > 0]
    assert silent == []
