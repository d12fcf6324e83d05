"""SSG-DiT: step 0 is the frozen model, what is read and by which query, what learns, what is dropped and withheld. S1-S12 of methods.md 4.4.

S2-S6, S11 and S12 are the mask encoder's: tests/vapdata/encoders/test_clip_features.py (S2), test_mask_maths.py (S3-S6),
test_visual_prompt.py (S7, S11), test_clip_mask.py (S12).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from random_sides import a_batch, a_side
from torch import Tensor

from train.backbones import load_backbone
from train.backbones.wan import Wan
from train.batch import Batch, Reads, Side
from train.blocks import Blocks
from train.denoise import denoise, scheduler_from
from train.flops import per_sample
from train.method import Backbone, Guided, Method, MethodModule, attention, unwrapped
from train.objective import normal, seed_of, uniform
from train.optimizer import trained
from train.ssg import Adapter, Ssg, random_mask, visual_prompt
from vapdata import backbones, tiny_transformer
from vapdata.encoders.visual_prompt import visual_prompts
from vapdata.errors import CallError
from vapdata.settings import parse, typed

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SMALL = Ssg(image_encoder="conv", conv_side=32, conv_patch=8, conv_width=16, conv_depth=1)
"""A small image encoder; all else as by default."""
LAYOUTS = ("tiny-cogvideox", "tiny-wan", "tiny-hunyuan", "wan2.1-t2v-1.3b")
"""Every family's tiny backbone, image-to-video all of them, and a tiny one laid out like Wan's text-to-video model."""
SCHEDULER = {"_class_name": "UniPCMultistepScheduler", **tiny_transformer.SCHEDULERS["tiny-wan"]}


def loaded(name: str) -> Backbone:
    """A tiny backbone laid out like this one, in float32."""
    facts = backbones.backbone(name)
    if facts.tiny:
        return load_backbone(facts, dtype=torch.float32, device=CPU)
    small = tiny_transformer.TRANSFORMERS["tiny-wan"] | {"num_layers": 2, "in_channels": 16, "image_dim": None, "added_kv_proj_dim": None}
    transformer = WanTransformer3DModel(**small)
    tiny_transformer.draw(transformer, name)
    return Wan(replace(facts, text=replace(facts.text, width=64)), transformer, SCHEDULER)


@pytest.fixture(scope="module", params=LAYOUTS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Each layout."""
    return loaded(request.param)


@pytest.fixture(scope="module")
def cogvideox() -> Backbone:
    """The cheapest, for what does not depend on the family."""
    return loaded("tiny-cogvideox")


def attached(backbone: Backbone, config: Ssg = SMALL, *, awake: bool = False, wrap: Callable[..., Any] = unwrapped) -> Any:
    """The module in eval mode, drawn alike every time; `awake`: with nothing at zero, as after some steps."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = config.attach(backbone, wrap)
    if awake:
        with torch.no_grad():
            for name, parameter in module.blocks.named_parameters():
                parameter.add_(normal(5, parameter.shape, name), alpha=0.1)
    return module.eval()


def prediction(backbone: Backbone, module: Any, batch: Batch | None = None, side: Side | None = None) -> Tensor:
    """What it predicts for the fixed batch, or another, or with another side."""
    batch = batch or a_batch(backbone)
    with torch.no_grad():
        return module.predict(batch.noise, batch.timesteps, side or batch.target, ())


def frozen(backbone: Backbone) -> Tensor:
    """What the backbone predicts by itself, by its own forward."""
    batch = a_batch(backbone)
    with torch.no_grad():
        return backbone.forward(batch.noise, batch.timesteps, batch.target)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every call of an adapter: query, context, and what it read; the list fills up."""
    calls: list[dict[str, Any]] = []
    own = Adapter.forward

    def listened(self: Adapter, query: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        read = own(self, query, context, mask)
        calls.append({"adapter": self, "query": query, "context": context, "mask": mask, "read": read})
        return read

    monkeypatch.setattr(Adapter, "forward", listened)
    return calls


@pytest.fixture
def put(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Tensor, Tensor | None]]:
    """Every call of the backbone's attention_output: stream, attended rows, added rows; the list fills up."""
    own, seen = type(backbone).attention_output, []

    def noted(self: Any, block: Any, stream: Any, attended: Tensor, carry: Any, *, added: Tensor | None = None) -> Any:
        seen.append((stream, attended, added))
        return own(self, block, stream, attended, carry, added=added)

    monkeypatch.setattr(type(backbone), "attention_output", noted)
    return seen


