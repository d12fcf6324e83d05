"""CogVideoX opened up: five configurations against diffusers' own forward and pipeline, bit for bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXImageToVideoPipeline, CogVideoXTransformer3DModel
from torch import Tensor

from train.backbones import FAMILIES, load_backbone
from train.backbones.cogvideox import CogVideoX
from train.batch import Side
from train.method import Backbone, Stream, run_block
from train.objective import VPrediction
from vapdata import tiny_transformer
from vapdata.backbones import BACKBONES
from vapdata.errors import CallError, MissingWeights

CPU = torch.device("cpu")
SCHEDULER = {"_class_name": "CogVideoXDDIMScheduler", **tiny_transformer.SCHEDULERS["tiny-cogvideox"]}
SMALL = tiny_transformer.TRANSFORMERS["tiny-cogvideox"] | {"num_layers": 2, "max_text_seq_length": 6}
VARIANTS: dict[str, dict[str, Any]] = {
    "cogvideox-2b": {"in_channels": 16, "use_rotary_positional_embeddings": False},
    "cogvideox-5b": {"in_channels": 16},
    "cogvideox-5b-i2v": {"use_learned_positional_embeddings": True},
    "cogvideox-1.5-5b": {"in_channels": 16, "patch_size_t": 2, "patch_bias": False, "sample_height": 40, "sample_width": 40},
    "cogvideox-1.5-5b-i2v": {"patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 128, "sample_height": 40, "sample_width": 40},
}


def opened(name: str, **changes: Any) -> CogVideoX:
    """A tiny backbone laid out like the released one of this name."""
    facts = replace(BACKBONES[name], text=replace(BACKBONES[name].text, width=64))
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(**(SMALL | VARIANTS[name] | changes))
    tiny_transformer.draw(transformer, name)
    if transformer.config.use_learned_positional_embeddings:
        transformer.patch_embed.pos_embedding.normal_()
    return CogVideoX(facts, transformer, SCHEDULER)


def inputs(backbone: CogVideoX, frames: int = 3, rows: int = 12, columns: int = 20, size: int = 2) -> tuple[Tensor, Tensor, Side]:
    """Noisy latents, timesteps and a side."""
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(size, 16, frames, rows, columns, generator=generator)
    side = Side(
        clip_ids=tuple(f"clip/{number}" for number in range(size)),
        video=noisy,
        text=torch.randn(size, 6, 64, generator=generator),
        first=torch.randn(size, 16, 1, rows, columns, generator=generator) if backbone.facts.image_to_video else None,
    )
    return noisy, torch.tensor([37.0, 981.0][:size]), side


def through(backbone: CogVideoX, stream: Stream) -> Tensor:
    """The prediction by way of the uniform access."""
    for block in backbone.blocks:
        stream = run_block(backbone, block, stream)
    return backbone.head(stream)


@pytest.fixture(params=VARIANTS)
def backbone(request: pytest.FixtureRequest) -> CogVideoX:
    """Each of the five in small."""
    return opened(request.param)


def test_it_is_a_backbone(backbone: CogVideoX) -> None:
    assert isinstance(backbone, Backbone)
    assert isinstance(backbone.objective, VPrediction)
    assert backbone.reads().text and backbone.reads().first == int(backbone.facts.image_to_video)
    assert [backbone.transformer.get_submodule(backbone.block_name(number)) for number in range(2)] == list(backbone.blocks)
    assert all(isinstance(backbone.blocks[0].get_submodule(name), torch.nn.Linear) for name in backbone.projections(backbone.blocks[0]))


def test_block_by_block_gives_the_stock_forward_bit_for_bit(backbone: CogVideoX) -> None:
    for frames in (1, 2, 3):  # with two frames a patch, 1 and 3 are padded
        noisy, timesteps, side = inputs(backbone, frames)
        stock = backbone.forward(noisy, timesteps, side)
        assert stock.shape == noisy.shape
        assert torch.equal(through(backbone, backbone.embed(noisy, timesteps, side)), stock)
        assert 0.01 < stock.std() < 100


def test_block_by_block_gives_the_stock_gradient(backbone: CogVideoX) -> None:
    noisy, timesteps, side = inputs(backbone, 2, size=1)
    gradients = []
    for run in (lambda x: backbone.forward(x, timesteps, side), lambda x: through(backbone, backbone.embed(x, timesteps, side))):
        start = noisy.clone().requires_grad_(True)
        run(start).square().mean().backward()
        gradients.append(start.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


def test_everything_is_frozen_and_in_eval_mode(backbone: CogVideoX) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.transformer.parameters())
    assert not any(module.training for module in backbone.transformer.modules())


def test_entry_modules_are_those_that_embed_uses_and_can_be_replaced(backbone: CogVideoX) -> None:
    noisy, timesteps, side = inputs(backbone)
    stock = backbone.embed(noisy, timesteps, side)
    other = opened(backbone.facts.name)
    with torch.no_grad():
        for parameter in other.transformer.parameters():
            parameter.mul_(1.5)
    entry = {name: other.transformer.get_submodule(name) for name in backbone.entry}
    replaced, theirs = backbone.embed(noisy, timesteps, side, entry=entry), other.embed(noisy, timesteps, side)
    assert torch.equal(replaced.video, theirs.video) and torch.equal(replaced.time, theirs.time)
    assert not torch.equal(replaced.video, stock.video) and not torch.equal(replaced.time, stock.time)


def test_a_block_may_be_replaced_by_a_copy_of_it(backbone: CogVideoX) -> None:
    import copy

    stream = backbone.embed(*inputs(backbone))
    block = backbone.blocks[0]
    assert torch.equal(run_block(backbone, copy.deepcopy(block), stream).video, run_block(backbone, block, stream).video)


def test_only_2b_and_5b_i2v_have_a_position_table_and_it_can_be_left_out(backbone: CogVideoX) -> None:
    noisy, timesteps, side = inputs(backbone)
    given = backbone.embed(noisy, timesteps, side)
    bare = backbone.embed(noisy, timesteps, side, absolute_positions=False)
    if backbone.facts.name in ("cogvideox-2b", "cogvideox-5b-i2v"):
        table = backbone.transformer.patch_embed.pos_embedding[:, 6:].float()  # as the module itself casts it
        assert torch.equal(bare.video + table, given.video)
        assert torch.equal(backbone.embed(noisy, timesteps, side).video, given.video)  # the module itself is as it was
    else:
        assert torch.equal(bare.video, given.video)


def test_offsets_move_rotary_positions_alone(backbone: CogVideoX) -> None:
    noisy, timesteps, side = inputs(backbone)
    given, moved = backbone.embed(noisy, timesteps, side), backbone.embed(noisy, timesteps, side, frame_offset=-4.0, width_offset=2.0)
    assert torch.equal(moved.video, given.video) and torch.equal(moved.text, given.text) and torch.equal(moved.time, given.time)
    if backbone.facts.name == "cogvideox-2b":
        assert given.rotary is moved.rotary is None
        return
    frames, rows, columns = given.grid
    cos, later = (each.rotary[0].view(frames, rows, columns, 16) for each in (given, moved))
    assert torch.equal(cos[..., 4:10], later[..., 4:10])
    assert not torch.equal(cos[..., :4], later[..., :4]) and not torch.equal(cos[..., 10:], later[..., 10:])
    deep = backbone.config.patch_size_t or 1
    there = backbone.embed(*inputs(backbone, frames=10)).rotary[0].view(-1, rows, columns, 16)
    back = backbone.embed(*inputs(backbone, frames=10), frame_offset=-4.0).rotary[0].view(-1, rows, columns, 16)
    torch.testing.assert_close(back[4 // deep :], there[: -4 // deep])


@pytest.mark.parametrize("name", ["cogvideox-5b-i2v", "cogvideox-1.5-5b-i2v"])
@pytest.mark.parametrize("pixel_frames", [5, 9, 13])
def test_the_first_frame_goes_in_as_in_diffusers_pipeline(name: str, pixel_frames: int) -> None:
    backbone = opened(name)
    pipeline = small_pipeline(backbone)
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1
    encoded = pipeline.vae.encode(image.unsqueeze(2)).latent_dist.mode()
    latent_frames = (pixel_frames - 1) // 4 + 1
    padded = latent_frames + latent_frames % (backbone.config.patch_size_t or 1)
    draws = torch.Generator().manual_seed(4)
    # The pipeline draws the image's latent from the posterior: a posterior without width makes it the mean.
    _, theirs = pipeline.prepare_latents(image, 1, 16, (padded - 1) * 4 + 1, 32, 48, torch.float32, CPU, draws)
    side = Side(clip_ids=("a/0",), video=torch.zeros(1, 16, latent_frames, 4, 6), first=encoded * backbone.facts.vae.image_scaling_factor)
    ours = backbone.model_input(torch.zeros(1, 16, latent_frames, 4, 6), side)[:, :, 16:]
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["cogvideox-5b", "cogvideox-5b-i2v", "cogvideox-1.5-5b"])
@pytest.mark.parametrize("size", [(96, 160), (64, 160), (160, 96), (48, 48)])
def test_rotary_positions_are_those_of_diffusers_pipeline(name: str, size: tuple[int, int]) -> None:
    backbone = opened(name)
    height, width = size
    theirs = small_pipeline(backbone)._prepare_rotary_positional_embeddings(height, width, 4, CPU)
    states = torch.zeros(1, 4, 16, height // 8, width // 8)
    ours = backbone._rotary(backbone._grid(states), CPU)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def small_pipeline(backbone: CogVideoX) -> CogVideoXImageToVideoPipeline:
    """diffusers' pipeline around the transformer, with a small VAE of the facts' scaling whose posterior has no width."""
    facts = backbone.facts.vae
    torch.manual_seed(2)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=facts.scaling_factor,
        invert_scale_latents=facts.invert_image_latents,
    ).eval()
    with torch.no_grad():
        vae.encoder.conv_out.conv.weight[16:] = 0
        vae.encoder.conv_out.conv.bias[16:] = -30
    scheduler = CogVideoXDDIMScheduler(**tiny_transformer.SCHEDULERS["tiny-cogvideox"])
    return CogVideoXImageToVideoPipeline(tokenizer=None, text_encoder=None, vae=vae, transformer=backbone.transformer, scheduler=scheduler)


def test_padding_repeats_latent_frame_0_in_front_and_is_taken_off() -> None:
    backbone = opened("cogvideox-1.5-5b")
    noisy, timesteps, side = inputs(backbone, 3)
    padded = torch.cat([noisy[:, :, :1], noisy], dim=2)
    assert torch.equal(backbone.model_input(noisy, side), padded.permute(0, 2, 1, 3, 4))
    assert backbone.embed(noisy, timesteps, side).pad_frames == 1
    assert torch.equal(backbone.forward(noisy, timesteps, side), backbone.forward(padded, timesteps, side)[:, :, 1:])


def test_the_tiny_backbone_loads_offline_in_the_asked_dtype() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        backbone = load_backbone(BACKBONES["tiny-cogvideox"], dtype=dtype, device=CPU)
        assert {parameter.dtype for parameter in backbone.transformer.parameters()} == {dtype}
        assert isinstance(backbone, CogVideoX)
    assert sum(parameter.numel() for parameter in backbone.transformer.parameters()) == 1_685_568
    noisy, timesteps, side = inputs(backbone, size=1)
    side = replace(side, text=torch.zeros(1, 226, 64))
    assert torch.equal(through(backbone, backbone.embed(noisy, timesteps, side)), backbone.forward(noisy, timesteps, side))


def test_a_trained_folder_stands_for_the_hubs_whole_or_sharded(tmp_path: Path) -> None:
    stock = load_backbone(BACKBONES["tiny-cogvideox"], dtype=torch.float32, device=CPU)
    with torch.no_grad():
        stock.transformer.proj_out.bias.fill_(0.25)
    for name, shard in (("whole", "10GB"), ("sharded", "2MB")):
        stock.transformer.save_pretrained(tmp_path / name / "transformer", max_shard_size=shard)
        again = load_backbone(BACKBONES["tiny-cogvideox"], dtype=torch.float32, device=CPU, folder=str(tmp_path / name))
        assert all(torch.equal(one, other) for one, other in zip(again.transformer.parameters(), stock.transformer.parameters(), strict=True))
        assert again.scheduler_config == stock.scheduler_config
    assert len(list((tmp_path / "sharded" / "transformer").glob("*.safetensors"))) > 1
    own = {**stock.scheduler_config, "snr_shift_scale": 3.0}
    (tmp_path / "whole" / "scheduler").mkdir()
    (tmp_path / "whole" / "scheduler" / "scheduler_config.json").write_text(json.dumps(own))
    changed = load_backbone(BACKBONES["tiny-cogvideox"], dtype=torch.float32, device=CPU, folder=str(tmp_path / "whole"))
    assert not torch.equal(changed.objective.alphas_cumprod, stock.objective.alphas_cumprod)


def test_absent_weights_say_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r'hf download zai-org/CogVideoX-5b-I2V --include "transformer/\*"'):
        load_backbone(BACKBONES["cogvideox-5b-i2v"], dtype=torch.bfloat16, device=CPU)
    with pytest.raises(MissingWeights, match="put the files into"):
        load_backbone(BACKBONES["tiny-cogvideox"], dtype=torch.float32, device=CPU, folder=str(tmp_path / "nothing"))


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"not cogvideox-5b's: in_channels 32 \(wanted 16\)"):
        opened("cogvideox-5b", in_channels=32)
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(CallError, match="config.json is of WanTransformer3DModel"):
        load_backbone(BACKBONES["tiny-cogvideox"], dtype=torch.float32, device=CPU, folder=str(tmp_path))


def test_a_family_without_a_wrapper_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAMILIES, "wan")
    with pytest.raises(CallError, match="no wrapper for the family wan. Use one of tiny-cogvideox, "):
        load_backbone(BACKBONES["tiny-wan"], dtype=torch.float32, device=CPU)


def test_a_batch_without_what_the_backbone_reads_is_one_sentence() -> None:
    backbone = opened("cogvideox-5b-i2v")
    noisy, timesteps, side = inputs(backbone)
    with pytest.raises(CallError, match="vapdata backfill vae_first"):
        backbone.embed(noisy, timesteps, replace(side, first=None))
    with pytest.raises(CallError, match="vapdata backfill t5"):
        backbone.forward(noisy, timesteps, replace(side, text=None))


RELEASED: dict[str, tuple[dict[str, Any], float, float]] = {
    "cogvideox-2b": ({"num_attention_heads": 30, "num_layers": 30, "in_channels": 16}, 1.694, 56.1),
    "cogvideox-5b-i2v": (
        {"num_attention_heads": 48, "num_layers": 42, "in_channels": 32, "use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True},
        5.570,
        132.2,
    ),
}
"""Backbone -> arguments of its transformer, parameters in billions, and millions a block."""


@pytest.mark.parametrize("name", RELEASED)
def test_at_real_size_the_wrapper_fits_and_the_parameters_are_as_many_as_released(name: str) -> None:
    arguments, billions, millions = RELEASED[name]
    with torch.device("meta"):
        backbone = CogVideoX(BACKBONES[name], CogVideoXTransformer3DModel(**arguments), SCHEDULER)
        count = sum(parameter.numel() for parameter in backbone.transformer.parameters())
        assert round(count / 1e9, 3) == billions
        assert round(sum(parameter.numel() for parameter in backbone.blocks[0].parameters()) / 1e6, 1) == millions
        noisy = torch.empty(1, 16, 13, 60, 90)
        side = Side(clip_ids=("a/0",), video=noisy, text=torch.empty(1, 226, 4096), first=noisy[:, :, :1])
        stream = backbone.embed(noisy, torch.empty(1), side)
        assert stream.grid == (13, 30, 45) and stream.video.shape == (1, 17_550, backbone.config.num_attention_heads * 64)
        assert backbone.attention_inputs(backbone.blocks[0], stream).query.shape == (1, backbone.config.num_attention_heads, 17_776, 64)
        assert backbone.head(stream).shape == noisy.shape
