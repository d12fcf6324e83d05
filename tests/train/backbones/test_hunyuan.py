"""HunyuanVideo-I2V opened up: both ways of taking a first frame against diffusers' own forward and pipeline, bit for bit."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoImageToVideoPipeline, HunyuanVideoTransformer3DModel
from torch import Tensor

from train.backbones import family, load_backbone
from train.backbones.hunyuan import GivenFirst, Hunyuan
from train.batch import Reads, Side
from train.denoise import denoise, initial, scheduler_from
from train.method import AttentionInputs, Backbone, Stream, run_block, unwrapped
from train.objective import Flow
from train.vap import Vap
from vapdata import tiny, tiny_transformer
from vapdata.backbones import BACKBONES, Condition
from vapdata.encoders.vae_condition import transformer_input
from vapdata.errors import CallError, MissingWeights

CPU = torch.device("cpu")
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", **tiny_transformer.SCHEDULERS["tiny-hunyuan"]}
SMALL = tiny_transformer.TRANSFORMERS["tiny-hunyuan"] | {"num_single_layers": 2}
VARIANTS: dict[Condition, dict[str, Any]] = {
    "token_replace": {},
    "latent_concat": {"in_channels": 33, "image_condition_type": "latent_concat", "guidance_embeds": False},
}
ROWS = 9


def opened(condition: Condition, **changes: Any) -> Hunyuan:
    """A tiny backbone that takes its first frame so."""
    transformer = HunyuanVideoTransformer3DModel(**(SMALL | VARIANTS[condition] | changes))
    tiny_transformer.draw(transformer, condition)
    return Hunyuan(replace(BACKBONES["tiny-hunyuan"], condition=condition), transformer, SCHEDULER)


def inputs(frames: int = 3, size: int = 2, lengths: tuple[int, ...] = (ROWS, 6)) -> tuple[Tensor, Tensor, Side]:
    """Noisy latents, timesteps and a side whose second text is padded."""
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(size, 16, frames, 4, 6, generator=generator)
    side = Side(
        clip_ids=tuple(f"clip/{number}" for number in range(size)),
        video=noisy,
        text=torch.randn(size, ROWS, 64, generator=generator),
        text_mask=torch.arange(ROWS) < torch.tensor(lengths[:size])[:, None],
        pooled=torch.randn(size, 32, generator=generator),
        condition=torch.randn(size, 16, 1, 4, 6, generator=generator),
    )
    return noisy, torch.tensor([37.5, 981.0][:size]), side


def through(backbone: Hunyuan, stream: Stream) -> Tensor:
    """The prediction by way of the uniform access."""
    for block in backbone.blocks:
        stream = run_block(backbone, block, stream)
    return backbone.head(stream)


@pytest.fixture(params=VARIANTS)
def backbone(request: pytest.FixtureRequest) -> Hunyuan:
    """Both in small."""
    return opened(request.param)


def test_it_is_a_backbone_of_dual_and_single_blocks(backbone: Hunyuan) -> None:
    assert isinstance(backbone, Backbone)
    assert [backbone.transformer.get_submodule(backbone.block_name(number)) for number in range(4)] == list(backbone.blocks)
    assert backbone.block_name(1) == "transformer_blocks.1" and backbone.block_name(2) == "single_transformer_blocks.0"
    for block in backbone.blocks:
        assert all(isinstance(block.get_submodule(name), torch.nn.Linear) for name in backbone.projections(block))


def test_what_it_reads_is_known_with_nothing_loaded(backbone: Hunyuan) -> None:
    facts = BACKBONES["hunyuanvideo-i2v"]
    assert family(facts).needs(facts) == backbone.reads() == Reads(text=True, pooled=True, condition=True)


def test_block_by_block_gives_the_stock_forward_bit_for_bit(backbone: Hunyuan) -> None:
    for frames in (2, 3):
        noisy, timesteps, side = inputs(frames)
        stock = backbone.forward(noisy, timesteps, side)
        assert stock.shape == noisy.shape
        assert torch.equal(through(backbone, backbone.embed(noisy, timesteps, side)), stock)
        assert 0.01 < stock.std() < 100


def test_block_by_block_gives_the_stock_gradient(backbone: Hunyuan) -> None:
    noisy, timesteps, side = inputs(size=1)
    gradients = []
    for run in (lambda x: backbone.forward(x, timesteps, side), lambda x: through(backbone, backbone.embed(x, timesteps, side))):
        start = noisy.clone().requires_grad_(True)
        run(start).square().mean().backward()
        gradients.append(start.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


def test_everything_is_frozen_and_in_eval_mode(backbone: Hunyuan) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.transformer.parameters())
    assert not any(module.training for module in backbone.transformer.modules())


def test_entry_modules_are_those_that_embed_uses_and_can_be_replaced(backbone: Hunyuan) -> None:
    noisy, timesteps, side = inputs()
    stock = backbone.embed(noisy, timesteps, side)
    other = opened(backbone.facts.condition)
    with torch.no_grad():
        for parameter in other.transformer.parameters():
            parameter.mul_(1.5)
    entry = {name: other.transformer.get_submodule(name) for name in backbone.entry}
    replaced, theirs = backbone.embed(noisy, timesteps, side, entry=entry), other.embed(noisy, timesteps, side)
    for part in ("video", "time", "text"):
        assert torch.equal(getattr(replaced, part), getattr(theirs, part))
        assert not torch.equal(getattr(replaced, part), getattr(stock, part))


@pytest.mark.parametrize("number", [0, 2], ids=["dual", "single"])
def test_what_comes_after_the_keys_leaves_keys_and_values_as_they_are_and_everything_else_does_not(backbone: Hunyuan, number: int) -> None:
    stream, block = backbone.embed(*inputs()), backbone.blocks[number]

    def shown(given: AttentionInputs) -> tuple[Tensor, Tensor]:
        return given.key, given.value

    given, after = shown(backbone.attention_inputs(block, stream)), tuple(f"{each}." for each in backbone.after_keys(block))
    for name, parameter in block.named_parameters():
        changed = copy.deepcopy(block)
        with torch.no_grad():
            changed.get_parameter(name).add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        found = shown(backbone.attention_inputs(changed, stream))
        assert all(map(torch.equal, found, given)) == name.startswith(after), name


def test_sampled_latents_end_as_in_diffusers_pipeline_with_a_given_frame_0(backbone: Hunyuan) -> None:
    """The pipeline's own loop, fed embeddings: 0.999 noise and 0.001 image to begin with, steps of frames 1 and later alone."""
    noisy, _, side = inputs(size=1)
    side = replace(side, condition=side.condition / 10)
    parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "image_processor"))
    vae = AutoencoderKLHunyuanVideo.from_pretrained(tiny.folder("tiny-hunyuan") / "vae", local_files_only=True).eval()
    pipeline = Embedded(transformer=backbone.transformer, vae=vae, scheduler=scheduler_from(backbone.scheduler_config), **parts)
    pipeline.given = side.condition
    pipeline.set_progress_bar_config(disable=True)
    told = {"prompt_embeds": side.text, "pooled_prompt_embeds": side.pooled, "prompt_attention_mask": side.text_mask}
    first = initial([5], noisy)
    image = torch.zeros(1, 3, 32, 48)
    theirs = pipeline(image, height=32, width=48, num_frames=9, num_inference_steps=3, latents=first, output_type="latent", return_dict=False, **told)[0]
    ours = denoise(None, backbone, side, (), steps=3, guidance=1.0, seeds=[5], negative=None, scheduler=scheduler_from(backbone.scheduler_config))
    if backbone.facts.condition == "latent_concat":
        ours = ours[:, :, 1:]  # the pipeline leaves out the frame that was given
    else:
        assert torch.equal(ours[:, :, :1], side.condition)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