# What it is


def test_it_is_a_method_and_makes_a_method_module_that_guidance_asks(cogvideox: Backbone) -> None:
    assert isinstance(Ssg(), Method)
    module = attached(cogvideox)
    assert isinstance(module, MethodModule) and isinstance(module, Guided)
    assert Ssg().release_names(cogvideox) == {}


def test_its_defaults() -> None:
    """What the paper gives, and methods.md where it gives nothing."""
    assert {field.name: field.default for field in dataclasses.fields(Ssg)} == {
        "image_encoder": "clip_mlp",
        "queries": 16,
        "conv_side": 224,
        "conv_patch": 16,
        "conv_width": 512,
        "conv_depth": 4,
        "mask_source": "both",
        "blur": 0.02,
        "ca_query": "pre_rope",
        "gate": "inside",
        "zero_init": True,
        "share_out": False,
        "c_text": True,
        "c_image": True,
        "caption_drop": 0.1,
        "image_drop": 0.1,
        "drop_image_in_uncond": True,
    }


def test_it_reads_of_a_clip_what_its_switches_need() -> None:
    facts = backbones.backbone("tiny-cogvideox")
    assert Ssg().reads(facts) == Ssg(mask_source="attn").reads(facts) == Reads(text=True, picture=True, masks=True)
    assert Ssg(mask_source="none").reads(facts) == Ssg(mask_source="random").reads(facts) == Reads(text=True, picture=True)
    assert Ssg(c_image=False).reads(facts) == Reads(text=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_encoder": "convv"}, "image_encoder is one of clip_mlp, clip_resampler, conv; got 'convv', did you mean 'conv'"),
        ({"mask_source": "fused"}, "mask_source is one of both, attn, mlp, none, random; got 'fused'"),
        ({"ca_query": "rope"}, "Type e.g. --set ssg.ca_query=pre_rope"),
        ({"gate": "in"}, "--set ssg.gate=inside"),
        ({"queries": 0}, "queries is 1 or more; got 0. Type --set ssg.queries=16"),
        ({"conv_width": 6}, "conv_width is a multiple of 4"),
        ({"conv_depth": 0}, "--set ssg.conv_depth=4"),
        ({"image_drop": 1.5}, "image_drop is a share, 0 to 1; got 1.5. Type --set ssg.image_drop=0.1"),
        ({"caption_drop": -0.1}, "--set ssg.caption_drop=0.1"),
        ({"blur": -1.0}, "--set ssg.blur=0.02"),
        ({"c_text": False, "c_image": False}, "leaves nothing to attend to. Type --set ssg.c_image=true"),
        ({"share_out": True, "gate": "outside"}, "gate=outside cannot be. Type --set ssg.gate=inside"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_to_type(fields: dict[str, Any], words: str) -> None:
    config = Ssg()
    for name, value in fields.items():
        object.__setattr__(config, name, value)  # past the type check of the test run, which would refuse a wrong word before we can
    with pytest.raises(CallError) as caught:
        config.__post_init__()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("mask_source=attn", "attn"), ("blur=0.1", 0.1), ("share_out=true", True), ("c_text=false", False), ("image_encoder=clip_resampler", "clip_resampler")]
)
def test_every_kind_of_switch_can_be_typed(text: str, value: object) -> None:
    _, field, found = typed(parse(f"ssg.{text}"), {"ssg": Ssg()})
    assert found == value
    assert getattr(replace(Ssg(), **{field: found}), field) == value


