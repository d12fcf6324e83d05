"""Video-As-Prompt: its configuration, what it owns and what of it learns, what it leaves alone, and its loss."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from train.backbones import load_backbone
from train.batch import Batch, Reads, Side
from train.blocks import Blocks
from train.export import export_released, import_released
from train.method import Backbone, Method, MethodModule, unwrapped
from train.objective import normal, seed_of
from train.vap import RELEASED_LAYERS, RELEASED_TIMESTEP, Vap
from vapdata import backbones
from vapdata.errors import CallError
from vapdata.settings import parse, typed

pytestmark = pytest.mark.slow

TINY = ("tiny-cogvideox", "tiny-wan")
"""Every family's tiny backbone."""
LAST_BLOCK = {
    "tiny-cogvideox": {
        "learns": {"norm1.linear.weight", "norm1.linear.bias", "norm1.norm.weight", "norm1.norm.bias", "attn1.norm_k.weight", "attn1.norm_k.bias", "attn1.to_k.weight",
                   "attn1.to_k.bias", "attn1.to_v.weight", "attn1.to_v.bias"},
        "frozen": {"attn1.norm_q.weight", "attn1.norm_q.bias", "attn1.to_q.weight", "attn1.to_q.bias", "attn1.to_out.0.weight", "attn1.to_out.0.bias", "norm2.linear.weight",
                   "norm2.linear.bias", "norm2.norm.weight", "norm2.norm.bias", "ff.net.0.proj.weight", "ff.net.0.proj.bias", "ff.net.2.weight", "ff.net.2.bias"},
    },
    "tiny-wan": {
        "learns": {"scale_shift_table", "attn1.norm_k.weight", "attn1.to_k.weight", "attn1.to_k.bias", "attn1.to_v.weight", "attn1.to_v.bias"},
        "frozen": {"attn1.norm_q.weight", "attn1.to_q.weight", "attn1.to_q.bias", "attn1.to_out.0.weight", "attn1.to_out.0.bias", "norm2.weight", "norm2.bias",
                   "ffn.net.0.proj.weight", "ffn.net.0.proj.bias", "ffn.net.2.weight", "ffn.net.2.bias", "attn2.norm_q.weight", "attn2.norm_k.weight", "attn2.norm_added_k.weight",
                   *(f"attn2.{layer}.{part}" for layer in ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "to_out.0") for part in ("weight", "bias"))},
    },
}  # fmt: skip
FRAMES, HEIGHT, WIDTH = 2, 4, 6


@pytest.fixture(scope="module", params=TINY)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Each family's tiny backbone, in float32."""
    return load_backbone(backbones.backbone(request.param), dtype=torch.float32, device=torch.device("cpu"))


def a_side(backbone: Backbone, seed: int, size: int = 2) -> Side:
    """`size` random clips with all that the backbone reads."""
    facts, reads = backbone.facts, backbone.reads()
    channels = facts.vae.latent_channels

    def drawn(name: str, *shape: int) -> Tensor:
        return normal(seed, (size, *shape), name)

    return Side(
        clip_ids=tuple(f"{seed}-{place}" for place in range(size)),
        video=drawn("video", channels, FRAMES, HEIGHT, WIDTH),
        text=drawn("text", facts.text.rows, facts.text.width),
        text_mask=torch.ones(size, facts.text.rows, dtype=torch.bool),
        first=drawn("first", channels, reads.first, HEIGHT, WIDTH) if reads.first else None,
        condition=drawn("condition", channels, FRAMES, HEIGHT, WIDTH) if reads.condition else None,
        image_tokens=drawn("image tokens", 257, 64) if reads.image_tokens else None,
    )


def longer(side: Side) -> Side:
    """The clips twice as long."""
    twice = {name: torch.cat([value, value], dim=2) for name in ("video", "condition") if (value := getattr(side, name)) is not None}
    return replace(side, **twice)


