"""Focal Guidance: its configuration, what it owns and learns, what it adds where, and what it leaves bit for bit alone."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import train.fg
from train.backbones import load_backbone
from train.batch import Batch, Reads, Side
from train.blocks import Blocks
from train.denoise import Guidance, _Branches
from train.fg import Fg, Focus
from train.flops import per_sample
from train.method import Backbone, Method, MethodModule, PictureValues, Stream, TextValues, run_block, unwrapped
from train.objective import normal
from vapdata import backbones
from vapdata.errors import CallError
from vapdata.settings import parse, typed

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
FRAMES, HEIGHT, WIDTH = 3, 4, 8
GRID = (3, 2, 4)
FRAME = 8
"""Tokens of a latent frame."""
SPANS = torch.tensor([[[2, 3], [4, 6], [9, 10]], [[1, 4], [0, 0], [0, 0]]])
MASK = torch.tensor([[True, True, True], [True, False, False]])
TIMESTEPS = torch.tensor([300.0, 800.0])
WEAK = {"tiny-wan": (3, 4, 5), "tiny-hunyuan": (4,)}
SILENT = {"lambda_text": 0.0, "lambda_latent": 0.0, "lambda_cache": 0.0}
LOUD = {"cache_threshold": 0.05, "inject_ref": True}
"""Settings under which every part has something to say on random weights."""


@pytest.fixture(scope="module", params=[*WEAK])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Both families' tiny backbone, in float32."""
    return load_backbone(backbones.backbone(request.param), dtype=torch.float32, device=CPU)


@pytest.fixture(scope="module")
def wan() -> Backbone:
    return load_backbone(backbones.backbone("tiny-wan"), dtype=torch.float32, device=CPU)


def a_side(backbone: Backbone, keywords: int = 3) -> Side:
    """Two random clips: the first with `keywords` keywords, the second with at most one."""
    facts, reads = backbone.facts, backbone.reads()
    channels, rows = facts.vae.latent_channels, facts.text.rows
    wide = facts.family == "wan"

    def drawn(name: str, *shape: int) -> Tensor:
        return normal(0, (2, *shape), name)

    return Side(
        clip_ids=("a", "b"),
        video=drawn("video", channels, FRAMES, HEIGHT, WIDTH),
        text=drawn("text", rows, facts.text.width),
        text_mask=torch.arange(rows) < torch.tensor([rows, 12])[:, None],
        pooled=drawn("pooled", 32) if reads.pooled else None,
        condition=drawn("condition", channels, FRAMES if wide else 1, HEIGHT, WIDTH),
        image_tokens=drawn("tokens", 257, 64) if wide else None,
        keyword_maps=drawn("maps", 3, 16, 16).tanh()[:, :keywords],
        keyword_anchors=drawn("anchors", 3, 64 if wide else 48)[:, :keywords],
        keyword_spans=SPANS[:, :keywords],
        keyword_mask=MASK[:, :keywords],
    )


def a_batch(backbone: Backbone, keywords: int = 3) -> Batch:
    side = a_side(backbone, keywords)
    return Batch(step=0, target=side, weights=torch.ones(2), seeds=(1, 2), timesteps=TIMESTEPS, noise=normal(9, tuple(side.video.shape), "noise"))


def attached(backbone: Backbone, wrap: Callable[..., Any] = unwrapped, **changes: Any) -> Any:
    """The module; where projections of pictures begin at zero they are drawn, so that they say something."""
    module = Fg(**changes).attach(backbone, wrap)
    with torch.no_grad():
        for number, projection in module.pictures.items():
            projection.weight.copy_(normal(0, tuple(projection.weight.shape), number) / 8)
    return module.eval()


def predicted(module: Any, side: Side, timesteps: Tensor = TIMESTEPS) -> Tensor:
    with torch.no_grad():
        return module.predict(normal(9, tuple(side.video.shape), "noise"), timesteps, side, ())


def stock(backbone: Backbone, side: Side) -> Tensor:
    with torch.no_grad():
        return backbone.forward(normal(9, tuple(side.video.shape), "noise"), TIMESTEPS, side)


def focused(module: Any, backbone: Backbone, side: Side) -> tuple[Stream, Any]:
    """The stream before the first block, and the batch's keywords."""
    with torch.no_grad():
        stream = backbone.embed(normal(9, tuple(side.video.shape), "noise"), TIMESTEPS, side)
        return stream, module._focus(side, stream)