# S1: step 0


SILENT = {
    "default": SMALL,
    "gate outside": replace(SMALL, gate="outside"),
    "shared output": replace(SMALL, share_out=True),
    "after rotary": replace(SMALL, ca_query="post_rope"),
    "image alone": replace(SMALL, c_text=False),
    "caption alone": replace(SMALL, c_image=False),
}


@pytest.mark.parametrize("config", SILENT.values(), ids=SILENT)
def test_s1_step_0_is_the_frozen_model_bit_for_bit_and_one_step_is_not(backbone: Backbone, config: Ssg) -> None:
    module, batch, stock = attached(backbone, config), a_batch(backbone), frozen(backbone)
    assert torch.equal(prediction(backbone, module), stock)
    optimizer = torch.optim.AdamW(trained(module).values(), lr=1e-2)
    module.train()(batch).mean().backward()
    optimizer.step()
    assert (prediction(backbone, module.eval()) - stock).abs().max() > 1e-4


def test_s1_without_zero_init_step_0_is_another_model(cogvideox: Backbone) -> None:
    for share_out in (False, True):
        module = attached(cogvideox, replace(SMALL, zero_init=False, share_out=share_out))
        assert (prediction(cogvideox, module) - frozen(cogvideox)).abs().max() > 1e-4


# S7: the visual prompt of a batch


def pictured(**changes: Any) -> Side:
    """A side of two clips with a picture of 32 x 48 and masks of 6 x 6."""
    return replace(a_side(loaded("tiny-cogvideox")), **changes)


def test_s7_where_the_mask_is_one_the_prompt_is_the_picture_and_where_it_is_zero_the_blur() -> None:
    side = pictured()
    picture = side.picture.float() / 255
    ones, zeros = torch.ones_like(side.masks), torch.zeros_like(side.masks)
    assert torch.allclose(visual_prompt(Ssg(blur=0.1), replace(side, masks=ones)), picture, rtol=0, atol=1e-6)
    blurred = visual_prompt(Ssg(blur=0.1), replace(side, masks=zeros))
    assert torch.equal(blurred, visual_prompts(picture, zeros[:, 0], 3.2))
    assert (blurred - picture).abs().mean() > 0.05
    prompt = visual_prompt(Ssg(blur=0.1), side)
    assert (prompt >= torch.minimum(picture, blurred) - 1e-5).all() and (prompt <= torch.maximum(picture, blurred) + 1e-5).all()
    for config in (Ssg(blur=0.0), Ssg(mask_source="none", blur=0.1)):
        assert torch.equal(visual_prompt(config, side), picture), "no blur, whatever the mask"


def test_each_mask_source_takes_its_own_grid_and_a_random_one_the_clips_id() -> None:
    side = pictured()
    picture = side.picture.float() / 255
    for source, grid in (("attn", 0), ("mlp", 1), ("both", 2)):
        found = visual_prompt(Ssg(mask_source=source, blur=0.1), side)  # type: ignore[arg-type]
        assert torch.equal(found, visual_prompts(picture, side.masks[:, grid], 3.2))
    random = Ssg(mask_source="random", blur=0.1)
    found = visual_prompt(random, replace(side, masks=None))
    assert torch.equal(found, visual_prompt(random, side)), "stored masks are not looked at"
    assert not torch.equal(found[:1], visual_prompt(random, replace(side, clip_ids=("other", "1")))[:1])
    mask = random_mask("clip")
    assert mask.min() == 0 and mask.max() == 1 and 0.1 < mask.std() < 0.4


def test_each_clip_of_a_batch_is_prompted_by_itself() -> None:
    side = pictured()
    alone = replace(side.map(lambda tensor: tensor[1:]), clip_ids=side.clip_ids[1:])
    assert torch.equal(visual_prompt(Ssg(), side)[1:], visual_prompt(Ssg(), alone))


