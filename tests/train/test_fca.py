"""Frame-wise Conditioning Adaptation: its configuration, what it owns, what it leaves alone, its two passes, its sizes. F1 ... F12 as the design numbers them.

F8, the VAE's law of lengths, is in tests/vapdata/test_frame_law.py.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from random_clips import FRAMES, a_batch, a_side
from torch import Tensor, nn

from train.backbones import load_backbone
from train.backbones.cogvideox import CogVideoX
from train.batch import Reads
from train.blocks import Blocks
from train.denoise import Guidance, _Branches
from train.export import Card, export, load_export
from train.fca import Fca, first_level
from train.method import Backbone, Method, MethodModule, unwrapped
from train.objective import normal
from train.optimizer import Optimizer
from train.recipes import fca_ssv2
from vapdata import backbones
from vapdata.errors import CallError

pytestmark = pytest.mark.slow

SMALL = Fca(latent_frames=FRAMES, ftc_width=64)
"""The paper's, at the size of the random clips."""
SWITCHES = {
    "no frames' text": {"ftc": "none"},
    "uniform": {"ftc": "uniform"},
    "uniform, refined": {"ftc": "uniform_refine"},
    "two layers": {"ftc_layers": 2},
    "width": {"ftc_width": 32},
    "five rows a frame": {"ftc_tokens_per_frame": 5},
    "no mask": {"frame_mask": False},
    "text sees frames": {"text_rows": "all"},
    "plain norm": {"prenorm": "ln"},
    "no norm": {"prenorm": "none"},
    "scale": {"scale_init": 1.0},
    "copied": {"attention_init": "copied"},
    "empty caption for the first frame": {"xinit_text": "empty"},
    "no norm for the first frame": {"xinit_norm": "none"},
    "ControlNet, every frame": {"init_inject": "controlnet_dup"},
    "ControlNet, first frame": {"init_inject": "controlnet_zero"},
    "LoRA": {"ft": "lora", "ftc": "none", "rank": 4},
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The tiny CogVideoX, in float32."""
    return load_backbone(backbones.backbone("tiny-cogvideox"), dtype=torch.float32, device=torch.device("cpu"))


def attached(backbone: Backbone, config: Fca = SMALL, wrap: Callable[..., Any] = unwrapped) -> Any:
    """The module as the loop makes it: drawn from a seed."""
    torch.manual_seed(0)
    return config.attach(backbone, wrap)


def predicted(backbone: Backbone, module: Any) -> Tensor:
    """For the fixed batch."""
    batch = a_batch(backbone)
    with torch.no_grad():
        return module.predict(batch.noise, batch.timesteps, batch.target, ())


def stirred(module: nn.Module) -> nn.Module:
    """Every weight moved a little, as after some steps."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(normal(5, parameter.shape, name), alpha=0.05)
    return module


# What it is


def test_it_is_a_method_and_makes_a_method_module(backbone: Backbone) -> None:
    assert isinstance(SMALL, Method)
    assert all(isinstance(attached(backbone, replace(SMALL, **SWITCHES[name])), MethodModule) for name in ("uniform", "LoRA"))


def test_its_defaults_are_the_papers() -> None:
    paper = Fca()
    assert (paper.ft, paper.ftc, paper.frame_mask, paper.prenorm, paper.init_inject) == ("fca", "layerwise", True, "adaln", "kv")
    assert (paper.scale_init, paper.scale_learnable, paper.zero_init_out, paper.caption_drop) == (0.1, True, False, 0.0)


def test_it_reads_what_its_switches_need() -> None:
    facts = backbones.backbone("tiny-cogvideox")
    assert Fca().reads(facts) == Reads(text=True, first=1, image_tokens="blip2", words=True)
    assert Fca(n_init=2, ftc="none", xinit_text="empty").reads(facts) == Reads(text=True, first=2, empty=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ftc": "layer_wise"}, "ftc is one of none, uniform, uniform_refine, layerwise; got 'layer_wise', did you mean 'layerwise'. Type e.g. --set fca.ftc=none"),
        ({"prenorm": "yes"}, "--set fca.prenorm=adaln"),
        ({"init_inject": "controlnet"}, "--set fca.init_inject=kv"),
        ({"ftc_layers": 0}, "ftc_layers is 1 or more; got 0. Type --set fca.ftc_layers=1"),
        ({"latent_frames": 0}, "--set fca.latent_frames=4"),
        ({"ftc_tokens_per_frame": 0}, "--set fca.ftc_tokens_per_frame=none"),
        ({"n_init": 3}, "n_init is 1 or 2 initial frames; got 3"),
        ({"ft": "lora"}, "Type --set fca.ftc=none before --set fca.ft=lora"),
        ({"scale_init": 0.0, "scale_learnable": False}, "never adds anything"),
        ({"scale_init": 0.0, "zero_init_out": True}, "gives neither of them a gradient"),
        ({"caption_drop": 1.5}, "caption_drop is a share, 0 to 1; got 1.5"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_to_type(fields: dict[str, Any], words: str) -> None:
    config = Fca()
    for name, value in fields.items():
        object.__setattr__(config, name, value)  # past the type check of the test run
    with pytest.raises(CallError) as caught:
        config.__post_init__()
    assert words in str(caught.value)


@pytest.mark.parametrize(("name", "why"), [("tiny-wan", "is of the family wan"), ("cogvideox-1.5-5b", "joins two latent frames in a patch")])
def test_a_backbone_that_it_is_not_made_for_is_refused(backbone: Backbone, name: str, why: str) -> None:
    other = copy.copy(backbone)
    other.facts = backbones.backbone(name)
    with pytest.raises(CallError, match=rf"made for CogVideoX-2B and 5B; {name} {why}.*--backbone cogvideox-2b"):
        Fca().attach(other, unwrapped)


def test_clips_of_another_length_are_refused_with_the_length_to_type(backbone: Backbone) -> None:
    with pytest.raises(CallError, match="made for 4 latent frames, these clips have 3. Type --set fca.latent_frames=3"):
        predicted(backbone, attached(backbone, replace(SMALL, latent_frames=4)))


def test_a_batch_without_what_it_reads_is_refused(backbone: Backbone) -> None:
    batch = a_batch(backbone)
    with pytest.raises(CallError, match="the batch has no word embeddings"):
        attached(backbone)(replace(batch, target=replace(batch.target, words=None)))


# Beside the frozen model


@pytest.mark.parametrize("fields", [{"scale_init": 0.0}, {"zero_init_out": True}, {"scale_init": 0.0, "ftc": "uniform_refine", "init_inject": "controlnet_dup"}])
def test_f1_a_scale_or_an_output_of_zeros_is_the_frozen_model_bit_for_bit(backbone: Backbone, fields: dict[str, Any]) -> None:
    module, batch = attached(backbone, replace(SMALL, **fields)), a_batch(backbone)
    with torch.no_grad():
        assert torch.equal(predicted(backbone, module), backbone.forward(batch.noise, batch.timesteps, batch.target))
        noisy = backbone.objective.noisy(batch.target.video, batch.noise, batch.timesteps)
        stock = backbone.objective.losses(backbone.forward(noisy, batch.timesteps, batch.target), batch.target.video, batch.noise, batch.timesteps)
        assert torch.equal(module(batch), stock)
    module(batch).sum().backward()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    optimizer.step()
    with torch.no_grad():
        assert not torch.equal(predicted(backbone, module), backbone.forward(batch.noise, batch.timesteps, batch.target)), "and is not after one step"


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_changes_what_comes_out_and_all_that_learns_gets_a_gradient(backbone: Backbone, name: str) -> None:
    """F5: gradients on the method's own weights, all of them once nothing is zero, and none on the backbone's."""
    usual, module = stirred(attached(backbone)), stirred(attached(backbone, replace(SMALL, **SWITCHES[name])))
    assert (predicted(backbone, module) - predicted(backbone, usual)).abs().max() > 1e-5
    module(a_batch(backbone)).sum().backward()
    assert [each for each, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.abs().max() > 0] == []
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.transformer.parameters())


def test_a_scale_that_does_not_learn_is_frozen(backbone: Backbone) -> None:
    frozen = [name for name, parameter in attached(backbone, replace(SMALL, scale_learnable=False)).named_parameters() if not parameter.requires_grad]
    assert frozen == [f"blocks.{number}.attention.scale" for number in range(len(backbone.blocks))]


def test_f5_the_initial_frames_pass_needs_no_gradient_and_no_weight_of_the_adapters_is_in_it(backbone: Backbone) -> None:
    """F6: what is seen of the initial frame is, bit for bit, what hooks catch in a transformer that knows nothing of adapters."""
    module, batch = attached(backbone), a_batch(backbone)
    caught: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, given, named: caught.append((*given, *named.values())[0]), with_kwargs=True) for block in backbone.blocks]
    noisy, timesteps = first_level(backbone, batch.target, batch.seeds)
    with torch.no_grad():
        backbone.forward(noisy, timesteps, batch.target)
    for hook in hooks:
        hook.remove()
    seen = list(module.initial(batch.target, batch.seeds))
    assert len(seen) == len(caught) == len(backbone.blocks)
    assert all(torch.equal(each.hidden, states) for each, states in zip(seen, caught, strict=True))
    assert not any(each.hidden.requires_grad or each.normed.requires_grad for each in seen)
    again = list(stirred(module).initial(batch.target, batch.seeds))
    assert all(torch.equal(a.normed, b.normed) for a, b in zip(seen, again, strict=True))
    norm = backbone.blocks[0].norm1
    time = backbone.embed(noisy, timesteps, batch.target).time
    assert torch.equal(seen[0].normed, norm(caught[0], batch.target.text.new_zeros(2, 1, caught[0].shape[2]), time)[0]), "through the frozen norm, by the pass's own time"


