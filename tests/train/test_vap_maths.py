"""Video-As-Prompt's arithmetic: against a dense float64 reference written here from the weights' names alone, and by its invariants."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel, UniPCMultistepScheduler, WanTransformer3DModel
from torch import Tensor, nn

from train.backbones import load_backbone
from train.batch import Side
from train.meeting import joint
from train.method import Backbone, Stream, attention, run_block, unwrapped
from train.vap import RELEASED_TIMESTEP, Vap, VapModule
from vapdata import backbones

pytestmark = pytest.mark.slow

LAYERS, HEADS, HEAD, ROWS, TEXT_WIDTH = 4, 2, 16, 5, 8
WAN_LAYERS, CONTEXT_ROWS, IMAGE_ROWS, IMAGE_WIDTH = 6, 512, 257, 12
CHANNELS, FRAMES, HEIGHT, WIDTH = 16, 2, 4, 6
TIMESTEPS = torch.tensor([37.0, 801.0])
EXACT = {"cogvideox": 1e-12, "wan": 2e-5}
"""How far apart two ways of computing the same may be in float64. Wan's norms and residuals are float32 whatever the dtype."""
TURNED = {"cogvideox": (4, 6, 6), "wan": (8, 4, 4)}
"""How many of a head's 16 channels turn with time, height and width."""


def cogvideox(folder: Path, name: str = "tiny-cogvideox", **config: Any) -> Backbone:
    """A small CogVideoX laid out like `name`, whose weights are all random, norms, biases and table included, in float64."""
    torch.manual_seed(0)
    facts = backbones.backbone(name)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD, in_channels=CHANNELS * (2 if facts.image_to_video else 1), out_channels=CHANNELS, time_embed_dim=24,
        text_embed_dim=TEXT_WIDTH, num_layers=LAYERS, sample_width=WIDTH, sample_height=HEIGHT, sample_frames=4 * (FRAMES - 1) + 1, max_text_seq_length=ROWS,
        **{"use_rotary_positional_embeddings": True} | config,
    )  # fmt: skip
    all_random(transformer)
    if config.get("use_learned_positional_embeddings"):
        transformer.patch_embed.pos_embedding.data.normal_(std=0.5)
    transformer.float().save_pretrained(folder / "transformer")
    CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing").save_pretrained(folder / "scheduler")
    small = replace(facts, text=replace(facts.text, rows=ROWS, width=TEXT_WIDTH))
    return load_backbone(small, dtype=torch.float64, device=torch.device("cpu"), folder=str(folder))


def wan(folder: Path, name: str = "tiny-wan") -> Backbone:
    """A small Wan laid out like `name`, whose weights are all random, in float64 but for those that are float32 always."""
    torch.manual_seed(0)
    facts = backbones.backbone(name)
    image = {"image_dim": IMAGE_WIDTH, "added_kv_proj_dim": HEADS * HEAD} if facts.image_to_video else {}
    transformer = WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD, in_channels=2 * CHANNELS + 4 if facts.image_to_video else CHANNELS, out_channels=CHANNELS,
        text_dim=TEXT_WIDTH, freq_dim=24, ffn_dim=48, num_layers=WAN_LAYERS, **image,
    )  # fmt: skip
    all_random(transformer)
    transformer.save_pretrained(folder / "transformer")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True).save_pretrained(folder / "scheduler")
    small = replace(facts, text=replace(facts.text, width=TEXT_WIDTH))
    return load_backbone(small, dtype=torch.float64, device=torch.device("cpu"), folder=str(folder))


def all_random(transformer: nn.Module) -> None:
    """Draws every weight anew, norms, biases and tables included."""
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 or "table" in name else parameter[0].numel() ** -0.5)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.add_(1)