class Attended(TorchFunctionMode):
    """Queries, keys, values, mask and result of every attention that reads text."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.calls = rows, []

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.nn.functional.scaled_dot_product_attention and args[1].shape[2] >= self.rows and args[1].shape[2] != 257:
            self.calls.append((*args[:3], (kwargs or {}).get("attn_mask"), result))
        return result


def reading(module: Any, backbone: Backbone, side: Side, number: int, cached: Tensor | None = None) -> tuple[Any, Stream]:
    """The attention to text of one weak block that is given the first stream, and the stream behind it."""
    stream, focus_on = focused(module, backbone, side)
    project = module.pictures[str(number)] if module.pictures else None
    with torch.no_grad(), Attended(backbone.facts.text.rows) as seen:
        after = module._through_weak(module._views.get(number, backbone.blocks[number]), project, stream, focus_on, cached)
    return seen.calls[-1], after


# What it is


def test_it_is_a_method_and_both_families_give_what_it_asks_for(backbone: Backbone) -> None:
    assert isinstance(Fg(), Method) and isinstance(attached(backbone), MethodModule)
    assert isinstance(backbone, TextValues)
    assert isinstance(backbone, PictureValues) == (backbone.facts.family == "wan")
    assert Fg().reads(backbone.facts) == Reads(text=True, keywords=True)
    assert Fg().release_names(backbone) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "zero"}, "fg: mode is one of post_train, zero_shot; got 'zero'"),
        ({"ac_scope": "preceeding"}, "got 'preceeding', did you mean 'preceding'. Type e.g. --set fg.ac_scope=preceding"),
        ({"inject_at": "after"}, "Type e.g. --set fg.inject_at=block_in"),
        ({"vis_space": "out"}, "fg: vis_space is one of value, output"),
        ({"weak_layers": ()}, "--set fg.weak_layers=3,4,5, or see python -m train.fg diagnose"),
        ({"weak_layers": (4, 3)}, "rising; got (4, 3)"),
        ({"cache_threshold": 1.5}, "fg: cache_threshold is -1 to 1; got 1.5. Type --set fg.cache_threshold=0.3"),
        ({"region": -0.1}, "--set fg.region=0.5"),
        ({"caption_drop": 2.0}, "--set fg.caption_drop=0.1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_to_type(changes: dict[str, Any], words: str) -> None:
    config = Fg()
    for name, value in changes.items():
        object.__setattr__(config, name, value)  # past the type check of the test run
    with pytest.raises(CallError) as caught:
        config.__post_init__()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("weak_layers=3,4", (3, 4)), ("weak_layers=none", None), ("inject_ref=true", True), ("ac=false", False), ("ac_scope=two_pass", "two_pass")]
)
def test_every_switch_can_be_typed(text: str, value: object) -> None:
    assert typed(parse(f"fg.{text}"), {"fg": Fg()})[2] == value


def test_the_papers_share_of_blocks_is_weak_and_a_block_that_is_not_there_is_refused(backbone: Backbone) -> None:
    weak = WEAK[backbone.facts.name]
    assert Fg().weak(backbone) == weak
    assert Fg(weak_layers=(weak[0],)).weak(backbone) == (weak[0],)
    with pytest.raises(CallError, match=rf"weak_layers names block 11; {backbone.facts.name} can be guided in blocks \d to \d\. Type e\.g\. --set fg\.weak_layers=\d"):
        Fg(weak_layers=(weak[0], 11)).weak(backbone)
    if backbone.facts.family == "hunyuan":
        with pytest.raises(CallError, match="names block 0"):
            Fg(weak_layers=(0,)).weak(backbone)


def test_other_families_and_hunyuans_impossible_settings_are_refused(backbone: Backbone) -> None:
    cog = load_backbone(backbones.backbone("tiny-cogvideox"), dtype=torch.float32, device=CPU)
    with pytest.raises(CallError, match="tiny-cogvideox is no image-to-video backbone whose reading of text can be guided"):
        attached(cog)
    if backbone.facts.family == "hunyuan":
        with pytest.raises(CallError, match=r"its projections of them must be learned first\. Type --set fg\.mode=post_train"):
            attached(backbone, mode="zero_shot")
        with pytest.raises(CallError, match=r"no cross-attention to inject behind\. Type --set fg\.inject_at=block_in"):
            attached(backbone, inject_at="after_cross")


def test_a_batch_without_keywords_is_refused(backbone: Backbone) -> None:
    with pytest.raises(CallError, match="has no keywords. Type: vapdata backfill keywords"):
        predicted(attached(backbone), replace(a_side(backbone), keyword_mask=None))


# Sizes


WAN_14B = {
    "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 36, "out_channels": 16, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 13824, "num_layers": 40,
    "image_dim": 1280, "added_kv_proj_dim": 5120,
}  # fmt: skip
"""transformer/config.json of Wan-AI/Wan2.1-I2V-14B-480P-Diffusers, what differs from the class's defaults or matters here."""
HUNYUAN = {"in_channels": 16, "out_channels": 16, "image_condition_type": "token_replace", "guidance_embeds": True}
"""hunyuanvideo-community/HunyuanVideo-I2V: the class's defaults are the released sizes."""