def test_the_initial_frames_noise_is_the_samples_own_and_small(backbone: Backbone) -> None:
    batch = a_batch(backbone)
    noisy, timesteps = first_level(backbone, batch.target, batch.seeds)
    assert timesteps.tolist() == [0.0, 0.0]
    assert 0.01 < (noisy - batch.target.first).std() < 0.1, "sqrt(1 - abar_0): 0.029 for 5B's schedule, 0.05 for 2B's"
    assert torch.equal(first_level(backbone, a_side(backbone, 0, 1), batch.seeds[:1])[0], noisy[:1]), "in any company"
    module = stirred(attached(backbone))
    assert torch.equal(predicted(backbone, module), predicted(backbone, module)), "the same at every step of sampling"


def test_the_initial_frame_is_read(backbone: Backbone) -> None:
    module, batch = stirred(attached(backbone, replace(SMALL, ftc="none"))), a_batch(backbone)
    other = replace(batch.target, first=batch.target.first + 1)
    stock = [backbone.forward(batch.noise, batch.timesteps, side) for side in (batch.target, other)]
    with torch.no_grad():
        own, changed = (module.predict(batch.noise, batch.timesteps, side, ()) for side in (batch.target, other))
    assert ((changed - own) - (stock[1] - stock[0])).abs().max() > 1e-4, "beyond what an image-to-video backbone reads of it by itself"