def test_a_batch_without_picture_or_masks_is_one_sentence() -> None:
    with pytest.raises(CallError, match=r"ssg: the batch has no first frames\. Type: vapdata backfill first_frame"):
        visual_prompt(Ssg(), pictured(picture=None))
    with pytest.raises(CallError, match=r"ssg: the batch has no CLIP masks\. Type: vapdata backfill clip_mask"):
        visual_prompt(Ssg(), pictured(masks=None))


# S8: what is read


def stock_attention(backbone: Backbone, number: int, stream: Any) -> Tensor:
    """A block's own self-attention for a stream."""
    with torch.no_grad():
        inputs = backbone.attention_inputs(backbone.blocks[number], stream)
        return attention(inputs.query, inputs.key, inputs.value, inputs.mask)


def test_s8_what_is_read_equals_dense_cross_attention_in_float64(backbone: Backbone, heard: list[dict[str, Any]]) -> None:
    prediction(backbone, attached(backbone, awake=True))
    assert len(heard) == len(backbone.blocks)
    for call in (heard[0], heard[-1]):
        adapter, query = call["adapter"].double(), call["query"].double()
        batch, heads, _, dim = query.shape
        wanted = torch.empty_like(query)
        for row in range(batch):
            allowed = torch.ones(call["context"].shape[1], dtype=torch.bool) if call["mask"] is None else call["mask"][row]
            context = call["context"][row, allowed].double()
            key = context @ adapter.to_k.weight.T + adapter.to_k.bias
            value = context @ adapter.to_v.weight.T + adapter.to_v.bias
            for head in range(heads):
                part = slice(head * dim, (head + 1) * dim)
                scores = query[row, head] @ key[:, part].T / dim**0.5
                wanted[row, head] = torch.exp(scores - torch.logsumexp(scores, dim=1, keepdim=True)) @ value[:, part]
        torch.testing.assert_close(call["read"].double(), wanted, rtol=1e-4, atol=1e-5)
        adapter.float()


def test_s8_the_context_is_a_set_and_self_attention_is_left_alone(backbone: Backbone, heard: list[dict[str, Any]], put: list[Any]) -> None:
    prediction(backbone, attached(backbone, awake=True))
    first = heard[0]
    order = torch.randperm(first["context"].shape[1], generator=torch.Generator().manual_seed(2))
    mask = None if first["mask"] is None else first["mask"][:, order]
    torch.testing.assert_close(first["adapter"](first["query"], first["context"][:, order], mask), first["read"], rtol=1e-4, atol=1e-5)
    for number in (0, len(backbone.blocks) - 1):
        stream, attended, added = put[number]
        assert torch.equal(attended, stock_attention(backbone, number, stream))
        assert added is not None and added.abs().max() > 0.01


def test_the_context_is_the_caption_then_the_image_tokens(backbone: Backbone, heard: list[dict[str, Any]]) -> None:
    module, batch = attached(backbone), a_batch(backbone)
    prediction(backbone, module)
    rows = backbone.facts.text.rows
    caption, allowed = backbone.caption_tokens(backbone.embed(batch.noise, batch.timesteps, batch.target))
    context, mask = heard[0]["context"], heard[0]["mask"]
    assert context.shape[1] == rows + 4 * 6 and torch.equal(context[:, :rows], caption), "32 x 48 pixels in patches of 8"
    assert torch.equal(context[:, rows:], module.image(visual_prompt(SMALL, batch.target)))
    assert mask is None if allowed is None else torch.equal(mask, torch.cat([allowed, torch.ones(2, 24, dtype=torch.bool)], dim=1))
    assert all(call["context"] is context for call in heard), "one for all blocks"