def test_on_wan_14b_sixteen_blocks_are_weak_and_2517_million_weights_learn() -> None:
    from diffusers import WanTransformer3DModel

    from train.backbones.wan import Wan

    with torch.device("meta"):
        transformer = WanTransformer3DModel(**WAN_14B)
    real = Wan(backbones.backbone("wan2.1-i2v-14b-480p"), transformer, {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True})
    assert Fg().weak(real) == tuple(range(11, 27))
    module = Fg().attach(real, unwrapped)
    assert round(sum(each.numel() for each in module.parameters()) / 1e9, 3) == 2.517
    assert not module.pictures, "nothing of its own"


def test_on_hunyuan_single_stream_blocks_17_to_32_are_weak_and_their_attention_is_453_million() -> None:
    from diffusers import HunyuanVideoTransformer3DModel

    from train.backbones.hunyuan import Hunyuan

    with torch.device("meta"):
        transformer = HunyuanVideoTransformer3DModel(**HUNYUAN)
    real = Hunyuan(backbones.backbone("hunyuanvideo-i2v"), transformer, {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0})
    assert Fg().weak(real) == tuple(range(20 + 17, 20 + 33)), "blocks are numbered through, 20 dual ones first"
    module = Fg().attach(real, unwrapped)
    assert round(sum(each.numel() for each in module.attention.parameters()) / 1e9, 3) == 0.453
    assert {tuple(each.weight.shape) for each in module.pictures.values()} == {(3072, 1024)} and len(module.pictures) == 16
    assert sum(each.numel() for each in Fg(fsg_text=False, fsg_latent=False, ac=False).attach(real, unwrapped).pictures.parameters()) == 0


# Nothing to say


def test_g1_at_strength_0_it_is_the_stock_backbone_bit_for_bit(backbone: Backbone) -> None:
    side = a_side(backbone)
    for changes in ({}, {"inject_at": "block_out"}, {"vis_space": "output"}, {"ac_scope": "two_pass"}):
        assert torch.equal(predicted(attached(backbone, **SILENT, **LOUD, **changes), side), stock(backbone, side))
    assert not torch.equal(predicted(attached(backbone, **LOUD), side), stock(backbone, side)), "at another it is not"


def test_g2_no_keywords_and_everything_is_as_without_it(backbone: Backbone) -> None:
    module = attached(backbone, **LOUD)
    for side in (a_side(backbone, keywords=0), a_side(backbone).without_keywords()):
        assert torch.equal(predicted(module, side), stock(backbone, side))


def test_g2_at_threshold_1_the_cache_adds_nothing(backbone: Backbone) -> None:
    side = a_side(backbone)
    shut, off = (predicted(attached(backbone, **LOUD | changes), side) for changes in ({"cache_threshold": 1.0}, {"ac": False}))
    assert torch.equal(shut, off)
    assert not torch.equal(predicted(attached(backbone, **LOUD), side), off)


def test_plain_post_training_adds_nothing(backbone: Backbone) -> None:
    side, module = a_side(backbone), attached(backbone, fsg_text=False, fsg_latent=False, ac=False)
    assert torch.equal(predicted(module, side), stock(backbone, side)) and not module.pictures