class Embedded(HunyuanVideoImageToVideoPipeline):
    """diffusers' pipeline, given the first frame's latent and noise alone to begin with."""

    given: Tensor

    def prepare_latents(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The noise that was passed, and the given latent, once or for every frame."""
        latents = next(each for each in args if isinstance(each, Tensor) and each.ndim == 5)
        return latents, self.given if args[-1] == "token_replace" else self.given.repeat(1, 1, latents.shape[2], 1, 1)


# Text and its mask


def test_rows_stand_behind_the_video_and_padding_says_nothing(backbone: Hunyuan) -> None:
    noisy, timesteps, side = inputs()
    stream = backbone.embed(noisy, timesteps, side)
    assert stream.mask.tolist() == [[True] * (18 + ROWS), [True] * (18 + 6) + [False] * 3]
    assert backbone.attention_inputs(backbone.blocks[0], stream).mask is stream.mask
    other = side.text.clone()
    other[1, 6:] = 100
    changed = backbone.forward(noisy, timesteps, replace(side, text=other))
    assert torch.equal(changed, backbone.forward(noisy, timesteps, side))
    assert torch.equal(changed, through(backbone, backbone.embed(noisy, timesteps, replace(side, text=other))))


def test_a_shorter_padding_gives_the_same_prediction(backbone: Hunyuan) -> None:
    noisy, timesteps, side = inputs(lengths=(6, 6))
    cut = replace(side, text=side.text[:, :6], text_mask=side.text_mask[:, :6])
    torch.testing.assert_close(backbone.forward(noisy, timesteps, cut), backbone.forward(noisy, timesteps, side), rtol=0, atol=1e-5)


# Rotary positions


def test_rotary_positions_are_those_of_the_model_bit_for_bit(backbone: Hunyuan) -> None:
    noisy, timesteps, side = inputs()
    theirs = backbone.transformer.rope(noisy)
    assert all(torch.equal(one, other) for one, other in zip(backbone.embed(noisy, timesteps, side).rotary, theirs, strict=True))


def test_offsets_move_rotary_positions_alone_and_may_be_negative(backbone: Hunyuan) -> None:
    noisy, timesteps, side = inputs()
    given, moved = backbone.embed(noisy, timesteps, side), backbone.embed(noisy, timesteps, side, frame_offset=-4.0, width_offset=2.0)
    for part in ("video", "text", "time"):
        assert torch.equal(getattr(moved, part), getattr(given, part))
    here, there = (each.rotary[0] for each in (given, moved))
    assert torch.equal(here[:, 4:10], there[:, 4:10]), "rows stay"
    assert not torch.equal(here[:, :4], there[:, :4]) and not torch.equal(here[:, 10:], there[:, 10:])
    long = inputs(frames=10)
    late, early = (backbone.embed(*long, frame_offset=offset).rotary[0].view(10, -1, 16) for offset in (0.0, -4.0))
    torch.testing.assert_close(early[4:], late[:-4], rtol=0, atol=0)


# The first frame


def test_the_first_frame_goes_in_as_in_diffusers_pipeline(backbone: Hunyuan) -> None:
    condition = backbone.facts.condition
    vae = AutoencoderKLHunyuanVideo.from_pretrained(tiny.folder("tiny-hunyuan") / "vae", local_files_only=True).eval()
    parts = dict.fromkeys(("text_encoder", "tokenizer", "scheduler", "text_encoder_2", "tokenizer_2", "image_processor"))
    pipeline = HunyuanVideoImageToVideoPipeline(transformer=backbone.transformer, vae=vae, **parts)
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        noisy, theirs = pipeline.prepare_latents(image, 1, 16, 32, 48, 9, torch.float32, CPU, torch.Generator().manual_seed(4), None, condition)
        mode = vae.encode(image[:, :, None]).latent_dist.mode() * backbone.facts.vae.image_scaling_factor
    # As the pipeline's __call__ goes on from there.
    if condition == "latent_concat":
        theirs[:, :, 1:] = 0
        mask = theirs.new_ones(1, 1, *theirs.shape[2:])
        mask[:, :, 1:] = 0
        wanted = torch.cat([noisy, theirs, mask], dim=1)
    else:
        wanted = torch.cat([theirs, noisy[:, :, 1:]], dim=2)
    side = Side(clip_ids=("a/0",), video=noisy, condition=mode)
    assert torch.equal(backbone.model_input(noisy, side), wanted)
    promised = transformer_input(mode[0].numpy(), condition, 3)
    found = backbone.model_input(torch.zeros_like(noisy), side)[0].numpy()
    assert (found[16:] == promised).all() if condition == "latent_concat" else (found[:, :1] == promised).all()


def test_what_stands_in_for_frame_0_is_not_in_the_loss() -> None:
    objective = opened("token_replace").objective
    assert isinstance(objective, GivenFirst)
    clean, noise, predicted = (torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    times = torch.tensor([100.0, 900.0])
    wanted = Flow().losses(predicted[:, :, 1:], clean[:, :, 1:], noise[:, :, 1:], times)
    assert torch.equal(objective.losses(predicted, clean, noise, times), wanted)
    other = predicted.clone()
    other[:, :, 0] = 100
    assert torch.equal(objective.losses(other, clean, noise, times), wanted)
    assert type(opened("latent_concat").objective) is Flow
    with pytest.raises(CallError, match="nothing to predict. Train on a product of 5 frames or more"):
        objective.losses(*(each[:, :, :1] for each in (predicted, clean, noise)), times)


def test_the_noise_and_the_time_of_a_given_frame_0_do_not_matter_to_its_tokens() -> None:
    backbone = opened("token_replace")
    noisy, timesteps, side = inputs()
    stream, other = (backbone.embed(each, times, side) for each, times in ((noisy, timesteps), (noisy + 1, timesteps / 2)))
    assert torch.equal(stream.video[:, :6], other.video[:, :6]) and torch.equal(stream.time[:, 1], other.time[:, 1])
    assert not torch.equal(stream.video[:, 6:], other.video[:, 6:]) and not torch.equal(stream.time[:, 0], other.time[:, 0])


# Loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tiny_backbone_loads_offline_in_the_asked_dtype(dtype: torch.dtype) -> None:
    backbone = load_backbone(BACKBONES["tiny-hunyuan"], dtype=dtype, device=CPU)
    assert isinstance(backbone, Hunyuan)
    assert {parameter.dtype for parameter in backbone.transformer.parameters()} == {dtype}
    noisy, timesteps, side = inputs()
    assert torch.equal(through(backbone, backbone.embed(noisy, timesteps, side)), backbone.forward(noisy, timesteps, side))


def test_absent_weights_say_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r'hf download hunyuanvideo-community/HunyuanVideo-I2V --include "transformer/\*"'):
        load_backbone(BACKBONES["hunyuanvideo-i2v"], dtype=torch.bfloat16, device=CPU)


def test_weights_of_the_other_way_are_refused() -> None:
    with pytest.raises(CallError, match=r"image_condition_type latent_concat \(wanted token_replace\), in_channels 33 \(wanted 16\)"):
        opened("token_replace", **VARIANTS["latent_concat"])


def test_a_batch_without_what_the_backbone_reads_is_one_sentence(backbone: Hunyuan) -> None:
    noisy, timesteps, side = inputs()
    for field, step in {"condition": "vae_condition", "text": "llava", "text_mask": "llava", "pooled": "clip_text"}.items():
        for run in (backbone.embed, backbone.forward):
            with pytest.raises(CallError, match=f"vapdata backfill {step}"):
                run(noisy, timesteps, replace(side, **{field: None}))


# Beside a method


def test_video_as_prompt_has_nothing_released_for_it_so_it_says_what_to_type(backbone: Hunyuan) -> None:
    with pytest.raises(CallError, match=r"nothing was released for tiny-hunyuan \(hunyuan\).*--set vap\.expert_layers=all"):
        Vap().attach(backbone, unwrapped)
    noisy, timesteps, side = inputs()
    module = Vap(expert_layers="all").attach(backbone, unwrapped)
    with pytest.raises(CallError, match=r"--set vap\.ref_timestep=target"):
        module.predict(noisy, timesteps, side, (side,))


@pytest.mark.parametrize("layers", ["all", (0, 2), (1,), (3,)])
def test_video_as_prompt_works_on_dual_and_single_blocks_once_it_is_told(backbone: Hunyuan, layers: Any) -> None:
    noisy, timesteps, side = inputs()
    module = Vap(expert_layers=layers, ref_timestep="target").attach(backbone, unwrapped)
    reference = replace(side, video=side.video.flip(4), text=side.text.flip(1), text_mask=side.text_mask.flip(0), condition=side.condition.flip(4))
    stock = backbone.forward(noisy, timesteps, side)
    assert torch.equal(module.predict(noisy, timesteps, side, ()), stock)
    spoken = module.predict(noisy, timesteps, side, (reference,))
    assert (spoken - stock)[:, :, 1:].abs().max() > 1e-4
    padding = reference.text.masked_fill(~reference.text_mask[:, :, None], 100.0)
    assert torch.equal(module.predict(noisy, timesteps, side, (replace(reference, text=padding),)), spoken), "a reference's padding says nothing"
    spoken[:, :, 1:].square().sum().backward()
    assert [name for name, each in module.named_parameters() if each.requires_grad and (each.grad is None or not each.grad.abs().max() > 0)] == []
    last = backbone.after_keys(backbone.blocks[(len(backbone.blocks) - 1) if layers == "all" else layers[-1]])
    frozen = {name.split(".", 2)[2] for name, each in module.named_parameters() if not each.requires_grad}
    assert frozen and all(name.startswith(tuple(f"{each}." for each in last)) for name in frozen)


def test_video_as_prompt_with_a_copied_expert_on_the_target_itself_changes_nothing(backbone: Hunyuan) -> None:
    noisy, timesteps, side = inputs()
    module = Vap(expert_layers="all", ref_timestep="target", rope="shared").attach(backbone, unwrapped)
    twin = replace(side, video=noisy)
    with torch.no_grad():
        torch.testing.assert_close(module.predict(noisy, timesteps, side, (twin,)), backbone.forward(noisy, timesteps, side), rtol=0, atol=2e-5)


@pytest.mark.parametrize("fusion", ["residual", "single_branch_full", "single_branch_lora"])
def test_the_ablations_of_video_as_prompt_work_too(backbone: Hunyuan, fusion: Any) -> None:
    noisy, timesteps, side = inputs()
    module = Vap(expert_layers="all" if fusion == "residual" else None, ref_timestep="target", fusion=fusion, rank=2).attach(backbone, unwrapped)
    if fusion == "residual":
        with torch.no_grad():
            assert torch.equal(module.predict(noisy, timesteps, side, (side,)), backbone.forward(noisy, timesteps, side))
            for linear in module.inject.values():
                linear.weight.normal_(std=0.1)
    module.predict(noisy, timesteps, side, (side,))[:, :, 1:].square().sum().backward()
    late = "" if fusion != "single_branch_lora" else ".up"  # the factor before one that is zero has no gradient yet
    assert [name for name, each in module.named_parameters() if each.requires_grad and name.endswith(late) and (each.grad is None or not each.grad.abs().max() > 0)] == []


# Real size


def test_at_real_size_the_wrapper_fits_and_the_parameters_are_as_many_as_released() -> None:
    with torch.device("meta"):
        transformer = HunyuanVideoTransformer3DModel(image_condition_type="token_replace")
        backbone = Hunyuan(BACKBONES["hunyuanvideo-i2v"], transformer, SCHEDULER)
        assert round(sum(parameter.numel() for parameter in transformer.parameters()) / 1e9, 2) == 12.82
        assert round(sum(parameter.numel() for parameter in backbone.blocks[-1].parameters()) / 1e6, 1) == 141.6
        assert len(backbone.blocks) == 60
        noisy = torch.empty(1, 16, 33, 90, 160)
        side = Side(
            clip_ids=("a/0",),
            video=noisy,
            text=torch.empty(1, 400, 4096),
            text_mask=torch.ones(1, 400, dtype=torch.bool),
            pooled=torch.empty(1, 768),
            condition=noisy[:, :, :1],
        )
        stream = backbone.embed(noisy, torch.empty(1), side)
        assert stream.grid == (33, 45, 80) and stream.video.shape == (1, 118_800, 3072)
        assert backbone.attention_inputs(backbone.blocks[0], stream).query.shape == (1, 24, 119_200, 128)
        assert backbone.head(stream).shape == noisy.shape