@torch.no_grad()
def test_lora_hands_back_the_clips_own_frames_of_a_sequence_one_frame_longer(backbone: Backbone) -> None:
    """Without corrections: the stock blocks, by hand, over [initial frame ; clip] with the initial frame one latent frame earlier."""
    module, batch = attached(backbone, replace(SMALL, ft="lora", ftc="none")), a_batch(backbone)
    clip = backbone.embed(batch.noise, batch.timesteps, batch.target)
    first = backbone.embed(batch.target.first, batch.timesteps, batch.target, frame_offset=-1.0)
    tables = tuple(torch.cat(pair) for pair in zip(first.rotary, clip.rotary, strict=True))
    video, text = torch.cat([first.video, clip.video], dim=1), clip.text
    for block in backbone.blocks:
        video, text = block(hidden_states=video, encoder_hidden_states=text, temb=clip.time, image_rotary_emb=tables)
    tokens = clip.grid[1] * clip.grid[2]
    assert torch.equal(predicted(backbone, module), backbone.head(replace(clip, video=video[:, tokens:])))


# Guidance


@torch.no_grad()
def test_f9_guidance_replaces_every_text_and_sees_the_initial_frame_anew(backbone: Backbone) -> None:
    """s = 1 is the prediction for the caption, s = 0 would be that for the negative prompt: n + s (c - n) in between and beyond."""
    module, batch = stirred(attached(backbone)), a_batch(backbone)
    side = batch.target
    negative = {"text": side.empty, "text_mask": side.text_mask, "words": torch.zeros_like(side.words), "words_mask": side.words_mask & (torch.arange(side.words.shape[1]) < 2)}
    bare = replace(side, **negative)
    timestep = torch.tensor(500.0)
    times = timestep.expand(2)
    asked = {name: module.predict(batch.noise, times, each, ()) for name, each in {"caption": side, "negative": bare, "text alone": replace(side, text=side.empty)}.items()}
    assert (asked["negative"] - asked["text alone"]).abs().max() > 1e-5, "frames' text is made of the negative prompt's words"
    assert not torch.equal(next(module.initial(side, [1, 2])).normed, next(module.initial(bare, [1, 2])).normed) or not torch.equal(
        list(module.initial(side, [1, 2]))[-1].normed, list(module.initial(bare, [1, 2]))[-1].normed
    ), "the initial frame is seen under the negative prompt"
    one = _Branches(module, backbone, side, (), negative, Guidance(scale=1.0)).prediction(batch.noise, timestep, 1.0)
    torch.testing.assert_close(one, asked["caption"])
    branches = _Branches(module, backbone, side, (), negative, Guidance(scale=6.0))
    torch.testing.assert_close(branches.prediction(batch.noise, timestep, 0.0), asked["negative"])
    torch.testing.assert_close(branches.prediction(batch.noise, timestep, 6.0), asked["negative"] + 6 * (asked["caption"] - asked["negative"]), rtol=1e-4, atol=1e-4)