def test_projections_that_begin_at_zero_say_nothing(backbone: Backbone) -> None:
    if backbone.facts.family == "hunyuan":
        module, side = Fg(**LOUD).attach(backbone, unwrapped).eval(), a_side(backbone)
        assert torch.equal(predicted(module, side), stock(backbone, side))


def test_g12_under_guidance_the_negative_branch_is_the_stock_one(backbone: Backbone) -> None:
    side = a_side(backbone)
    negative = {"text": normal(5, tuple(side.text.shape), "negative"), "text_mask": side.text_mask}
    branches = _Branches(attached(backbone, **LOUD), backbone, side, (), negative, Guidance(scale=5.0))
    noise = normal(9, tuple(side.video.shape), "noise")
    with torch.no_grad():
        both = branches.module.predict(torch.cat([noise, noise]), TIMESTEPS.repeat(2), branches.target, ())
        wanted = backbone.forward(torch.cat([noise, noise]), TIMESTEPS.repeat(2), branches.target)
    assert torch.equal(both[:2], wanted[:2])
    assert (both[2:] - wanted[2:]).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-5


# Binding


def test_g4_binding_changes_values_of_keywords_rows_by_exactly_the_pictures_and_nothing_else(backbone: Backbone) -> None:
    side, number = a_side(backbone), WEAK[backbone.facts.name][0]
    bound, plain = (attached(backbone, fsg_latent=False, ac=False, lambda_text=strength) for strength in (0.5, 0.0))
    (query, key, value, mask, _), _ = reading(bound, backbone, side, number)
    (query_0, key_0, value_0, mask_0, _), _ = reading(plain, backbone, side, number)
    assert torch.equal(query, query_0) and torch.equal(key, key_0) and (mask is None or torch.equal(mask, mask_0))
    _, focus_on = focused(bound, backbone, side)
    with torch.no_grad():
        view = bound._views[number]
        pictures = bound.pictures[str(number)](focus_on.pictures) if bound.pictures else backbone.picture_values(view, focus_on.pictures)
    first = value.shape[2] - focus_on.belongs.shape[2]  # HunyuanVideo: behind the video's rows
    wanted = torch.zeros_like(value).transpose(1, 2).flatten(2)
    for clip, keyword, start, stop in ((0, 0, 2, 3), (0, 1, 4, 6), (0, 2, 9, 10), (1, 0, 1, 4)):
        wanted[clip, first + start : first + stop] = 0.5 * pictures[clip, keyword]
    delta = (value - value_0).transpose(1, 2).flatten(2)
    torch.testing.assert_close(delta, wanted, rtol=0, atol=1e-6)
    assert torch.equal(value.transpose(1, 2).flatten(2)[wanted == 0], value_0.transpose(1, 2).flatten(2)[wanted == 0])
    assert wanted.abs().amax() > 0.01


def test_g5_attention_weights_stay_and_what_is_read_moves_by_their_share_of_the_pictures(backbone: Backbone) -> None:
    side, number = a_side(backbone), WEAK[backbone.facts.name][0]
    (query, key, value, mask, result), _ = reading(attached(backbone, fsg_latent=False, ac=False, lambda_text=0.5), backbone, side, number)
    (_, _, value_0, _, result_0), _ = reading(attached(backbone, fsg_latent=False, ac=False, lambda_text=0.0), backbone, side, number)
    scores = query.double() @ key.double().mT / query.shape[-1] ** 0.5
    weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)
    torch.testing.assert_close((result - result_0).double(), weights @ (value - value_0).double(), rtol=0, atol=2e-6)


# Injection