def a_batch(backbone: Backbone, references: int = 1, size: int = 2, step: int = 3) -> Batch:
    """A micro-batch as the loader makes it."""
    target = a_side(backbone, 0, size)
    seeds = tuple(seed_of(0, step, slot, clip) for slot, clip in enumerate(target.clip_ids))
    return Batch(
        step=step,
        target=target,
        references=tuple(a_side(backbone, 1 + place, size) for place in range(references)),
        weights=torch.ones(size),
        seeds=seeds,
        timesteps=backbone.objective.timesteps(seeds),
        noise=torch.stack([normal(seed, target.video.shape[1:]) for seed in seeds]),
    )


def attached(backbone: Backbone, config: Vap | None = None) -> Any:
    """The module, unwrapped."""
    return (config or Vap()).attach(backbone, unwrapped)


def prediction(backbone: Backbone, module: Any, references: int = 1) -> Tensor:
    """What the module predicts for the fixed batch."""
    batch = a_batch(backbone, references)
    with torch.no_grad():
        return module.predict(batch.noise, batch.timesteps, batch.target, batch.references)


def trained(module: nn.Module) -> set[str]:
    """Names of what learns."""
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def fingerprint(module: nn.Module) -> str:
    """Of every weight's name and bytes."""
    digest = hashlib.sha256()
    for name, weight in module.state_dict().items():
        digest.update(name.encode() + weight.float().numpy().tobytes())
    return digest.hexdigest()


# What it is


def test_it_is_a_method_and_makes_a_method_module(backbone: Backbone) -> None:
    assert isinstance(Vap(), Method)
    assert isinstance(attached(backbone), MethodModule)


def test_it_reads_captions_and_as_many_references_as_it_is_set_to(backbone: Backbone) -> None:
    assert Vap().reads(backbone.facts) == Reads(text=True, references=1)
    assert Vap(references=3).reads(backbone.facts).references == 3


def test_its_defaults_are_the_released_model() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(Vap)}
    assert fields == {
        "expert_layers": None,
        "fusion": "joint",
        "rank": 64,
        "rope": "time_bias",
        "delta": None,
        "ref_noise": "clean",
        "ref_timestep": None,
        "ref_abs_pos": "same",
        "references": 1,
        "caption_drop": 0.02,
    }
    assert RELEASED_LAYERS == {"cogvideox": "all-but-last", "wan": "every-4"}
    assert RELEASED_TIMESTEP == {"cogvideox": "target", "wan": "constant"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fusion": "jiont"}, "fusion is one of joint, ref_to_target, residual, single_branch_full, single_branch_lora; got 'jiont', did you mean 'joint'"),
        ({"fusion": "jiont"}, "Type e.g. --set vap.fusion=joint"),
        ({"rope": "none"}, "--set vap.rope=time_bias"),
        ({"ref_noise": "some"}, "--set vap.ref_noise=clean"),
        ({"ref_timestep": "zero"}, "--set vap.ref_timestep=target"),
        ({"ref_abs_pos": "yes"}, "--set vap.ref_abs_pos=same"),
        ({"expert_layers": "every-5"}, "--set vap.expert_layers=all"),
        ({"expert_layers": ()}, "--set vap.expert_layers=0,4,8"),
        ({"expert_layers": (4, 0)}, "rising; got (4, 0)"),
        ({"expert_layers": (0, 0)}, "rising; got (0, 0)"),
        ({"expert_layers": (-1, 0)}, "from 0, rising; got (-1, 0)"),
        ({"fusion": "single_branch_full", "expert_layers": "all"}, "--set vap.expert_layers=none"),
        ({"rank": 0}, "--set vap.rank=64"),
        ({"delta": 0}, "--set vap.delta=none"),
        ({"delta": 13, "rope": "shared"}, "rope=shared has no use for delta; got 13"),
        ({"ref_noise": "independent", "ref_timestep": "target"}, "--set vap.ref_timestep=none"),
        ({"references": 0}, "references is 1 to 3; got 0"),
        ({"references": 4}, "references is 1 to 3; got 4"),
        ({"caption_drop": 1.5}, "--set vap.caption_drop=0.02"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_to_type(fields: dict[str, Any], words: str) -> None:
    config = Vap()
    for name, value in fields.items():
        # Past the type check of the test run, which would refuse a wrong word before we can.
        object.__setattr__(config, name, value)
    with pytest.raises(CallError) as caught:
        config.__post_init__()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("expert_layers=every-4", "every-4"),
        ("expert_layers=0,4,8", (0, 4, 8)),
        ("expert_layers=none", None),
        ("delta=20", 20),
        ("fusion=residual", "residual"),
        ("ref_timestep=constant", "constant"),
    ],
)
def test_every_switch_can_be_typed(text: str, value: object) -> None:
    _, field, found = typed(parse(f"vap.{text}"), {"vap": Vap()})
    assert found == value
    assert getattr(replace(Vap(), **{field: found}), field) == value


