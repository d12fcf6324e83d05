"""Wan opened up: text-to-video and image-to-video against diffusers' own forward and pipeline, bit for bit."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from torch import Tensor

from train.backbones import family, load_backbone
from train.backbones.wan import Wan
from train.batch import Reads, Side
from train.denoise import denoise, initial, scheduler_from
from train.method import Backbone, Stream, run_block
from train.objective import Flow
from vapdata import tiny, tiny_transformer
from vapdata.backbones import BACKBONES
from vapdata.encoders.vae_condition import transformer_input
from vapdata.errors import CallError, MissingWeights

CPU = torch.device("cpu")
SCHEDULER = {"_class_name": "UniPCMultistepScheduler", **tiny_transformer.SCHEDULERS["tiny-wan"]}
SMALL = tiny_transformer.TRANSFORMERS["tiny-wan"] | {"num_layers": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "wan2.1-t2v-1.3b": {"in_channels": 16, "image_dim": None, "added_kv_proj_dim": None},
    "wan2.1-i2v-14b-480p": {},
}


def opened(name: str, **changes: Any) -> Wan:
    """A tiny backbone laid out like the released one of this name."""
    facts = replace(BACKBONES[name], text=replace(BACKBONES[name].text, width=64))
    transformer = WanTransformer3DModel(**(SMALL | VARIANTS[name] | changes))
    tiny_transformer.draw(transformer, name)
    return Wan(facts, transformer, SCHEDULER)


def inputs(backbone: Wan, frames: int = 3, rows: int = 4, columns: int = 6, size: int = 2) -> tuple[Tensor, Tensor, Side]:
    """Noisy latents, timesteps and a side."""
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(size, 16, frames, rows, columns, generator=generator)
    side = Side(clip_ids=tuple(f"clip/{number}" for number in range(size)), video=noisy, text=torch.randn(size, 512, 64, generator=generator))
    if backbone.facts.image_to_video:
        side = replace(side, condition=torch.randn(noisy.shape, generator=generator), image_tokens=torch.randn(size, 257, 64, generator=generator))
    return noisy, torch.tensor([37.5, 981.0][:size]), side


def through(backbone: Wan, stream: Stream) -> Tensor:
    """The prediction by way of the uniform access."""
    for block in backbone.blocks:
        stream = run_block(backbone, block, stream)
    return backbone.head(stream)


@pytest.fixture(params=VARIANTS)
def backbone(request: pytest.FixtureRequest) -> Wan:
    """Both in small."""
    return opened(request.param)


def test_it_is_a_backbone(backbone: Wan) -> None:
    assert isinstance(backbone, Backbone)
    assert [backbone.transformer.get_submodule(backbone.block_name(number)) for number in range(2)] == list(backbone.blocks)
    assert all(isinstance(backbone.blocks[0].get_submodule(name), torch.nn.Linear) for name in backbone.projections(backbone.blocks[0]))
    assert all(backbone.transformer.get_submodule(name) is not None for name in backbone.context_entry)


def test_the_objective_is_flow_by_the_released_scheduler_whose_shift_is_for_sampling_alone(backbone: Wan) -> None:
    assert backbone.objective == Flow(density="logit_normal", shift=1.0)
    assert backbone.scheduler_config["flow_shift"] == 3.0


def test_what_it_reads_is_known_with_nothing_loaded(backbone: Wan) -> None:
    text_to_video, image_to_video = (family(BACKBONES[name]).needs(BACKBONES[name]) for name in VARIANTS)
    assert text_to_video == Reads(text=True)
    assert image_to_video == Reads(text=True, condition=True, image_tokens="wan")
    assert backbone.reads() == backbone.needs(backbone.facts)


def test_block_by_block_gives_the_stock_forward_bit_for_bit(backbone: Wan) -> None:
    for frames in (1, 3):
        noisy, timesteps, side = inputs(backbone, frames)
        stock = backbone.forward(noisy, timesteps, side)
        assert stock.shape == noisy.shape
        assert torch.equal(through(backbone, backbone.embed(noisy, timesteps, side)), stock)
        assert 0.01 < stock.std() < 100


def test_block_by_block_gives_the_stock_gradient(backbone: Wan) -> None:
    noisy, timesteps, side = inputs(backbone, 2, size=1)
    gradients = []
    for run in (lambda x: backbone.forward(x, timesteps, side), lambda x: through(backbone, backbone.embed(x, timesteps, side))):
        start = noisy.clone().requires_grad_(True)
        run(start).square().mean().backward()
        gradients.append(start.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


def test_everything_is_frozen_and_in_eval_mode(backbone: Wan) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.transformer.parameters())
    assert not any(module.training for module in backbone.transformer.modules())


def test_entry_modules_are_those_that_embed_uses_and_can_be_replaced(backbone: Wan) -> None:
    noisy, timesteps, side = inputs(backbone)
    stock = backbone.embed(noisy, timesteps, side)
    other = opened(backbone.facts.name)
    with torch.no_grad():
        for parameter in other.transformer.parameters():
            parameter.mul_(1.5)
    entry = {name: other.transformer.get_submodule(name) for name in backbone.entry}
    replaced, theirs = backbone.embed(noisy, timesteps, side, entry=entry), other.embed(noisy, timesteps, side)
    for part in ("video", "time", "context"):
        assert torch.equal(getattr(replaced, part), getattr(theirs, part))
        assert not torch.equal(getattr(replaced, part), getattr(stock, part))


def test_a_block_may_be_replaced_by_a_copy_of_it(backbone: Wan) -> None:
    stream = backbone.embed(*inputs(backbone))
    block = backbone.blocks[0]
    assert torch.equal(run_block(backbone, copy.deepcopy(block), stream).video, run_block(backbone, block, stream).video)


def test_what_comes_after_the_keys_leaves_keys_and_values_as_they_are_and_everything_else_does_not(backbone: Wan) -> None:
    stream, block = backbone.embed(*inputs(backbone)), backbone.blocks[0]
    given = backbone.attention_inputs(block, stream)
    after = backbone.after_keys(block)
    for name, parameter in block.named_parameters():
        changed = copy.deepcopy(block)
        with torch.no_grad():
            changed.get_parameter(name).add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        found = backbone.attention_inputs(changed, stream)
        same = torch.equal(found.key, given.key) and torch.equal(found.value, given.value)
        assert same == name.startswith(tuple(f"{each}." for each in after)), name


def test_there_is_no_position_table(backbone: Wan) -> None:
    noisy, timesteps, side = inputs(backbone)
    assert torch.equal(backbone.embed(noisy, timesteps, side).video, backbone.embed(noisy, timesteps, side, absolute_positions=False).video)


# Rotary positions


@pytest.mark.parametrize("grid", [(21, 30, 52), (13, 45, 80), (1, 1, 1), (2, 7, 3)])
@pytest.mark.parametrize("head_dim", [16, 24, 128])
def test_rotary_positions_are_those_of_the_model_bit_for_bit(grid: tuple[int, int, int], head_dim: int) -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**(SMALL | VARIANTS["wan2.1-t2v-1.3b"] | {"attention_head_dim": head_dim, "num_layers": 1}))
    facts = replace(BACKBONES["wan2.1-t2v-1.3b"], text=replace(BACKBONES["wan2.1-t2v-1.3b"].text, width=64))
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    theirs = WanRotaryPosEmbed(head_dim, (1, 2, 2), 1024)(torch.empty(1, 1, grid[0], 2 * grid[1], 2 * grid[2], device="meta"))
    ours = Wan(facts, transformer, SCHEDULER)._rotary(grid, CPU, 0.0, 0.0)
    assert all(torch.equal(one, other[0, :, 0]) for one, other in zip(ours, theirs, strict=True))


def test_offsets_move_rotary_positions_alone_and_may_be_negative(backbone: Wan) -> None:
    noisy, timesteps, side = inputs(backbone)
    given, moved = backbone.embed(noisy, timesteps, side), backbone.embed(noisy, timesteps, side, frame_offset=-4.0, width_offset=2.0)
    for part in ("video", "time", "context"):
        assert torch.equal(getattr(moved, part), getattr(given, part))
    frames, rows, columns = given.grid
    here, there = (each.rotary[0].view(frames, rows, columns, 24) for each in (given, moved))
    assert torch.equal(here[..., 8:16], there[..., 8:16]), "rows stay"
    assert not torch.equal(here[..., :8], there[..., :8]) and not torch.equal(here[..., 16:], there[..., 16:])
    long = inputs(backbone, frames=10)
    late, early = (backbone.embed(*long, frame_offset=offset).rotary[0].view(10, rows, columns, 24) for offset in (0.0, -4.0))
    torch.testing.assert_close(early[4:], late[:-4], rtol=0, atol=0)


# What goes in


def test_mask_and_condition_go_in_as_in_diffusers_pipeline() -> None:
    backbone = opened("wan2.1-i2v-14b-480p")
    vae = AutoencoderKLWan.from_pretrained(tiny.folder("tiny-wan") / "vae", local_files_only=True).eval()
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipeline = WanImageToVideoPipeline(tokenizer=None, text_encoder=None, vae=vae, scheduler=scheduler, image_processor=None, image_encoder=None, transformer=backbone.transformer)
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1
    draws = torch.Generator().manual_seed(4)
    with torch.no_grad():
        noisy, theirs = pipeline.prepare_latents(image, 1, 16, 32, 48, 9, torch.float32, CPU, draws)
        mode = vae.encode(torch.cat([image[:, :, None], torch.zeros(1, 3, 8, 32, 48)], dim=2)).latent_dist.mode()
    mean, std = (torch.tensor(each).view(1, 16, 1, 1, 1) for each in (backbone.facts.vae.mean, backbone.facts.vae.std))
    ours = backbone.model_input(noisy, Side(clip_ids=("a/0",), video=noisy, condition=(mode - mean) / std))
    assert ours.shape == (1, 36, 3, 4, 6)
    assert torch.equal(ours[:, :16], noisy)
    assert torch.equal(ours[:, 16:20], theirs[:, :4])
    torch.testing.assert_close(ours[:, 20:], theirs[:, 4:])


def test_mask_and_condition_are_those_that_the_encoder_promises() -> None:
    backbone = opened("wan2.1-i2v-14b-480p")
    noisy, _, side = inputs(backbone, size=1)
    wanted = transformer_input(side.condition[0].numpy().astype(np.float32), "zero_frames", 3)
    assert np.array_equal(backbone.model_input(noisy, side)[0, 16:].numpy(), wanted)


def test_v13_a_text_that_blocks_would_split_in_the_wrong_place_is_refused(backbone: Wan) -> None:
    noisy, timesteps, side = inputs(backbone)
    short = replace(side, text=side.text[:, :500])
    for run in (backbone.embed, backbone.forward):
        with pytest.raises(CallError, match=r"have 500 rows, cross-attention counts on 512\. Pad them with zeros"):
            run(noisy, timesteps, short)


def test_another_number_of_image_tokens_is_refused() -> None:
    backbone = opened("wan2.1-i2v-14b-480p")
    noisy, timesteps, side = inputs(backbone)
    for tokens in (side.image_tokens[:, 1:], side.image_tokens[..., :32]):
        with pytest.raises(CallError, match="wanted 257x64, those of the tower wan. Type: vapdata backfill image_tokens"):
            backbone.embed(noisy, timesteps, replace(side, image_tokens=tokens))


def test_a_batch_without_what_the_backbone_reads_is_one_sentence() -> None:
    backbone = opened("wan2.1-i2v-14b-480p")
    noisy, timesteps, side = inputs(backbone)
    for field, step in {"condition": "vae_condition", "image_tokens": "image_tokens", "text": "umt5"}.items():
        for run in (backbone.embed, backbone.forward):
            with pytest.raises(CallError, match=f"vapdata backfill {step}"):
                run(noisy, timesteps, replace(side, **{field: None}))
    with pytest.raises(CallError, match=r"condition latents of 2x4x6 \(frames, rows, columns\) beside noisy ones of 3x4x6"):
        backbone.embed(noisy, timesteps, replace(side, condition=side.condition[:, :, 1:]))


def test_padding_rows_of_the_text_are_attended_to_so_they_must_be_the_zeros_of_the_pipeline() -> None:
    backbone = opened("wan2.1-t2v-1.3b")
    noisy, timesteps, side = inputs(backbone)
    padded = side.text.clone()
    padded[:, 100:] = 0
    assert not torch.equal(backbone.forward(noisy, timesteps, side), backbone.forward(noisy, timesteps, replace(side, text=padded)))


def test_sampling_without_a_method_equals_diffusers_pipeline() -> None:
    backbone = opened("wan2.1-i2v-14b-480p")
    noisy, _, side = inputs(backbone, size=1)
    negative = side.text.flip(1)
    parts = dict.fromkeys(("tokenizer", "text_encoder", "image_processor", "image_encoder"))
    vae = AutoencoderKLWan.from_pretrained(tiny.folder("tiny-wan") / "vae", local_files_only=True).eval()
    pipeline = Given(transformer=backbone.transformer, vae=vae, scheduler=scheduler_from(backbone.scheduler_config), **parts)
    pipeline.condition, pipeline.tokens = backbone.model_input(noisy, side)[:, 16:], side.image_tokens
    pipeline.set_progress_bar_config(disable=True)
    told = {"prompt_embeds": side.text, "negative_prompt_embeds": negative, "guidance_scale": 5.0, "num_inference_steps": 4}
    theirs = pipeline(torch.zeros(1, 3, 32, 48), height=32, width=48, num_frames=9, latents=initial([5], noisy), output_type="latent", return_dict=False, **told)[0]
    ours = denoise(None, backbone, side, (), steps=4, guidance=5.0, seeds=[5], negative={"text": negative}, scheduler=scheduler_from(backbone.scheduler_config))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


class Given(WanImageToVideoPipeline):
    """diffusers' pipeline, given image tokens, mask and condition latent."""

    condition: Tensor
    tokens: Tensor

    def encode_image(self, *_: Any) -> Tensor:
        """The tokens."""
        return self.tokens

    def prepare_latents(self, *args: Any) -> tuple[Tensor, Tensor]:
        """The noise that was passed, and [mask ; condition]."""
        return next(each for each in args if isinstance(each, Tensor) and each.ndim == 5), self.condition


# Loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tiny_backbone_loads_offline_with_its_modulation_in_float32(dtype: torch.dtype) -> None:
    backbone = load_backbone(BACKBONES["tiny-wan"], dtype=dtype, device=CPU)
    assert isinstance(backbone, Wan)
    assert sum(parameter.numel() for parameter in backbone.transformer.parameters()) == 1_268_992
    kept = ("scale_shift_table", "norm1", "norm2", "time_embedder")
    for name, parameter in backbone.transformer.named_parameters():
        assert parameter.dtype == (torch.float32 if set(kept) & {*name.split(".")} else dtype), name
    noisy, timesteps, side = inputs(backbone, size=1)
    assert torch.equal(through(backbone, backbone.embed(noisy, timesteps, side)), backbone.forward(noisy, timesteps, side))


def test_a_trained_folder_stands_for_the_hubs(tmp_path: Path) -> None:
    stock = load_backbone(BACKBONES["tiny-wan"], dtype=torch.float32, device=CPU)
    with torch.no_grad():
        stock.transformer.proj_out.bias.fill_(0.25)
    stock.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="2MB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    again = load_backbone(BACKBONES["tiny-wan"], dtype=torch.float32, device=CPU, folder=str(tmp_path))
    assert all(torch.equal(one, other) for one, other in zip(again.transformer.parameters(), stock.transformer.parameters(), strict=True))
    assert again.scheduler_config == stock.scheduler_config