def entering(module: Any, backbone: Backbone, side: Side, monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The streams that come to the weak blocks, after what is added before them."""
    seen: list[Stream] = []

    def spied(given: Backbone, block: nn.Module, stream: Stream) -> Stream:
        seen.append(stream)
        return run_block(given, block, stream)

    monkeypatch.setattr(train.fg, "run_block", spied)
    predicted(module, side)
    monkeypatch.undo()
    weak = WEAK[backbone.facts.name]
    return seen[weak[0] - len(backbone.blocks) :][: len(weak)]  # a pass before this one has gone through them too


def test_g6_injection_reaches_the_first_frames_tokens_that_show_a_keyword_and_no_other(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    side = a_side(backbone)
    maps = torch.full_like(side.keyword_maps, -1.0)
    maps[:, :, :8, :8] = 1.0  # upper left
    side = replace(side, keyword_maps=maps)
    with_it, without = (entering(attached(backbone, fsg_text=False, ac=False, inject_ref=True, lambda_latent=each), backbone, side, monkeypatch)[0] for each in (0.5, 0.0))
    delta = (with_it.video - without.video).unflatten(1, GRID)
    assert not delta[:, 1:].any(), "later frames"
    assert not delta[:, 0, 1].any() and not delta[:, 0, :, 2:].any(), "lower half, right half"
    assert (delta[:, 0, 0, :2].norm(dim=-1) > 0.01).all()


def test_g6_each_keyword_adds_its_own(backbone: Backbone) -> None:
    module, side = attached(backbone, fsg_text=False, ac=False, inject_ref=True), a_side(backbone)
    _, focus_on = focused(module, backbone, side)
    values = normal(0, (2, 3, 96 if backbone.facts.family == "wan" else 64), "values")
    every = module._added(values, focus_on, None)
    each = [module._added(values * torch.eye(3)[keyword][:, None], focus_on, None) for keyword in range(3)]
    torch.testing.assert_close(sum(each), every)


def test_a_clean_first_frame_is_left_alone_unless_asked_for(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    side = a_side(backbone)
    loud = {"lambda_latent": 1.0, "lambda_cache": 1.0, "cache_threshold": -1.0, "fsg_text": False}
    left, plain = (entering(attached(backbone, **loud | changes), backbone, side, monkeypatch)[0].video[0] for changes in ({}, SILENT))
    touched = bool((left - plain)[:FRAME].any())
    assert touched == (backbone.facts.condition != "token_replace")
    assert (left - plain)[FRAME:].any(), "the cache reaches later frames"
    shut = entering(attached(backbone, **loud, inject_ref=False), backbone, side, monkeypatch)[0].video[0]
    assert not (shut - plain)[:FRAME].any()


OTHER: list[dict[str, Any]] = [
    {"inject_at": "block_out"},
    {"inject_at": "after_cross"},
    {"vis_space": "output"},
    {"region": 0.9},
    {"fsg_text": False},
    {"fsg_latent": False},
    {"ac": False},
    {"ac_scope": "two_pass"},
    {"weak_layers": (5,)},
]


@pytest.mark.parametrize("changes", OTHER, ids=str)
def test_a_switch_changes_what_comes_out(wan: Backbone, changes: dict[str, Any]) -> None:
    side = a_side(wan)
    assert (predicted(attached(wan, **LOUD, **changes), side) - predicted(attached(wan, **LOUD), side)).abs().max() > 1e-6


# The attention cache


def test_g7_weak_blocks_take_the_mean_of_the_responsive_ones_whatever_the_scope(wan: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each responsive block's map is its own number here, so that the mean says which were taken, and with weights that sum to 1."""
    seen: list[Tensor | None] = []
    for scope, wanted in (("preceding", (0 + 1 + 2) / 3), ("two_pass", (0 + 1 + 2 + 6 + 7) / 5)):
        module = attached(wan, ac_scope=scope)
        numbers = {id(block): float(number) for number, block in enumerate(wan.blocks)}
        monkeypatch.setattr(module, "_maps", lambda block, stream, focus_on, numbers=numbers: torch.full((2, 3, 24), numbers[id(block)]))
        monkeypatch.setattr(module, "_guided", lambda block, project, stream, focus_on, cached: (seen.append(cached), stream)[1])
        predicted(module, a_side(wan))
        assert len(seen) == 3
        for cached in seen:
            torch.testing.assert_close(cached, torch.full((2, 3, 24), wanted))
        seen.clear()


@pytest.mark.parametrize("scope", ["preceding", "two_pass"])
def test_g7_a_later_blocks_weights_reach_weak_blocks_by_a_pass_before_alone(scope: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(backbones.backbone("tiny-wan"), dtype=torch.float32, device=CPU)
    side, module = a_side(backbone), attached(backbone, **LOUD, ac_scope=scope)
    before = entering(module, backbone, side, monkeypatch)
    with torch.no_grad():
        for parameter in backbone.blocks[6].parameters():
            parameter.add_(0.3 * normal(1, tuple(parameter.shape), "other"))
    after = entering(module, backbone, side, monkeypatch)
    assert all(torch.equal(one.video, other.video) for one, other in zip(before, after, strict=True)) == (scope == "preceding")


def test_the_cache_of_the_step_before_is_of_the_same_clips_at_a_higher_timestep(wan: Backbone) -> None:
    side = a_side(wan)
    module, preceding = attached(wan, **LOUD, ac_scope="previous_step"), attached(wan, **LOUD)
    later = TIMESTEPS - 100
    assert torch.equal(predicted(module, side), predicted(preceding, side)), "the first step has none before it"
    goes_on = predicted(module, side, later)
    assert not torch.equal(goes_on, predicted(preceding, side, later))
    assert torch.equal(predicted(module, side), predicted(preceding, side)), "a higher timestep begins anew"
    assert torch.equal(predicted(module, replace(side, clip_ids=("a", "c")), later), predicted(preceding, side, later)), "so do other clips"
    module.train()
    with torch.no_grad():
        assert torch.equal(module(a_batch(wan)), preceding(a_batch(wan))), "and training knows no step before"


# Planted

def planted(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[int, Tensor]:
    """Maps of the first keyword where text values and picture are one direction, and the tokens of a region begin with it: blocks' maps (T, h, w)."""
    side = replace(a_side(backbone), keyword_mask=torch.tensor([[True, False, False], [True, False, False]]))
    module = attached(backbone, fsg_text=False, fsg_latent=False, inject_ref=True, lambda_cache=1.0, **changes)
    width = backbone.blocks[WEAK[backbone.facts.name][0]].get_submodule(backbone.text_attention).to_v.out_features
    direction = normal(3, (width,), "direction")
    embed = backbone.embed

    def region_first(*arguments: Any, **more: Any) -> Stream:
        stream = embed(*arguments, **more)
        video = stream.video.clone().unflatten(1, GRID)
        video[:, 1:, 0, :2] += direction
        return replace(stream, video=video.flatten(1, 3))

    monkeypatch.setattr(backbone, "embed", region_first)
    monkeypatch.setattr(backbone, "text_values", lambda block, stream: direction.expand(2, backbone.facts.text.rows if stream.text is None else stream.text.shape[1], -1))
    if backbone.facts.family == "hunyuan":
        anchor = side.keyword_anchors[0, 0]
        with torch.no_grad():
            for projection in module.pictures.values():
                projection.weight.copy_(direction[:, None] * anchor / anchor.square().sum())
    else:
        monkeypatch.setattr(backbone, "picture_values", lambda block, tokens: direction.expand(2, 3, -1))
    with torch.no_grad():
        found = module.maps(normal(9, tuple(side.video.shape), "noise"), TIMESTEPS, side)
    monkeypatch.undo()
    return {number: maps[0, 0] for number, maps in found.items()}


def test_in_a_planted_case_weak_blocks_see_the_region_better_with_the_cache_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, changes in (("tiny-wan", {}), ("tiny-hunyuan", {"weak_layers": (3, 4)})):
        backbone = load_backbone(backbones.backbone(name), dtype=torch.float32, device=CPU)
        on, off = (planted(backbone, monkeypatch, ac=each, **changes) for each in (True, False))
        weak = changes.get("weak_layers", WEAK[name])
        for number in weak[1:]:  # the first weak block's tokens come from before anything was added
            there, elsewhere = (float((on[number] - off[number])[where].mean()) for where in ((slice(1, None), 0, slice(None, 2)), (slice(None), 1)))
            assert there > 0.1 and there > 5 * abs(elsewhere), (name, number, there, elsewhere)
        assert torch.equal(on[weak[0]], off[weak[0]])


# What learns


def test_g10_gradients_reach_the_weak_blocks_reading_of_text_alone(backbone: Backbone) -> None:
    module = Fg(**LOUD).attach(backbone, unwrapped)
    module(a_batch(backbone)).sum().backward()
    names = {name for name, _ in module.named_parameters()}
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in names if name.startswith("attention")} == {f"attention.{number}" for number in WEAK[backbone.facts.name]}
    assert {name.split(".")[0] for name in names} == ({"attention"} if backbone.facts.family == "wan" else {"attention", "pictures"})
    for number in WEAK[backbone.facts.name]:
        theirs = backbone.blocks[number].get_submodule(backbone.text_attention)
        assert {name for name, _ in theirs.named_parameters()} == {name.split(".", 2)[2] for name in names if name.startswith(f"attention.{number}.")}
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.abs().max() > 0] == []
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.transformer.parameters())