SPEAKING: dict[str, dict[str, Any]] = {
    "mask source": {"mask_source": "attn", "blur": 0.2},
    "another mask source": {"mask_source": "mlp", "blur": 0.2},
    "a random mask": {"mask_source": "random", "blur": 0.2},
    "no blur": {"mask_source": "none"},
    "blur": {"blur": 0.05},
    "query": {"ca_query": "post_rope"},
    "gate": {"gate": "outside"},
    "no caption": {"c_text": False},
}


@pytest.mark.parametrize("changes", SPEAKING.values(), ids=SPEAKING)
def test_every_switch_changes_what_an_adapter_that_speaks_predicts(backbone: Backbone, changes: dict[str, Any]) -> None:
    usual = replace(SMALL, blur=0.2)
    plain, changed = (prediction(backbone, attached(backbone, config, awake=True)) for config in (usual, replace(usual, **changes)))
    assert (plain - changed).abs().max() > 1e-6
    assert (plain - frozen(backbone)).abs().max() > 1e-3


def test_where_what_is_read_comes_in(backbone: Backbone, heard: list[dict[str, Any]], put: list[Any]) -> None:
    """Inside: added before the gate. Outside: to the residual, beside the gated self-attention. Shared: to the attended rows of the video."""
    batch = a_batch(backbone)
    start = backbone.embed(batch.noise, batch.timesteps, batch.target).video
    for config in (SMALL, replace(SMALL, gate="outside"), replace(SMALL, share_out=True)):
        put.clear(), heard.clear()
        prediction(backbone, attached(backbone, config, awake=True))
        (stream, attended, added), call = put[0], heard[0]
        own = replace(stream, video=start)
        rows = backbone.attention_inputs(backbone.blocks[0], own).video_rows
        change = torch.zeros_like(attended)
        if config.share_out:
            change[:, :, rows] = call["read"]
            assert added is None and torch.equal(stream.video, start)
            assert torch.equal(attended, stock_attention(backbone, 0, own) + change)
            continue
        with torch.no_grad():
            projected = call["adapter"].to_out(call["read"].transpose(1, 2).flatten(2))
        assert torch.equal(attended, stock_attention(backbone, 0, own))
        if config.gate == "inside":
            assert torch.equal(added, projected) and torch.equal(stream.video, start)
        else:
            assert added is None and torch.equal(stream.video, start + projected)


# S9: what learns


def test_s9_queries_are_shared_and_what_learns_is_keys_values_output_and_encoder(backbone: Backbone) -> None:
    module = attached(backbone, awake=True)
    parts = {f"blocks.{number}.{part}.{kind}" for number in range(len(backbone.blocks)) for part in ("to_k", "to_v", "to_out") for kind in ("weight", "bias")}
    assert parts == {name for name in module.state_dict() if name.startswith("blocks.")}
    assert module.state_dict().keys() == parts | {name for name in module.state_dict() if name.startswith("image.")} == trained(module).keys()
    module.train()(a_batch(backbone)).sum().backward()
    silent = [name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.abs().max() > 0]
    assert [name for name in silent if not name.endswith("to_k.bias")] == [], "a key's bias moves every score alike"
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.transformer.parameters())


def test_s9_without_a_projection_of_its_own_there_are_keys_and_values_alone(cogvideox: Backbone) -> None:
    names = {name.split(".")[2] for name in trained(attached(cogvideox, replace(SMALL, share_out=True, c_image=False)))}
    assert names == {"to_k", "to_v"}


@pytest.mark.parametrize(
    ("name", "arguments", "shared", "own"),
    [("wan2.1-t2v-1.3b", {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}, 141.6, 212.5), ("wan2.1-t2v-14b", {}, 2097.6, 3146.3)],
)
def test_at_real_size_the_adapters_have_as_many_weights_as_methods_md_says(name: str, arguments: dict[str, Any], shared: float, own: float) -> None:
    """Millions: keys and values alone, and with output projections."""
    with torch.device("meta"):
        backbone = Wan(backbones.backbone(name), WanTransformer3DModel(**arguments), SCHEDULER)
    for share_out, millions in ((True, shared), (False, own)):
        module = Ssg(image_encoder="conv", share_out=share_out).attach(backbone, unwrapped)
        assert round(sum(parameter.numel() for parameter in module.blocks.parameters()) / 1e6, 1) == millions