CHOICES: dict[str, dict[Any, tuple[int, ...]]] = {
    "cogvideox": {None: (0, 1, 2), "all": (0, 1, 2, 3), "all-but-last": (0, 1, 2), "every-4": (0,), "first-half": (0, 1), (1, 3): (1, 3)},
    "wan": {None: (0, 4), "all": (*range(8),), "all-but-last": (*range(7),), "every-4": (0, 4), "first-half": (0, 1, 2, 3), (1, 3): (1, 3)},
}
"""Family -> what is typed -> blocks with an expert: of four in tiny CogVideoX, of eight in tiny Wan."""


@pytest.mark.parametrize("chosen", [None, "all", "all-but-last", "every-4", "first-half", (1, 3)])
def test_experts_stand_in_the_blocks_that_were_chosen(backbone: Backbone, chosen: Any) -> None:
    config, wanted = Vap(expert_layers=chosen), CHOICES[backbone.facts.family][chosen]
    assert config.layers(backbone) == wanted
    assert {int(number) for number in attached(backbone, config).blocks} == set(wanted)


def test_a_block_that_is_not_there_is_refused(backbone: Backbone) -> None:
    with pytest.raises(CallError, match=r"names block 9; tiny-.* has blocks 0 to ([37])\. Type e\.g\. --set vap\.expert_layers=0,\1"):
        attached(backbone, Vap(expert_layers=(0, 9)))


def test_a_delta_at_which_positions_would_overlap_is_refused(backbone: Backbone) -> None:
    with pytest.raises(CallError, match=r"delta=1 latent frames, but a reference has 2.*--set vap\.delta=none, or 2 or more"):
        prediction(backbone, attached(backbone, Vap(delta=1)))


def test_a_clip_too_long_for_discrete_positions_is_refused() -> None:
    with pytest.raises(CallError, match="--set vap.rope=time_bias"):
        Vap(rope="discrete_long").frame_offsets(1, 31)


# What it owns


def test_its_state_is_its_own_in_float32_and_begins_as_a_copy(backbone: Backbone) -> None:
    module = attached(backbone)
    state = module.state_dict()
    assert {name.split(".")[0] for name in state} == {"entry", "blocks"}
    assert all(weight.dtype == torch.float32 for weight in state.values())
    own = {parameter.data_ptr() for parameter in module.parameters()}
    assert not own & {parameter.data_ptr() for parameter in backbone.transformer.parameters()}
    for number in Vap().layers(backbone):
        for name, weight in backbone.blocks[number].state_dict().items():
            assert torch.equal(state[f"blocks.{number}.{name}"], weight)


@pytest.mark.parametrize("chosen", [None, "all", (0, 2)])
def test_v6_what_nothing_reaches_is_frozen_in_the_last_expert_block_alone(backbone: Backbone, chosen: Any) -> None:
    config = Vap(expert_layers=chosen)
    module, lists = attached(backbone, config), LAST_BLOCK[backbone.facts.name]
    *others, last = config.layers(backbone)
    everything = {name for name, _ in module.named_parameters()}
    assert {name for name in everything if name.startswith(f"blocks.{last}.")} == {f"blocks.{last}.{name}" for name in lists["learns"] | lists["frozen"]}
    assert everything - trained(module) == {f"blocks.{last}.{name}" for name in lists["frozen"]}
    assert all(any(name.startswith(f"blocks.{number}.") for name in trained(module)) for number in others)