def test_g10_nothing_learns_in_zero_shot(wan: Backbone) -> None:
    module = Fg(mode="zero_shot").attach(wan, unwrapped)
    assert module.state_dict() == {} and not module(a_batch(wan)).requires_grad
    side = a_side(wan)
    assert torch.equal(predicted(module, side), predicted(attached(wan), side)), "post-training begins where zero-shot is"


def test_without_keywords_in_a_batch_all_that_learns_still_has_a_gradient(backbone: Backbone) -> None:
    """Several processes wait for each other's gradients: one whose captions were all dropped must have them too."""
    module = Fg().attach(backbone, unwrapped)
    module(a_batch(backbone, keywords=0)).sum().backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


def test_blocks_before_the_first_weak_one_run_without_gradient(backbone: Backbone) -> None:
    first = WEAK[backbone.facts.name][0]
    asked: list[tuple[int, bool]] = []

    def wrap(block: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if not isinstance(arguments[-1], Focus):  # what looks at the tokens alone is no block
                asked.append((len(asked), torch.is_grad_enabled()))
            return block(*arguments)

        return run

    Fg().attach(backbone, wrap)(a_batch(backbone))
    assert asked == [(number, number >= first) for number in range(len(backbone.blocks))]


def test_floating_point_operations_are_counted_and_the_first_blocks_cost_their_forward_alone(wan: Backbone) -> None:
    late, early = (per_sample(Fg(weak_layers=each, ac=False).attach(wan, unwrapped), wan, a_batch(wan)) for each in ((7,), (0,)))
    assert late.forward == pytest.approx(early.forward, rel=1e-6)
    assert late.flops - late.forward < 0.5 * (early.flops - early.forward), "of gradients, that of one block in place of eight"


def test_the_backbone_stays_as_it_was_and_shares_its_weights_but_for_the_copies(backbone: Backbone) -> None:
    module = Fg().attach(backbone, unwrapped)
    mine = {parameter.data_ptr() for parameter in module.parameters()}
    assert not mine & {parameter.data_ptr() for parameter in backbone.transformer.parameters()}
    for number, view in module._views.items():
        shared = [name for name, parameter in view.named_parameters() if parameter.data_ptr() == backbone.blocks[number].get_parameter(name).data_ptr()]
        assert all(name.startswith(f"{backbone.text_attention}.") for name, _ in view.named_parameters() if name not in shared)
        assert shared
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in module.parameters())