# The objective and the schedule


def test_f10_v_is_learned_at_pure_noise_where_epsilon_says_nothing_of_the_clip(backbone: Backbone) -> None:
    batch, objective = a_batch(backbone, 1), backbone.objective
    last = torch.tensor([999.0])
    noisy = objective.noisy(batch.target.video, batch.noise, last)
    assert torch.equal(noisy, batch.noise), "zero terminal SNR: the input is the noise itself, so predicting it teaches nothing"
    assert objective.losses(-batch.target.video, batch.target.video, batch.noise, last).item() == 0.0, "v = -x0 there"
    assert float(objective.alphas_cumprod[999]) == 0.0, "x0 = (x_t - s eps) / a would divide by zero"


def test_f12_the_rate_rises_over_200_steps_and_falls_to_nothing_in_one_cosine() -> None:
    """Against diffusers' schedule, whose warm-up begins at 0 where ours begins at one part of it."""
    from diffusers.optimization import get_scheduler

    spec, steps = fca_ssv2("cogvideox-2b").optimizer, 2_000
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=spec.lr)
    schedule = get_scheduler("cosine_with_restarts", theirs, num_warmup_steps=spec.warmup, num_training_steps=steps, num_cycles=spec.cycles)
    rates = []
    for _ in range(steps):
        rates.append(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    ours = [spec.rate(step, steps) for step in range(steps)]
    assert ours[spec.warmup :] == pytest.approx(rates[spec.warmup :], abs=1e-12)
    assert ours[: spec.warmup - 1] == pytest.approx(rates[1 : spec.warmup], abs=1e-12)
    assert (max(ours), ours[-1] < 1e-8) == (1e-3, True)
    assert isinstance(spec, Optimizer)


# How it is run


@pytest.mark.parametrize("name", ["no mask", "uniform, refined", "LoRA"])
@pytest.mark.parametrize("keep", ["nothing", "attention"])
def test_activation_checkpointing_gives_equal_gradients(backbone: Backbone, name: str, keep: Any) -> None:
    def gradients(wrap: Callable[..., Any]) -> dict[str, Tensor]:
        module = stirred(attached(backbone, replace(SMALL, **SWITCHES[name]), wrap))
        module(a_batch(backbone)).sum().backward()
        return {each: parameter.grad for each, parameter in module.named_parameters()}

    plain, checkpointed = gradients(unwrapped), gradients(Blocks(keep=keep).wrap)
    assert all(torch.equal(plain[each], checkpointed[each]) for each in plain)


@pytest.mark.parametrize("name", ["no norm", "ControlNet, every frame", "LoRA", "uniform, refined"])
def test_a_bf16_backbone_and_float32_adapters_work_together_under_autocast(backbone: Backbone, name: str) -> None:
    half = load_backbone(backbone.facts, dtype=torch.bfloat16, device=torch.device("cpu"))
    config = replace(SMALL, **SWITCHES[name])
    module, exact = stirred(attached(half, config)), stirred(attached(backbone, config))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    batch = a_batch(half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = module(batch)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in module.parameters())
    torch.testing.assert_close(losses, exact(batch), rtol=0.05, atol=0)


def test_a_sample_has_the_same_loss_in_any_company(backbone: Backbone) -> None:
    module, batch = stirred(attached(backbone)), a_batch(backbone)
    alone = replace(
        batch,
        target=replace(batch.target.map(lambda tensor: tensor[1:]), clip_ids=batch.target.clip_ids[1:]),
        weights=batch.weights[1:],
        seeds=batch.seeds[1:],
        timesteps=batch.timesteps[1:],
        noise=batch.noise[1:],
    )
    with torch.no_grad():
        torch.testing.assert_close(module(alone), module(batch)[1:])


def test_an_export_brings_the_output_back(backbone: Backbone, tmp_path: Any) -> None:
    module = stirred(attached(backbone))
    card = Card(backbone=backbone.facts.name, catalog="c", index="i", step=1, method="fca", config={"latent_frames": FRAMES, "ftc_width": 64})
    export(tmp_path, module, SMALL, backbone, card)
    assert torch.equal(predicted(backbone, load_export(tmp_path, backbone)), predicted(backbone, module))


# The paper's sizes


def real_2b(layers: int = 30) -> Backbone:
    """CogVideoX-2B without any memory: diffusers' own defaults are its config."""
    from diffusers import CogVideoXTransformer3DModel

    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(num_layers=layers)
    return CogVideoX(backbones.backbone("cogvideox-2b"), transformer, {"_class_name": "CogVideoXDDIMScheduler", "prediction_type": "v_prediction"})


def count(module: nn.Module) -> int:
    """Weights."""
    return sum(parameter.numel() for parameter in module.parameters())


def test_on_the_real_2b_it_has_as_many_weights_as_the_design_counts() -> None:
    """F5: attention 442.6 M, frames' text 378 M at width 768 and 1,763 M at CogVideoX's own, 0.82 B or 2.2 B together."""
    module = attached(real_2b(), Fca())
    width, text, heads = 1920, 768, 64
    attention = sum(count(block.attention) for block in module.blocks.values())
    assert attention == 30 * (4 * (width**2 + width) + 4 * heads + 1)
    assert round(attention / 1e6, 1) == 442.6
    texts = sum(count(block.frame_text) for block in module.blocks.values())
    layer = 4 * (text**2 + text) + 2 * (text**2 + text) + 2 * (1408 * text + text) + 2 * 4 * text**2 + 5 * text + 3 * 2 * text
    assert texts == 30 * (904 * text + layer + text * width + width)
    assert round(texts / 1e6) == 378
    norms = sum(count(block.prenorm) for block in module.blocks.values())
    assert norms == 30 * (2 * width + 512 * 2 * width + 2 * width)
    assert count(module) == attention + texts + norms
    wide = attached(real_2b(), Fca(ftc_width=1920))
    made = sum(count(each) - count(each.words) - count(each.layers[0].norms) for each in (block.frame_text for block in wide.blocks.values()))
    assert round(made / 1e6) == 1763


@torch.no_grad()
def test_the_papers_shapes_go_through_the_real_2b() -> None:
    """16 frames are 4 latent ones; 904 queries; each of 5,626 rows may look at 226 + 1,350 + 226 of 2,480 keys."""
    backbone = real_2b(2)
    assert backbone.facts.vae.law.latent_frames(16) == 4
    config = Fca()
    assert config.sizes(backbone).queries == 904
    module = attached(backbone, config)
    side = a_side(backbone, 0, 1)
    meta = replace(side.map(lambda tensor: tensor.to("meta")), video=torch.empty(1, 16, 4, 60, 90, device="meta"), first=torch.empty(1, 16, 1, 60, 90, device="meta"))
    stream = backbone.embed(meta.video, torch.zeros(1, device="meta"), meta)
    assert (stream.grid, stream.video.shape[1] + stream.text.shape[1]) == ((4, 30, 45), 5_626)
    assert module.blocks["0"].frames(module._told(meta), stream.time).shape == (1, 4, 226, 1920)
    assert module._mask(stream).shape == (5_626, 2_480)
    assert module.predict(meta.video, torch.zeros(1, device="meta"), meta, ()).shape == (1, 16, 4, 60, 90)