@pytest.mark.parametrize("references", [1, 2, 3])
@pytest.mark.parametrize(
    "config",
    [Vap(), Vap(expert_layers="all"), Vap(expert_layers=(0, 2)), Vap(expert_layers=(1,)), Vap(fusion="ref_to_target"), Vap(rope="shared"), Vap(ref_timestep="constant")],
    ids=["released", "all", "layers 0 and 2", "layer 1", "one way", "shared", "constant"],
)
def test_v6_all_that_learns_gets_a_gradient_that_is_not_zero_and_the_backbone_none(backbone: Backbone, config: Vap, references: int) -> None:
    module = attached(backbone, replace(config, references=references))
    module(a_batch(backbone, references)).sum().backward()
    assert {name for name, parameter in module.named_parameters() if parameter.grad is not None} == trained(module)
    assert [name for name, parameter in module.named_parameters() if parameter.requires_grad and not parameter.grad.abs().max() > 0] == []
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.transformer.parameters())


@pytest.mark.parametrize("chosen", [(0,), (2,)])
def test_v6_a_lone_expert_block_reads_no_captions_where_only_its_output_would_show_them(backbone: Backbone, chosen: tuple[int, ...]) -> None:
    """Wan's captions and image tokens come in after self-attention: with one expert block their embedders reach nothing."""
    module = attached(backbone, Vap(expert_layers=chosen))
    frozen = {name for name, parameter in module.entry.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in module.entry.named_parameters() if name.startswith(tuple(f"{each}." for each in backbone.context_entry))}
    assert bool(frozen) == (backbone.facts.family == "wan")
    module.requires_grad_(True)
    module(a_batch(backbone)).sum().backward()
    assert all(parameter.grad is None for name, parameter in module.entry.named_parameters() if name in frozen)


def test_v6_what_is_frozen_would_get_no_gradient_or_exactly_zero(backbone: Backbone) -> None:
    """The list is no guess: with everything thawed, and the references moved on to the end, autograd says the same."""
    module, config = attached(backbone, Vap(expert_layers="all")), Vap(expert_layers="all")
    last = config.layers(backbone)[-1]
    frozen = {name for name, _ in module.named_parameters()} - trained(module)
    module.requires_grad_(True)
    module._unread = None
    module(a_batch(backbone)).sum().backward()
    still = {name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.abs().max() > 0}
    assert still == frozen
    assert {name.split(".")[1] for name in frozen} == {str(last)}


def test_with_independent_noise_the_reference_has_a_loss_of_its_own_so_all_of_the_expert_learns(backbone: Backbone) -> None:
    module = attached(backbone, Vap(ref_noise="independent"))
    assert trained(module) == {name for name, _ in module.named_parameters()}
    module(a_batch(backbone)).sum().backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.abs().max() > 0] == []