def test_a_sample_has_the_same_loss_in_any_company(backbone: Backbone) -> None:
    batch, module = a_batch(backbone), attached(backbone, **LOUD)
    second = {each.name: value[1:] for each in fields(Side) if isinstance(value := getattr(batch.target, each.name), Tensor)}
    alone = replace(batch, target=replace(batch.target, clip_ids=("b",), **second), weights=batch.weights[1:], seeds=(2,), timesteps=batch.timesteps[1:], noise=batch.noise[1:])
    with torch.no_grad():
        torch.testing.assert_close(module(alone), module(batch)[1:])


@pytest.mark.parametrize("scope", ["preceding", "two_pass"])
def test_activation_checkpointing_gives_equal_gradients(backbone: Backbone, scope: Any) -> None:
    def gradients(wrap: Callable[..., Any]) -> dict[str, Tensor]:
        module = attached(backbone, wrap, **LOUD, ac_scope=scope).train()
        module(a_batch(backbone)).sum().backward()
        return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}

    plain, again = gradients(unwrapped), gradients(Blocks(keep="nothing").wrap)
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("name", [*WEAK])
def test_a_bf16_backbone_and_float32_copies_work_together_under_autocast(name: str) -> None:
    half, whole = (load_backbone(backbones.backbone(name), dtype=dtype, device=CPU) for dtype in (torch.bfloat16, torch.float32))
    module, exact = attached(half, **LOUD), attached(whole, **LOUD)
    batch = a_batch(half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = module(batch)
    losses.sum().backward()
    assert losses.dtype == torch.float32 and all(parameter.grad.isfinite().all() for parameter in module.parameters())
    torch.testing.assert_close(losses, exact(batch), rtol=0.05, atol=0)