FAMILIES: dict[str, Callable[[Path], Backbone]] = {
    "cogvideox": cogvideox,
    "cogvideox with a learned table": lambda folder: cogvideox(folder, use_learned_positional_embeddings=True),
    "wan": wan,
    "wan from text alone": lambda folder: wan(folder, "wan2.1-t2v-1.3b"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A small backbone of each family, in float64."""
    return FAMILIES[request.param](tmp_path_factory.mktemp("backbone"))


def a_side(backbone: Backbone, seed: int, frames: int = FRAMES) -> Side:
    """Two random clips with all that the backbone reads."""
    random = torch.Generator().manual_seed(seed)
    if backbone.facts.family == "wan":
        latents = [torch.randn(2, CHANNELS, frames, HEIGHT, WIDTH, generator=random, dtype=torch.float64) for _ in range(2)]
        text, image = (torch.randn(2, rows, width, generator=random, dtype=torch.float64) for rows, width in ((CONTEXT_ROWS, TEXT_WIDTH), (IMAGE_ROWS, IMAGE_WIDTH)))
        return Side(clip_ids=(f"a{seed}", f"b{seed}"), video=latents[0], text=text, condition=latents[1], image_tokens=image)
    return Side(
        clip_ids=(f"a{seed}", f"b{seed}"),
        video=torch.randn(2, CHANNELS, frames, HEIGHT, WIDTH, generator=random, dtype=torch.float64),
        text=torch.randn(2, ROWS, TEXT_WIDTH, generator=random, dtype=torch.float64),
        text_mask=torch.ones(2, ROWS, dtype=torch.bool),
        first=torch.randn(2, CHANNELS, 1, HEIGHT, WIDTH, generator=random, dtype=torch.float64),
    )


def stirred(module: nn.Module) -> nn.Module:
    """The module with every weight of its own moved, so that no agreement is owed to an expert equal to its block, in float64."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random, dtype=torch.float64), alpha=0.1)
    return module


# The dense reference: one sample at a time, from names and equations.


@dataclass
class Tokens:
    """A stream of the dense reference."""

    text: Tensor
    """CogVideoX: the rows that walk along. Wan: those that are read."""
    video: Tensor
    time: Tensor
    offset: tuple[float, float]
    mark: str
    image: Tensor | None = None


class Dense:
    """CogVideoX with experts, in float64, from weights by their released names."""

    turned = TURNED["cogvideox"]

    def __init__(self, weights: Mapping[str, Tensor], layers: int) -> None:
        self.weights = {name: weight.double() for name, weight in weights.items()}
        self.layers = layers

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def tokens(self, noisy: Tensor, timestep: float, side: Side, sample: int, mark: str = "", offset: tuple[float, float] = (0.0, 0.0), table: bool = True) -> Tokens:
        """noisy [C T H W] -> 2 x 2 patches, row by row, beside the first frame's latent and zeros."""
        width = HEADS * HEAD
        condition = torch.zeros_like(noisy)
        condition[:, :1] = side.first[sample]
        image = torch.cat([noisy, condition])
        kernel = self.weights[f"patch_embed{mark}.proj.weight"]
        video = []
        for t in range(FRAMES):
            for y in range(0, HEIGHT, 2):
                for x in range(0, WIDTH, 2):
                    video.append((kernel * image[None, :, t, y : y + 2, x : x + 2]).sum((1, 2, 3)) + self.weights[f"patch_embed{mark}.proj.bias"])
        joined = torch.cat([self.linear(side.text[sample], f"patch_embed{mark}.text_proj"), torch.stack(video)])
        if table and f"patch_embed{mark}.pos_embedding" in self.weights:
            joined = joined + self.weights[f"patch_embed{mark}.pos_embedding"][0]
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(width // 2, dtype=torch.float64) / (width // 2))
        wave = torch.cat([(timestep * frequencies).cos(), (timestep * frequencies).sin()])
        time = self.linear(silu(self.linear(wave, f"time_embedding{mark}.linear_1")), f"time_embedding{mark}.linear_2")
        return Tokens(text=joined[:ROWS], video=joined[ROWS:], time=time, offset=offset, mark=mark)

    def rotated(self, x: Tensor, offset: tuple[float, float]) -> Tensor:
        """x [L h d] turned by its (t, y, x) position: each axis its share of the channels, in pairs, theta 10000."""
        places = [(t + offset[0], float(y), w + offset[1]) for t in range(FRAMES) for y in range(HEIGHT // 2) for w in range(WIDTH // 2)]
        turned = x.clone()
        for token, place in enumerate(places):
            start = 0
            for position, size in zip(place, self.turned, strict=True):
                for pair in range(size // 2):
                    angle = position / 10000 ** (2 * pair / size)
                    a, b = x[token, :, start + 2 * pair], x[token, :, start + 2 * pair + 1]
                    turned[token, :, start + 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
                    turned[token, :, start + 2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
                start += size
        return turned

    def modulated(self, each: Tokens, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """[text ; video] after the norm, and both gates."""
        shift, scale, gate, text_shift, text_scale, text_gate = self.linear(silu(each.time), f"{name}.linear").chunk(6)
        text = self.norm(each.text, f"{name}.norm", 1e-5) * (1 + text_scale) + text_shift
        video = self.norm(each.video, f"{name}.norm", 1e-5) * (1 + scale) + shift
        return torch.cat([text, video]), text_gate, gate

    def block(self, number: int, streams: list[Tokens], sees: Callable[[int, int], bool]) -> list[Tokens]:
        """One block over `streams`; `sees(i, j)`: whether stream i's queries see stream j's keys."""
        queries, keys, values, gates = [], [], [], []
        for each in streams:
            name = f"transformer_blocks.{number}"
            x, text_gate, gate = self.modulated(each, f"{name}.norm1{each.mark}")
            gates.append((text_gate, gate))
            q, k, v = (self.linear(x, f"{name}.attn1{each.mark}.{part}").view(-1, HEADS, HEAD) for part in ("to_q", "to_k", "to_v"))
            q, k = self.norm(q, f"{name}.attn1{each.mark}.norm_q", 1e-6), self.norm(k, f"{name}.attn1{each.mark}.norm_k", 1e-6)
            queries.append(torch.cat([q[:ROWS], self.rotated(q[ROWS:], each.offset)]))
            keys.append(torch.cat([k[:ROWS], self.rotated(k[ROWS:], each.offset)]))
            values.append(v)
        moved = []
        for i, each in enumerate(streams):
            key, value = (torch.cat([some[j] for j in range(len(streams)) if sees(i, j)]) for some in (keys, values))
            scores = torch.einsum("qhd,khd->hqk", queries[i], key) / math.sqrt(HEAD)
            shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
            rows = torch.einsum("hqk,khd->qhd", shares, value).flatten(1)
            rows = self.linear(rows, f"transformer_blocks.{number}.attn1{each.mark}.to_out.0")
            text, video = each.text + gates[i][0] * rows[:ROWS], each.video + gates[i][1] * rows[ROWS:]
            x, text_gate, gate = self.modulated(replace(each, text=text, video=video), f"transformer_blocks.{number}.norm2{each.mark}")
            hidden = gelu(self.linear(x, f"transformer_blocks.{number}.ff{each.mark}.net.0.proj"))
            fed = self.linear(hidden, f"transformer_blocks.{number}.ff{each.mark}.net.2")
            moved.append(replace(each, text=text + text_gate * fed[:ROWS], video=video + gate * fed[ROWS:]))
        return moved

    def head(self, each: Tokens) -> Tensor:
        """The prediction [C T H W]."""
        shift, scale = self.linear(silu(each.time), "norm_out.linear").chunk(2)
        x = self.norm(self.norm(each.video, "norm_final", 1e-5), "norm_out.norm", 1e-5) * (1 + scale) + shift
        patches = self.linear(x, "proj_out").view(FRAMES, HEIGHT // 2, WIDTH // 2, CHANNELS, 2, 2)
        return patches.permute(3, 0, 1, 4, 2, 5).reshape(CHANNELS, FRAMES, HEIGHT, WIDTH)

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        target: Side,
        references: list[Side],
        *,
        experts: set[int],
        times: Tensor,
        offsets: list[tuple[float, float]],
        fusion: str,
        table: bool,
    ) -> Tensor:
        """The target's prediction, sample by sample."""
        outputs = []
        for sample in range(len(noisy)):
            streams = [self.tokens(noisy[sample], float(timesteps[sample]), target, sample)]
            for side, offset in zip(references, offsets, strict=True):
                streams.append(self.tokens(side.video[sample], float(times[sample]), side, sample, mark="_mot_ref", offset=offset, table=table))
            for number in range(self.layers):
                if number not in experts:
                    streams[:1] = self.block(number, streams[:1], lambda i, j: True)
                    continue
                streams = self.block(number, streams, SEES[fusion])
                if fusion == "residual":
                    mean = sum(each.video for each in streams[1:]) / len(streams[1:])
                    streams[0] = replace(streams[0], video=streams[0].video + self.linear(mean, f"inject.{number}"))
            outputs.append(self.head(streams[0]))
        return torch.stack(outputs)


class DenseWan(Dense):
    """Wan with experts: captions and image tokens are read behind self-attention, modulation is a table plus a vector."""

    turned = TURNED["wan"]

    def rms(self, x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{name}.weight"]

    def tokens(self, noisy: Tensor, timestep: float, side: Side, sample: int, mark: str = "", offset: tuple[float, float] = (0.0, 0.0), table: bool = True) -> Tokens:
        """noisy [C T H W] -> 2 x 2 patches, row by row, beside the mask and the condition latent; there is no table."""
        image, given = noisy, None
        if "condition_embedder.image_embedder.norm1.weight" in self.weights:
            mask = torch.zeros(4, FRAMES, HEIGHT, WIDTH, dtype=torch.float64)
            mask[:, 0] = 1
            image = torch.cat([noisy, mask, side.condition[sample]])
            name = f"condition_embedder{mark}.image_embedder"
            hidden = self.linear(self.norm(side.image_tokens[sample], f"{name}.norm1", 1e-5), f"{name}.ff.net.0.proj")
            given = self.norm(self.linear(0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))), f"{name}.ff.net.2"), f"{name}.norm2", 1e-5)
        kernel, bias = (self.weights[f"patch_embedding{mark}.{part}"] for part in ("weight", "bias"))
        places = [(t, y, x) for t in range(FRAMES) for y in range(0, HEIGHT, 2) for x in range(0, WIDTH, 2)]
        video = torch.stack([(kernel[:, :, 0] * image[None, :, t, y : y + 2, x : x + 2]).sum((1, 2, 3)) + bias for t, y, x in places])
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(12, dtype=torch.float64) / 12)
        wave = torch.cat([(timestep * frequencies).cos(), (timestep * frequencies).sin()])
        name = f"condition_embedder{mark}"
        time = self.linear(silu(self.linear(wave, f"{name}.time_embedder.linear_1")), f"{name}.time_embedder.linear_2")
        text = self.linear(gelu(self.linear(side.text[sample], f"{name}.text_embedder.linear_1")), f"{name}.text_embedder.linear_2")
        return Tokens(text=text, video=video, time=time, offset=offset, mark=mark, image=given)

    def attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (each.view(-1, HEADS, HEAD) for each in (query, key, value))
        scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(HEAD)
        shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
        return torch.einsum("hqk,khd->qhd", shares, value).flatten(1)

    def block(self, number: int, streams: list[Tokens], sees: Callable[[int, int], bool]) -> list[Tokens]:
        """One block over `streams`; `sees(i, j)`: whether stream i's queries see stream j's keys."""
        queries, keys, values, modulations = [], [], [], []
        for each in streams:
            name = f"blocks.{number}.attn1{each.mark}"
            vector = self.linear(silu(each.time), f"condition_embedder{each.mark}.time_proj").view(6, -1)
            modulation = self.weights[f"blocks.{number}.scale_shift_table{each.mark}"][0] + vector
            x = plain_norm(each.video) * (1 + modulation[1]) + modulation[0]
            q, k = (self.rms(self.linear(x, f"{name}.to_{part}"), f"{name}.norm_{part}").view(-1, HEADS, HEAD) for part in ("q", "k"))
            queries.append(self.rotated(q, each.offset))
            keys.append(self.rotated(k, each.offset))
            values.append(self.linear(x, f"{name}.to_v").view(-1, HEADS, HEAD))
            modulations.append(modulation)
        moved = []
        for i, (each, modulation) in enumerate(zip(streams, modulations, strict=True)):
            key, value = (torch.cat([some[j] for j in range(len(streams)) if sees(i, j)]) for some in (keys, values))
            name = f"blocks.{number}.attn2{each.mark}"
            video = each.video + modulation[2] * self.linear(self.attended(queries[i], key, value), f"blocks.{number}.attn1{each.mark}.to_out.0")
            q = self.rms(self.linear(self.norm(video, f"blocks.{number}.norm2{each.mark}", 1e-6), f"{name}.to_q"), f"{name}.norm_q")
            read = self.attended(q, self.rms(self.linear(each.text, f"{name}.to_k"), f"{name}.norm_k"), self.linear(each.text, f"{name}.to_v"))
            if each.image is not None:
                key = self.rms(self.linear(each.image, f"{name}.add_k_proj"), f"{name}.norm_added_k")
                read = read + self.attended(q, key, self.linear(each.image, f"{name}.add_v_proj"))
            video = video + self.linear(read, f"{name}.to_out.0")
            hidden = gelu(self.linear(plain_norm(video) * (1 + modulation[4]) + modulation[3], f"blocks.{number}.ffn{each.mark}.net.0.proj"))
            moved.append(replace(each, video=video + modulation[5] * self.linear(hidden, f"blocks.{number}.ffn{each.mark}.net.2")))
        return moved

    def head(self, each: Tokens) -> Tensor:
        """The prediction [C T H W]."""
        shift, scale = self.weights["scale_shift_table"][0] + each.time
        patches = self.linear(plain_norm(each.video) * (1 + scale) + shift, "proj_out").view(FRAMES, HEIGHT // 2, WIDTH // 2, 2, 2, CHANNELS)
        return patches.permute(5, 0, 1, 3, 2, 4).reshape(CHANNELS, FRAMES, HEIGHT, WIDTH)


def dense(backbone: Backbone, weights: Mapping[str, Tensor]) -> Dense:
    """The family's dense reference."""
    return {"cogvideox": Dense, "wan": DenseWan}[backbone.facts.family](weights, len(backbone.blocks))


SEES: dict[str, Callable[[int, int], bool]] = {
    "joint": lambda i, j: True,
    "ref_to_target": lambda i, j: i == 0 or j > 0,
    "residual": lambda i, j: i == j,
}


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def plain_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def weights_of(backbone: Backbone, module: nn.Module) -> dict[str, Tensor]:
    """Frozen weights and the method's, the latter by their released names."""
    names = Vap(expert_layers="all").release_names(backbone)
    return {**backbone.transformer.state_dict(), **{names.get(name, name): weight for name, weight in module.state_dict().items()}}


CASES = [
    pytest.param(Vap(), [(-2.0, 0.0)], id="released"),
    pytest.param(Vap(references=2), [(-4.0, 0.0), (-2.0, 0.0)], id="two references"),
    pytest.param(Vap(references=3), [(-6.0, 0.0), (-4.0, 0.0), (-2.0, 0.0)], id="three references"),
    pytest.param(Vap(references=2, delta=5), [(-10.0, 0.0), (-5.0, 0.0)], id="delta=5"),
    pytest.param(Vap(expert_layers="all"), [(-2.0, 0.0)], id="all layers"),
    pytest.param(Vap(expert_layers=(1, 2)), [(-2.0, 0.0)], id="layers 1 and 2"),
    pytest.param(Vap(fusion="ref_to_target", references=2), [(-4.0, 0.0), (-2.0, 0.0)], id="one way"),
    pytest.param(Vap(fusion="residual", references=2), [(-4.0, 0.0), (-2.0, 0.0)], id="residual"),
    pytest.param(Vap(rope="shared"), [(0.0, 0.0)], id="shared positions"),
    pytest.param(Vap(rope="time_and_width_bias"), [(-2.0, -3.0)], id="time and width"),
    pytest.param(Vap(rope="discrete_long", references=2), [(50.0, 0.0), (80.0, 0.0)], id="discrete and long"),
    pytest.param(Vap(ref_timestep="constant"), [(-2.0, 0.0)], id="constant timestep"),
    pytest.param(Vap(ref_timestep="target"), [(-2.0, 0.0)], id="the target's timestep"),
    pytest.param(Vap(ref_abs_pos="none"), [(-2.0, 0.0)], id="no table for references"),
]


@pytest.mark.parametrize(("config", "offsets"), CASES)
def test_the_prediction_equals_a_dense_float64_reference(backbone: Backbone, config: Vap, offsets: list[tuple[float, float]]) -> None:
    module = stirred(config.attach(backbone, unwrapped))
    target, references = a_side(backbone, 0), tuple(a_side(backbone, 1 + place) for place in range(config.references))
    noisy = a_side(backbone, 9).video
    with torch.no_grad():
        found = module.predict(noisy, TIMESTEPS, target, references)
    told = config.ref_timestep or RELEASED_TIMESTEP[backbone.facts.family]
    wanted = dense(backbone, weights_of(backbone, module)).predict(
        noisy,
        TIMESTEPS,
        target,
        list(references),
        experts=set(config.layers(backbone)),
        times=torch.ones(2) if told == "constant" else TIMESTEPS,
        offsets=offsets,
        fusion=config.fusion,
        table=config.ref_abs_pos == "same",
    )
    stock = backbone.forward(noisy, TIMESTEPS, target)
    assert (found - stock).abs().max() > 1e-3, "the reference says nothing, so this case shows nothing"
    torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=0)


def two_streams(backbone: Backbone, *, frame_offset: float = -2.0) -> tuple[Stream, Stream]:
    """A target's stream and a reference's before the first block."""
    target, reference = a_side(backbone, 0), a_side(backbone, 1)
    return backbone.embed(a_side(backbone, 9).video, TIMESTEPS, target), backbone.embed(reference.video, TIMESTEPS, reference, frame_offset=frame_offset)


def without_tokens(stream: Stream) -> Stream:
    """The same stream with no token in it. diffusers' rotary function takes no empty table, so it has none."""
    return replace(stream, video=stream.video[:, :0], text=None if stream.text is None else stream.text[:, :0], rotary=None)


def test_v1_without_references_the_prediction_is_the_stock_one_bit_for_bit(backbone: Backbone) -> None:
    for config in (Vap(), Vap(expert_layers="all"), Vap(fusion="ref_to_target"), Vap(fusion="residual")):
        module = stirred(config.attach(backbone, unwrapped))
        side, noisy = a_side(backbone, 0), a_side(backbone, 9).video
        with torch.no_grad():
            assert torch.equal(module.predict(noisy, TIMESTEPS, side, ()), backbone.forward(noisy, TIMESTEPS, side))


def test_v1_a_reference_of_no_tokens_leaves_a_block_bit_for_bit_the_stock_one(backbone: Backbone) -> None:
    target, reference = two_streams(backbone)
    block, expert = backbone.blocks[0], backbone.blocks[1]
    with torch.no_grad():
        stock = run_block(backbone, block, target)
        for onward in (True, False):
            found = joint(backbone, block, expert, (target, without_tokens(reference)), onward=onward)[0]
            assert torch.equal(found.video, stock.video)
            assert stock.text is None or torch.equal(found.text, stock.text)


def test_v2_joint_attention_equals_two_phases(backbone: Backbone) -> None:
    """Projections first, for every stream; then each stream's own queries over all keys."""
    streams = two_streams(backbone)
    blocks = (backbone.blocks[0], backbone.blocks[1])
    with torch.no_grad():
        inputs = [backbone.attention_inputs(block, stream) for block, stream in zip(blocks, streams, strict=True)]
        key, value = (torch.cat([getattr(each, name) for each in inputs], dim=2) for name in ("key", "value"))
        wanted = [
            backbone.attention_output(block, stream, attention(each.query, key, value), each.carry) for block, stream, each in zip(blocks, streams, inputs, strict=True)
        ]
        found = joint(backbone, *blocks, streams)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.video, b.video, atol=EXACT[backbone.facts.family], rtol=0)
        assert a.text is None or torch.allclose(a.text, b.text, atol=1e-12)


def test_the_target_is_the_same_whether_or_not_somebody_reads_the_references_afterwards(backbone: Backbone) -> None:
    streams = two_streams(backbone)
    with torch.no_grad():
        onward = joint(backbone, backbone.blocks[0], backbone.blocks[1], streams)
        last = joint(backbone, backbone.blocks[0], backbone.blocks[1], streams, onward=False)
    torch.testing.assert_close(last[0].video, onward[0].video, atol=EXACT[backbone.facts.family], rtol=0)
    assert last[1] is streams[1]
    assert not torch.equal(onward[1].video, streams[1].video)


def test_v3_a_copied_expert_on_the_target_itself_changes_nothing(backbone: Backbone) -> None:
    """Softmax over every key twice is softmax over each once: copied weights and equal positions cancel out."""
    target, _ = two_streams(backbone)
    with torch.no_grad():
        stock = run_block(backbone, backbone.blocks[0], target)
        first, second = joint(backbone, backbone.blocks[0], backbone.blocks[0], (target, target))
        torch.testing.assert_close(first.video, stock.video, atol=EXACT[backbone.facts.family], rtol=0)
        torch.testing.assert_close(second.video, first.video, atol=EXACT[backbone.facts.family], rtol=0)
        config = Vap(expert_layers="all", rope="shared", ref_timestep="target", references=2)
        module = config.attach(backbone, unwrapped).double()
        side, noisy = a_side(backbone, 0), a_side(backbone, 9).video
        twin = replace(side, video=noisy)
        exact = max(1e-10, EXACT[backbone.facts.family])
        torch.testing.assert_close(module.predict(noisy, TIMESTEPS, side, (twin, twin)), backbone.forward(noisy, TIMESTEPS, side), atol=exact, rtol=0)


def test_v4_an_offset_turns_the_temporal_channels_alone(backbone: Backbone) -> None:
    here, there = (two_streams(backbone, frame_offset=offset)[1] for offset in (0.0, -2.0))
    time = TURNED[backbone.facts.family][0]
    for a, b in zip(here.rotary, there.rotary, strict=True):
        assert torch.equal(a[..., time:], b[..., time:])
        assert not torch.equal(a[..., :time], b[..., :time])


def test_v4_scores_within_a_reference_ignore_its_offset_and_scores_with_the_target_do_not(backbone: Backbone) -> None:
    def scores(offset: float) -> tuple[Tensor, Tensor]:
        target, reference = (backbone.attention_inputs(backbone.blocks[0], each) for each in two_streams(backbone, frame_offset=offset))
        video = FRAMES * HEIGHT // 2 * WIDTH // 2  # the last rows
        own = reference.query[:, :, -video:] @ reference.key[:, :, -video:].mT
        return own, target.query[:, :, -video:] @ reference.key[:, :, -video:].mT

    with torch.no_grad():
        (own, cross), (moved_own, moved_cross) = scores(0.0), scores(-2.0)
    torch.testing.assert_close(moved_own, own, atol=1e-4, rtol=0)
    assert (moved_cross - cross).abs().max() > 0.1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("delta", "frames"), [(None, 13), (13, 13), (20, 13), (None, 1)])
def test_v5_references_and_target_stand_side_by_side_in_time(count: int, delta: int | None, frames: int) -> None:
    offsets = [*Vap(delta=delta).frame_offsets(count, frames), 0.0]
    assert len(offsets) == count + 1
    ranges = [range(int(offset), int(offset) + frames) for offset in offsets]
    places = [place for each in ranges for place in each]
    assert len(set(places)) == len(places) == frames * (count + 1), "disjoint"
    assert offsets == sorted(offsets), "the nearest reference is the last"
    if (delta or frames) == frames:
        assert places == list(range(-count * frames, frames)), "contiguous"


def test_v5_references_that_are_far_after_the_target_are_apart_too() -> None:
    assert Vap(rope="discrete_long").frame_offsets(3, 13) == (50.0, 80.0, 110.0)


def test_v9_the_order_of_reference_tokens_is_in_their_rotary_rows_and_nowhere_else(backbone: Backbone) -> None:
    target, reference = two_streams(backbone)
    order = torch.randperm(reference.video.shape[1], generator=torch.Generator().manual_seed(3))
    with_rows = replace(reference, video=reference.video[:, order], rotary=tuple(each[order] for each in reference.rotary))
    without_rows = replace(reference, video=reference.video[:, order])
    with torch.no_grad():
        plain, same, other = (joint(backbone, backbone.blocks[0], backbone.blocks[1], (target, each))[0].video for each in (reference, with_rows, without_rows))
    torch.testing.assert_close(same, plain, atol=EXACT[backbone.facts.family], rtol=0)
    assert (other - plain).abs().max() > 1e-3


def test_v10_references_wait_unchanged_where_a_block_has_no_expert(backbone: Backbone) -> None:
    module = VapModule(Vap(expert_layers=(1,)), backbone, unwrapped)
    target, reference = two_streams(backbone)
    with torch.no_grad():
        after = module._block(0, backbone.blocks[0], (target, reference))
        stock = run_block(backbone, backbone.blocks[0], target)
    assert after[1] is reference
    assert torch.equal(after[0].video, stock.video)


def test_v11_the_targets_timestep_leaves_a_clean_references_tokens_alone(backbone: Backbone) -> None:
    module = VapModule(Vap(), backbone, unwrapped).double()
    side, reference = a_side(backbone, 0), a_side(backbone, 1)
    early, late = (module._embed(a_side(backbone, 9).video, times, side, (module._clean(reference, times),))[1] for times in (TIMESTEPS, TIMESTEPS + 100))
    assert torch.equal(early.video, late.video)
    assert early.text is None or torch.equal(early.text, late.text)
    assert torch.equal(early.time, late.time) == (RELEASED_TIMESTEP[backbone.facts.family] == "constant"), "as released, CogVideoX's expert is told the target's timestep"


def test_the_dense_reference_alone_is_the_backbone_itself(backbone: Backbone) -> None:
    side, noisy = a_side(backbone, 0), a_side(backbone, 9).video
    wanted = dense(backbone, backbone.transformer.state_dict()).predict(noisy, TIMESTEPS, side, [], experts=set(), times=TIMESTEPS, offsets=[], fusion="joint", table=True)
    with torch.no_grad():
        torch.testing.assert_close(backbone.forward(noisy, TIMESTEPS, side).double(), wanted, atol=2e-5, rtol=0)




VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "2B": ("cogvideox-2b", {"use_rotary_positional_embeddings": False}),
    "5B": ("cogvideox-5b", {}),
    "1.5": ("cogvideox-1.5-5b", {"patch_size_t": 2, "patch_bias": False}),
    "1.5-I2V": ("cogvideox-1.5-5b-i2v", {"patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 24}),
}
"""Further layouts: no rotary positions and no first frame; two latent frames a patch; `ofs` in the time vector."""


@pytest.mark.parametrize(("name", "config"), VARIANTS.values(), ids=VARIANTS)
def test_every_cogvideox_takes_an_expert(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    """Three latent frames, so that 1.5 has to pad: V1, V3, the gradients of V6, and a reference that counts."""
    backbone = cogvideox(tmp_path, name, **config)
    side, noisy, reference = a_side(backbone, 0, 3), a_side(backbone, 9, 3).video, a_side(backbone, 1, 3)
    stock = backbone.forward(noisy, TIMESTEPS, side)
    module = Vap().attach(backbone, unwrapped).double()
    with torch.no_grad():
        assert torch.equal(module.predict(noisy, TIMESTEPS, side, ()), stock)
        shared = Vap(expert_layers="all", rope="shared").attach(backbone, unwrapped).double()
        torch.testing.assert_close(shared.predict(noisy, TIMESTEPS, side, (replace(side, video=noisy),)), stock, atol=1e-10, rtol=0)
    found = module.predict(noisy, TIMESTEPS, side, (reference,))
    assert (found - stock).abs().max() > 1e-3
    found.square().sum().backward()
    assert [name for name, parameter in module.named_parameters() if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)] == []
    assert set(Vap().release_names(backbone)) == set(module.state_dict())


def test_where_a_patch_spans_two_latent_frames_the_default_delta_counts_the_padded_ones(tmp_path: Path) -> None:
    name, config = VARIANTS["1.5"]
    backbone = cogvideox(tmp_path, name, **config)
    module, reference = VapModule(Vap(), backbone, unwrapped).double(), a_side(backbone, 1, 3)
    target, moved = module._embed(a_side(backbone, 9, 3).video, TIMESTEPS, a_side(backbone, 0, 3), (module._clean(reference, TIMESTEPS),))
    wanted = backbone.embed(reference.video, TIMESTEPS, reference, frame_offset=-4.0)
    assert target.grid[0] == moved.grid[0] == 2
    assert all(torch.equal(a, b) for a, b in zip(moved.rotary, wanted.rotary, strict=True)), "patches -2 and -1, beside the target's 0 and 1"