def test_v7_the_backbone_is_the_same_after_steps_and_the_experts_state_alone_brings_the_output_back(backbone: Backbone) -> None:
    before = fingerprint(backbone.transformer)
    module = attached(backbone)
    optimizer = torch.optim.AdamW([parameter for parameter in module.parameters() if parameter.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        module(a_batch(backbone)).mean().backward()
        optimizer.step()
    assert fingerprint(backbone.transformer) == before
    fresh = attached(backbone)
    assert not torch.equal(prediction(backbone, fresh), prediction(backbone, module))
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(prediction(backbone, fresh), prediction(backbone, module))


@pytest.mark.parametrize(("layers", "billions", "learn"), [(None, 5.435, 5.331), ("all", 5.567, 5.463)])
def test_on_the_real_5b_i2v_it_has_as_many_weights_as_were_released(layers: Any, billions: float, learn: float) -> None:
    """5.435 B with experts in 41 of 42 blocks, 5.567 B in all; 0.104 B of the last expert block are out of reach."""
    backbone = on_meta(REAL_5B_I2V)
    module = attached(backbone, Vap(expert_layers=layers))
    assert round(sum(parameter.numel() for parameter in module.parameters()) / 1e9, 3) == billions
    assert round(sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad) / 1e9, 3) == learn
    assert len(module.blocks) == (42 if layers else 41)


def test_on_the_real_wan_i2v_14b_it_has_as_many_weights_as_were_released() -> None:
    """4.279 B with experts in blocks 0, 4 ... 36; what follows the keys of block 36 is out of reach."""
    from diffusers import WanTransformer3DModel

    from train.backbones.wan import Wan

    with torch.device("meta"):
        transformer = WanTransformer3DModel(in_channels=36, image_dim=1280, added_kv_proj_dim=5120)
    backbone = Wan(backbones.backbone("wan2.1-i2v-14b-480p"), transformer, {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"})
    module = attached(backbone)
    assert [int(number) for number in module.blocks] == list(range(0, 40, 4))
    assert round(sum(parameter.numel() for parameter in module.parameters()) / 1e9, 3) == 4.279
    assert round(sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad) / 1e9, 3) == 3.928
    assert module.entry["condition_embedder"].text_embedder.linear_1.weight.requires_grad


REAL_5B_I2V = {
    "num_attention_heads": 48, "attention_head_dim": 64, "in_channels": 32, "out_channels": 16, "time_embed_dim": 512, "text_embed_dim": 4096, "num_layers": 42,
    "sample_width": 90, "sample_height": 60, "sample_frames": 49, "max_text_seq_length": 226, "use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True,
}  # fmt: skip
"""transformer/config.json of zai-org/CogVideoX-5b-I2V, what differs from the class's defaults."""


def on_meta(config: dict[str, Any]) -> Backbone:
    """CogVideoX-5B-I2V without any memory."""
    from diffusers import CogVideoXTransformer3DModel

    from train.backbones.cogvideox import CogVideoX

    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(**config)
    scheduler = {"_class_name": "CogVideoXDPMScheduler", "prediction_type": "v_prediction"}
    return CogVideoX(backbones.backbone("cogvideox-5b-i2v"), transformer, scheduler)


# Names of the released weights


def test_released_names_carry_the_mark_after_the_module(backbone: Backbone) -> None:
    names = Vap().release_names(backbone)
    assert set(names) == set(attached(backbone).state_dict())
    assert len(set(names.values())) == len(names)
    last, part = Vap().layers(backbone)[-1], {"cogvideox": "ff", "wan": "ffn"}[backbone.facts.family]
    assert names[f"blocks.{last}.attn1.to_q.weight"] == f"{backbone.block_name(last)}.attn1_mot_ref.to_q.weight"
    assert any(name.startswith(f"{backbone.block_name(0)}.{part}_mot_ref.") for name in names.values())
    assert all(any(name.startswith(f"{entry}_mot_ref.") for name in names.values()) for entry in backbone.entry)


def test_released_names_of_cogvideox_5b_i2v() -> None:
    names = Vap().release_names(on_meta(REAL_5B_I2V | {"num_layers": 3}))
    assert names["entry.patch_embed.proj.weight"] == "patch_embed_mot_ref.proj.weight"
    assert names["entry.patch_embed.pos_embedding"] == "patch_embed_mot_ref.pos_embedding"
    assert names["entry.time_embedding.linear_1.bias"] == "time_embedding_mot_ref.linear_1.bias"
    assert names["blocks.1.attn1.to_out.0.weight"] == "transformer_blocks.1.attn1_mot_ref.to_out.0.weight"
    assert names["blocks.1.ff.net.0.proj.weight"] == "transformer_blocks.1.ff_mot_ref.net.0.proj.weight"
    assert not any(name.startswith("blocks.2.") for name in names), "as released, the last block has no expert"


def test_released_names_of_wan() -> None:
    names = Vap().release_names(load_backbone(backbones.backbone("tiny-wan"), dtype=torch.float32, device=torch.device("cpu")))
    assert names["entry.patch_embedding.weight"] == "patch_embedding_mot_ref.weight"
    assert names["entry.condition_embedder.time_embedder.linear_1.bias"] == "condition_embedder_mot_ref.time_embedder.linear_1.bias"
    assert names["entry.condition_embedder.image_embedder.ff.net.2.weight"] == "condition_embedder_mot_ref.image_embedder.ff.net.2.weight"
    assert names["blocks.4.attn1.norm_k.weight"] == "blocks.4.attn1_mot_ref.norm_k.weight"
    assert names["blocks.4.attn2.add_k_proj.bias"] == "blocks.4.attn2_mot_ref.add_k_proj.bias"
    assert names["blocks.4.ffn.net.0.proj.weight"] == "blocks.4.ffn_mot_ref.net.0.proj.weight"
    assert names["blocks.0.scale_shift_table"] == "blocks.0.scale_shift_table_mot_ref"
    assert {name.split(".")[1] for name in names.values() if name.startswith("blocks.")} == {"0", "4"}


def test_released_weights_lead_there_and_back_under_their_names(backbone: Backbone, tmp_path: Path) -> None:
    module, names = attached(backbone), Vap().release_names(backbone)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(normal(5, parameter.shape, name), alpha=0.05)
    export_released(tmp_path / "vap.safetensors", module, names)
    assert all("_mot_ref" in name for name in load_file(tmp_path / "vap.safetensors"))
    fresh = attached(backbone)
    assert not torch.equal(prediction(backbone, fresh), prediction(backbone, module))
    assert import_released(tmp_path / "vap.safetensors", fresh, names) == ()
    assert torch.equal(prediction(backbone, fresh), prediction(backbone, module))


def test_ablations_have_no_released_names(backbone: Backbone) -> None:
    for fusion in ("ref_to_target", "residual", "single_branch_full", "single_branch_lora"):
        assert Vap(fusion=fusion).release_names(backbone) == {}


# Switches


OTHER_OUTPUT = {
    "expert_layers": Vap(expert_layers="first-half"),
    "fusion": Vap(fusion="ref_to_target"),
    "rope": Vap(rope="shared"),
    "width": Vap(rope="time_and_width_bias"),
    "long": Vap(rope="discrete_long"),
    "delta": Vap(delta=5),
    "ref_timestep": Vap(ref_timestep="constant"),
    "the target's ref_timestep": Vap(ref_timestep="target"),
    "single branch": Vap(fusion="single_branch_full"),
}


@pytest.mark.parametrize("config", OTHER_OUTPUT.values(), ids=OTHER_OUTPUT)
def test_a_switch_changes_what_comes_out(backbone: Backbone, config: Vap) -> None:
    released = config == Vap(ref_timestep=RELEASED_TIMESTEP[backbone.facts.family])
    assert ((prediction(backbone, attached(backbone, config)) - prediction(backbone, attached(backbone))).abs().max() > 1e-5) != released


def test_more_references_change_what_comes_out_and_a_delta_equal_to_the_default_does_not(backbone: Backbone) -> None:
    module = attached(backbone)
    one, two, three = (prediction(backbone, module, count) for count in (1, 2, 3))
    assert (one - two).abs().max() > 1e-4
    assert (two - three).abs().max() > 1e-4
    assert torch.equal(prediction(backbone, attached(backbone, Vap(delta=FRAMES))), one)


def test_another_reference_changes_what_comes_out(backbone: Backbone) -> None:
    batch, module = a_batch(backbone), attached(backbone)
    exchanged = (a_side(backbone, 8),)
    with torch.no_grad():
        own, other = (module.predict(batch.noise, batch.timesteps, batch.target, each) for each in (batch.references, exchanged))
    assert (own - other).norm() / own.norm() > 1e-3


def test_the_released_timestep_is_the_default(backbone: Backbone) -> None:
    told = RELEASED_TIMESTEP[backbone.facts.family]
    assert torch.equal(prediction(backbone, attached(backbone)), prediction(backbone, attached(backbone, Vap(ref_timestep=told))))


def test_the_residual_ablation_begins_silent_and_then_speaks(backbone: Backbone) -> None:
    module, batch = attached(backbone, Vap(fusion="residual")), a_batch(backbone)
    with torch.no_grad():
        stock = backbone.forward(batch.noise, batch.timesteps, batch.target)
        assert torch.equal(prediction(backbone, module), stock)
        for linear in module.inject.values():
            linear.weight.normal_(std=0.1)
    assert (prediction(backbone, module) - stock).abs().max() > 1e-4
    module(batch).sum().backward()
    assert trained(module) == {name for name, _ in module.named_parameters()}
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.abs().max() > 0] == []


def test_the_residual_ablation_refuses_a_reference_of_another_shape(backbone: Backbone) -> None:
    batch = a_batch(backbone)
    with pytest.raises(CallError, match=r"fusion=residual adds token to token.*--set vap\.fusion=joint"):
        attached(backbone, Vap(fusion="residual")).predict(batch.noise, batch.timesteps, batch.target, tuple(map(longer, batch.references)))


def test_a_joint_reference_may_be_longer_than_its_target(backbone: Backbone) -> None:
    batch = a_batch(backbone)
    with torch.no_grad():
        assert attached(backbone).predict(batch.noise, batch.timesteps, batch.target, tuple(map(longer, batch.references))).shape == batch.noise.shape


def test_a_single_full_branch_is_a_copy_of_everything_and_all_of_it_learns(backbone: Backbone) -> None:
    module = attached(backbone, Vap(fusion="single_branch_full"))
    assert {int(number) for number in module.blocks} == set(range(len(backbone.blocks)))
    batch = a_batch(backbone)
    with torch.no_grad():
        torch.testing.assert_close(module.predict(batch.noise, batch.timesteps, batch.target, ()), backbone.forward(batch.noise, batch.timesteps, batch.target))
    module(batch).sum().backward()
    assert trained(module) == {name for name, _ in module.named_parameters()}
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.abs().max() > 0] == []
    assert all(parameter.grad is None for parameter in backbone.transformer.parameters())