# S10: the query and positions


def test_s10_a_query_before_rotary_positions_does_not_know_where_its_token_stands(backbone: Backbone, heard: list[dict[str, Any]]) -> None:
    """Tokens exchanged within a block: what each reads goes with it, by the query before rotary positions and not after."""
    from train.ssg import adapted

    batch = a_batch(backbone)
    stream = backbone.embed(batch.noise, batch.timesteps, batch.target)
    tokens = stream.grid[1] * stream.grid[2]
    order = torch.cat([torch.arange(tokens), tokens + torch.randperm(tokens, generator=torch.Generator().manual_seed(3))])
    moved = replace(stream, video=stream.video[:, order])
    found = {}
    for query in ("pre_rope", "post_rope"):
        config = replace(SMALL, ca_query=query)
        module = attached(backbone, config, awake=True)
        context, mask = module.context(stream, batch.target)
        heard.clear()
        for each in (stream, moved):
            adapted(backbone, backbone.blocks[0], module.blocks["0"], config, each, context, mask)
        found[query] = (heard[1]["read"] - heard[0]["read"][:, :, order]).abs().max() / heard[0]["read"].abs().max()
    assert found["pre_rope"] < 1e-5
    assert found["post_rope"] > 1e-3


# Dropout and guidance


def test_a_picture_is_dropped_by_the_samples_seed_alone_and_while_training_alone(cogvideox: Backbone) -> None:
    batch = a_batch(cogvideox)
    never, always = (attached(cogvideox, replace(SMALL, image_drop=share), awake=True) for share in (0.0, 1.0))
    with torch.no_grad():
        evaluated = never(batch)
        assert torch.equal(always(batch), evaluated), "not in evaluation"
        shown, dropped = never.train()(batch), always.train()(batch)
        assert torch.equal(shown, evaluated)
        assert not torch.equal(dropped, evaluated)
        blank = replace(batch, target=replace(batch.target, shown=torch.zeros(2, dtype=torch.bool)))
        assert torch.equal(dropped, always.eval()(blank))
    at = 0.5 * (uniform(batch.seeds[0], "image") + uniform(batch.seeds[1], "image"))
    first = uniform(batch.seeds[0], "image") < uniform(batch.seeds[1], "image")
    with torch.no_grad():
        one = attached(cogvideox, replace(SMALL, image_drop=at), awake=True).train()(batch)
    assert torch.equal(one == dropped, torch.tensor([first, not first]))


def test_pictures_and_captions_are_dropped_for_a_tenth_each_and_apart() -> None:
    seeds = [seed_of(0, step, 0, "clip") for step in range(4000)]
    pictures, captions = (torch.tensor([uniform(seed, stream) < 0.1 for seed in seeds]) for stream in ("image", "caption"))
    assert abs(pictures.float().mean() - 0.1) < 0.015
    assert abs((pictures & captions).float().mean() - 0.01) < 0.006