def test_absent_weights_say_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r'hf download Wan-AI/Wan2.1-I2V-14B-480P-Diffusers --include "transformer/\*"'):
        load_backbone(BACKBONES["wan2.1-i2v-14b-480p"], dtype=torch.bfloat16, device=CPU)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"not wan2.1-t2v-1.3b's: in_channels 36 \(wanted 16\)"):
        opened("wan2.1-t2v-1.3b", in_channels=36)
    with pytest.raises(CallError, match=r"not wan2.1-i2v-14b-480p's: image_dim None \(wanted that of CLIP ViT-H/14\)"):
        opened("wan2.1-i2v-14b-480p", image_dim=None, added_kv_proj_dim=None)
    with pytest.raises(CallError, match=r"pos_embed_seq_len 514 \(wanted None\)"):
        opened("wan2.1-i2v-14b-480p", pos_embed_seq_len=514)
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "CogVideoXTransformer3DModel"}))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(CallError, match="config.json is of CogVideoXTransformer3DModel; tiny-wan wants WanTransformer3DModel"):
        load_backbone(BACKBONES["tiny-wan"], dtype=torch.float32, device=CPU, folder=str(tmp_path))


# Real sizes


RELEASED: dict[str, tuple[dict[str, Any], float, float]] = {
    "wan2.1-t2v-1.3b": ({"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}, 1.419, 46.4),
    "wan2.1-t2v-14b": ({}, 14.288, 351.4),
    "wan2.1-i2v-14b-480p": ({"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}, 16.395, 403.8),
}
"""Backbone -> what its transformer/config.json says beside the class's defaults, parameters in billions, and millions a block."""


@pytest.mark.parametrize("name", RELEASED)
def test_at_real_size_the_wrapper_fits_and_the_parameters_are_as_many_as_released(name: str) -> None:
    arguments, billions, millions = RELEASED[name]
    with torch.device("meta"):
        backbone = Wan(BACKBONES[name], WanTransformer3DModel(**arguments), SCHEDULER)
        assert round(sum(parameter.numel() for parameter in backbone.transformer.parameters()) / 1e9, 3) == billions
        assert round(sum(parameter.numel() for parameter in backbone.blocks[0].parameters()) / 1e6, 1) == millions
        noisy = torch.empty(1, 16, 21, 60, 104)
        side = Side(clip_ids=("a/0",), video=noisy, text=torch.empty(1, 512, 4096), condition=noisy, image_tokens=torch.empty(1, 257, 1280))
        stream = backbone.embed(noisy, torch.empty(1), side)
        width = backbone.config.num_attention_heads * 128
        assert stream.grid == (21, 30, 52) and stream.video.shape == (1, 32_760, width)
        assert stream.context.shape == (1, 769 if backbone.facts.image_to_video else 512, width)
        assert backbone.attention_inputs(backbone.blocks[0], stream).query.shape == (1, width // 128, 32_760, 128)
        assert backbone.head(run_block(backbone, backbone.blocks[0], stream)).shape == noisy.shape