def test_a_single_low_rank_branch_corrects_the_attention_projections_and_leaves_the_blocks_alone(backbone: Backbone) -> None:
    before, types = fingerprint(backbone.transformer), [type(each) for each in backbone.transformer.modules()]
    config = Vap(fusion="single_branch_lora", rank=4)
    module = attached(backbone, config)
    wanted = {f"lora.{number}.{part}.{side}" for number in range(len(backbone.blocks)) for part in ("to_q", "to_k", "to_v", "to_out_0") for side in ("down", "up")}
    assert trained(module) == set(module.state_dict()) == wanted
    assert module.lora["0"]["to_q"].down.shape[0] == module.lora["0"]["to_q"].up.shape[1] == 4
    first = attached(backbone, config)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), first.state_dict().values(), strict=True)), "drawn from names alone"
    whole = prediction(backbone, attached(backbone, Vap(fusion="single_branch_full")))
    torch.testing.assert_close(prediction(backbone, module), whole)
    module(a_batch(backbone)).sum().backward()
    assert all(module.get_parameter(name).grad.abs().max() > 0 for name in wanted if name.endswith("up"))
    with torch.no_grad():
        for name in wanted:
            module.get_parameter(name).add_(0.1)
    assert (prediction(backbone, module) - whole).abs().max() > 1e-4
    assert fingerprint(backbone.transformer) == before
    assert [type(each) for each in backbone.transformer.modules()] == types