def test_guidance_withholds_the_picture_from_the_negative_branch_or_keeps_it_there(cogvideox: Backbone) -> None:
    """One step of denoising is put together from its two predictions."""
    side, seeds = a_side(cogvideox, size=1), [11]
    empty = normal(9, tuple(side.text.shape))
    scheduler = scheduler_from(cogvideox.scheduler_config)
    for withheld in (True, False):
        module = attached(cogvideox, replace(SMALL, drop_image_in_uncond=withheld), awake=True)
        found = denoise(module, cogvideox, side, (), steps=1, guidance=5.0, seeds=seeds, negative={"text": empty, "text_mask": side.text_mask}, scheduler=scheduler)
        scheduler.set_timesteps(1)
        time = scheduler.timesteps[:1].float()
        noise = normal(11, tuple(side.video.shape[1:]))[None]
        with torch.no_grad():
            free = replace(side, text=empty, shown=torch.zeros(1, dtype=torch.bool) if withheld else None)
            negative, positive = (module.predict(noise, time, each, ()) for each in (free, side))
            wanted = scheduler.step(negative + 5 * (positive - negative), scheduler.timesteps[0], noise, return_dict=False)[0]
            other = module.predict(noise, time, replace(free, shown=None if withheld else torch.zeros(1, dtype=torch.bool)), ())
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        assert (other - negative).abs().max() > 1e-3


def test_the_negative_prompt_is_the_empty_one_that_training_drops_to(cogvideox: Backbone) -> None:
    assert attached(cogvideox).negative_prompt == "empty"


# The loss, and how it is run


def test_the_loss_is_the_objectives_for_the_prediction(backbone: Backbone) -> None:
    batch, module = a_batch(backbone), attached(backbone, awake=True)
    noisy = backbone.objective.noisy(batch.target.video, batch.noise, batch.timesteps)
    with torch.no_grad():
        predicted = module.predict(noisy, batch.timesteps, batch.target, ())
        assert torch.equal(module(batch), backbone.objective.losses(predicted, batch.target.video, batch.noise, batch.timesteps))


@pytest.mark.parametrize("keep", ["nothing", "attention"])
def test_activation_checkpointing_gives_equal_gradients(backbone: Backbone, keep: Any) -> None:
    found = []
    for wrap in (unwrapped, Blocks(keep=keep).wrap):
        module = attached(backbone, awake=True, wrap=wrap).train()
        module(a_batch(backbone)).sum().backward()
        found.append({name: parameter.grad for name, parameter in module.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("name", ["tiny-cogvideox", "tiny-wan", "tiny-hunyuan"])
def test_a_bf16_backbone_and_a_float32_adapter_work_together_under_autocast(name: str) -> None:
    facts = backbones.backbone(name)
    half, whole = (load_backbone(facts, dtype=dtype, device=CPU) for dtype in (torch.bfloat16, torch.float32))
    batch = a_batch(half)
    for config in (SMALL, replace(SMALL, gate="outside"), replace(SMALL, share_out=True))[: 3 if name == "tiny-cogvideox" else 1]:
        module = attached(half, config)
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = module(batch)
        losses.sum().backward()
        assert losses.dtype == torch.float32
        assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in trained(module).values())
        with torch.no_grad():
            torch.testing.assert_close(losses, attached(whole, config)(batch), rtol=0.05, atol=0)


@pytest.mark.parametrize("encoder", ["conv", "clip_mlp", "clip_resampler"])
def test_every_image_encoder_learns(cogvideox: Backbone, encoder: Any) -> None:
    module = attached(cogvideox, replace(SMALL, image_encoder=encoder), awake=True)
    module.train()(a_batch(cogvideox)).sum().backward()
    assert [name for name, parameter in module.image.named_parameters() if parameter.grad is None or not parameter.grad.abs().max() > 0] == []


@pytest.mark.parametrize("encoder", ["conv", "clip_mlp"])
def test_its_cost_is_counted_without_asking_for_a_tensors_value(cogvideox: Backbone, encoder: Any) -> None:
    """Keys and values of the context, queries' reading of it, output projections: 6 multiply-adds a weight for what learns."""
    batch = a_batch(cogvideox, size=1)
    with_image, without = (per_sample(attached(cogvideox, replace(SMALL, **changes)), cogvideox, batch) for changes in ({"image_encoder": encoder}, {"c_image": False}))
    rows = 24 if encoder == "conv" else 145
    assert with_image.flops > without.flops + 4 * 2 * rows * 2 * 128 * 128, "keys and values of the image tokens, in four blocks, are the least that comes in"