# The loss


def test_the_loss_is_the_objectives_for_the_prediction(backbone: Backbone) -> None:
    batch, module = a_batch(backbone), attached(backbone)
    noisy = backbone.objective.noisy(batch.target.video, batch.noise, batch.timesteps)
    with torch.no_grad():
        predicted = module.predict(noisy, batch.timesteps, batch.target, batch.references)
        wanted = backbone.objective.losses(predicted, batch.target.video, batch.noise, batch.timesteps)
        assert torch.equal(module(batch), wanted)


def test_a_sample_has_the_same_loss_in_any_company(backbone: Backbone) -> None:
    batch, module = a_batch(backbone, references=2), attached(backbone, Vap(references=2, ref_noise="independent"))

    def second(side: Side) -> Side:
        return replace(side, clip_ids=side.clip_ids[1:], **{field.name: value[1:] for field in dataclasses.fields(side) if isinstance(value := getattr(side, field.name), Tensor)})

    alone = replace(
        batch,
        target=second(batch.target),
        references=tuple(map(second, batch.references)),
        weights=batch.weights[1:],
        seeds=batch.seeds[1:],
        timesteps=batch.timesteps[1:],
        noise=batch.noise[1:],
    )
    with torch.no_grad():
        torch.testing.assert_close(module(alone), module(batch)[1:])


def test_a_batch_without_references_is_refused(backbone: Backbone) -> None:
    with pytest.raises(CallError, match="vapdata pairs --catalog C"):
        attached(backbone)(a_batch(backbone, references=0))


def test_independent_noise_is_each_references_own_and_its_loss_counts_while_training_alone(backbone: Backbone) -> None:
    batch, module = a_batch(backbone, references=2), attached(backbone, Vap(ref_noise="independent", references=2))
    given = [module._given(side, batch, place) for place, side in enumerate(batch.references)]
    again = module._given(batch.references[0], batch, 0)
    assert torch.equal(again.noise, given[0].noise)
    assert torch.equal(again.timesteps, given[0].timesteps)
    assert not torch.equal(given[0].noise, given[1].noise)
    assert len({tuple(each.tolist()) for each in (batch.timesteps, given[0].timesteps, given[1].timesteps)}) == 3
    assert torch.equal(given[0].latents, backbone.objective.noisy(batch.references[0].video, given[0].noise, given[0].timesteps))
    with torch.no_grad():
        training, evaluated = module.train()(batch), module.eval()(batch)
    assert (training > evaluated + 0.1).all()


def test_independent_noise_is_for_training_and_sampling_takes_the_reference_clean(backbone: Backbone) -> None:
    independent, clean = attached(backbone, Vap(ref_noise="independent")), attached(backbone, Vap(ref_timestep="constant"))
    torch.testing.assert_close(prediction(backbone, independent), prediction(backbone, clean))


# How it is run


@pytest.mark.parametrize(
    "config",
    [Vap(references=2), Vap(fusion="residual", references=2), Vap(fusion="single_branch_lora", rank=4, references=2)],
    ids=["joint", "residual", "lora"],
)
@pytest.mark.parametrize("keep", ["nothing", "attention"])
def test_activation_checkpointing_gives_equal_gradients(backbone: Backbone, config: Vap, keep: Any) -> None:
    def gradients(wrap: Callable[..., Any]) -> dict[str, Tensor]:
        module = config.attach(backbone, wrap)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.add_(normal(5, parameter.shape, name), alpha=0.01)
        module(a_batch(backbone, references=2)).sum().backward()
        return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}

    plain, checkpointed = gradients(unwrapped), gradients(Blocks(keep=keep).wrap)
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


@pytest.mark.parametrize("fusion", ["joint", "ref_to_target", "residual", "single_branch_full", "single_branch_lora"])
@pytest.mark.parametrize("name", TINY)
def test_a_bf16_backbone_and_a_float32_expert_work_together_under_autocast(name: str, fusion: Any) -> None:
    facts = backbones.backbone(name)
    half, whole = (load_backbone(facts, dtype=dtype, device=torch.device("cpu")) for dtype in (torch.bfloat16, torch.float32))
    module, exact = attached(half, Vap(fusion=fusion)), attached(whole, Vap(fusion=fusion))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    batch = a_batch(half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = module(batch)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in module.parameters() if parameter.requires_grad)
    torch.testing.assert_close(losses, exact(batch), rtol=0.05, atol=0)
