"""The shapes that the loop knows: a control method, the module it makes, a backbone, and an objective. Protocols, not base classes.

A method file holds a frozen dataclass (its configuration), modules and a loss; it never sees an optimiser, a
device id or a path. A backbone file wraps diffusers' own class so that a method finds blocks, token streams and
attention inputs under the same names in each family. Exercised by `pytest tests/train`.

Shapes: B batch, C T H W latents, L video tokens, M text tokens, D width, h heads, d head dim.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from train.batch import Batch, Reads, Side
from vapdata import backbones

WrapBlock = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What the loop does to a method's per-block function: activation checkpointing, torch.compile, or nothing.

Where weights are split over processes, the modules that the function is given as arguments are put together for its call,
and let go after it. So large modules of a method's own belong among the arguments; small ones may be closed over.
"""


def unwrapped(block: Callable[..., Any]) -> Callable[..., Any]:
    """The `WrapBlock` that does nothing."""
    return block


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What is added inside of one block to what it computes: Wan and HunyuanVideo do so."""

    text_values: Float[Tensor, "B M D"] | None = None
    """Added to the values of the text's rows where the video reads them; queries and keys stay as they are."""
    video: Float[Tensor, "B L D"] | None = None
    """Wan: added to the video's tokens between cross-attention and feed-forward."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which of a stream's rows a process holds, where several share them (train/sequence.py)."""

    first: int
    """Place of its first video token among all."""
    video: int
    """Video tokens of all processes together."""
    text: int
    """Text rows of all processes together."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One token sequence on its way through the blocks: target or reference."""

    video: Float[Tensor, "B L D"]
    text: Float[Tensor, "B M D"] | None
    """CogVideoX, HunyuanVideo: the text tokens that walk along. None for Wan."""
    context: Float[Tensor, "B K D"] | None = None
    """Wan: what cross-attention reads, [image tokens ; 512 text rows]. None elsewhere."""
    time: Float[Tensor, "B ..."]
    """The time vector that modulation reads, as the family's blocks take it."""
    rotary: tuple[Tensor, Tensor] | None
    """cos and sin for the video tokens; None where the backbone has no rotary positions (CogVideoX-2B)."""
    grid: tuple[int, int, int]
    """Patches along time, height and width: L is their product."""
    mask: Bool[Tensor, "B S"] | None = None
    """HunyuanVideo: True for rows that may be attended to, all video and the true text. None where every row may."""
    pad_frames: int = 0
    """Latent frames that `embed` put in front so that patches fit, and that `head` takes off again (CogVideoX 1.5)."""
    inside: Inside | None = None
    """What the blocks that this stream goes through are to add; None for nothing."""
    part: Part | None = None
    """Which rows these are; None where one process holds all of them. `grid` and `mask` are the whole stream's."""


@dataclass(frozen=True, kw_only=True)
class AttentionInputs:
    """What one block's self-attention is given, after projection, query/key norms and rotary positions; heads apart."""

    query: Float[Tensor, "B h S d"]
    key: Float[Tensor, "B h S d"]
    value: Float[Tensor, "B h S d"]
    """S = M + L where text walks along (in the family's own order), else L."""
    unturned: Float[Tensor, "B h S d"] | None
    """The query before rotary positions; `query` itself where there are none. None where several processes share the rows (train/sequence.py)."""
    video_rows: slice
    """Which of the S rows are the video's."""
    normed: Float[Tensor, "B S D"] | None = None
    """The rows that were projected, after norm and modulation; None for HunyuanVideo, which projects video and text apart, and where processes share them."""
    carry: tuple[Tensor, ...]
    """Gates and the like that `attention_output` needs again."""
    mask: Bool[Tensor, "B S"] | None = None
    """The stream's: True for keys that may be attended to. None for all."""


@runtime_checkable
class Objective(Protocol):
    """What a backbone was trained to predict, and from what. Read from its scheduler's config."""

    def timesteps(self, seeds: Sequence[int]) -> Float[Tensor, " B"]:
        """One draw per seed, in the units the transformer takes (0..999 or 1000 * sigma)."""
        ...

    def grid(self, count: int) -> Float[Tensor, " count"]:
        """`count` fixed timesteps, the mid-points of equal parts of the range, for the evaluation grid."""
        ...

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noised latents."""
        ...

    def losses(self, prediction: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Float[Tensor, " B"]:
        """Per sample: mean squared error against the objective's target, in float32."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A loaded video transformer, frozen unless `train.full` says otherwise, with uniform access to its insides.

    Block functions take the block's module, so that a method may hand in a copy of it (an expert) instead.
    """

    facts: backbones.Backbone
    transformer: nn.Module
    """diffusers' own class, unforked."""
    objective: Objective
    scheduler_config: Mapping[str, Any]
    entry: tuple[str, ...]
    """Names of the submodules that `embed` uses, e.g. ("patch_embed", "time_embedding")."""
    text_first: bool
    """Whether text that walks along comes before the video in attention (CogVideoX) or behind it (HunyuanVideo)."""
    context_entry: tuple[str, ...]
    """Names of the submodules within `entry` that make `Stream.context`, which only what follows attention reads; empty where there is none."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks in order."""
        ...

    def block_name(self, number: int) -> str:
        """The name of a block in the transformer, e.g. "transformer_blocks.3"."""
        ...

    def projections(self, block: nn.Module) -> tuple[str, ...]:
        """Names of the linear layers of a block's self-attention, the output's last, e.g. "attn1.to_q"."""
        ...

    def after_keys(self, block: nn.Module) -> tuple[str, ...]:
        """Names of the modules in a block that its keys and values do without: they shape its output and nothing else."""
        ...

    def reads(self) -> Reads:
        """What the backbone itself needs of every clip."""
        ...

    def model_input(self, noisy: Float[Tensor, "B C T H W"], side: Side) -> Tensor:
        """The transformer's `hidden_states`: noisy latents in the family's layout, with the image condition where it takes one."""
        ...

    def forward(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], side: Side) -> Float[Tensor, "B C T H W"]:
        """The stock prediction, by the transformer's own forward."""
        ...

    def embed(
        self,
        noisy: Float[Tensor, "B C T H W"],
        timesteps: Float[Tensor, " B"],
        side: Side,
        *,
        frame_offset: float = 0.0,
        width_offset: float = 0.0,
        absolute_positions: bool = True,
        entry: Mapping[str, nn.Module] | None = None,
    ) -> Stream:
        """Tokens, text, time vector and rotary positions.

        `frame_offset` is added to the temporal positions, in latent frames, `width_offset` to the horizontal ones, in
        patches. Without `absolute_positions` no position table is added to the tokens, where the backbone has one
        (CogVideoX-2B, CogVideoX-5B-I2V). `entry` replaces the transformer's own entry modules, by name.
        """
        ...

    def attention_inputs(self, block: nn.Module, stream: Stream) -> AttentionInputs:
        """What the block's self-attention is given for this stream."""
        ...

    def attention_output(
        self, block: nn.Module, stream: Stream, attended: Float[Tensor, "B h S d"], carry: tuple[Tensor, ...], *, added: Float[Tensor, "B rows D"] | None = None
    ) -> Stream:
        """The stream after the block: output projection, gates, residual, cross-attention where there is one, feed-forward.

        `added` is added to what the output projection makes of the video's L rows, or of all S, before the gate.
        """
        ...

    def caption_tokens(self, stream: Stream) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"] | None]:
        """The caption as an embedded stream holds it, as wide as the blocks, and which rows may be attended to (None for all)."""
        ...

    def head(self, stream: Stream) -> Float[Tensor, "B C T H W"]:
        """The prediction from the last block's stream."""
        ...

    def finished(self, latents: Float[Tensor, "B C T H W"], side: Side) -> Float[Tensor, "B C T H W"]:
        """Sampled latents, with what is given of them, and was not predicted, in its place."""
        ...


@runtime_checkable
class TextValues(Protocol):
    """A backbone of which more can be asked: what its blocks read of the text, and to add to that (`Inside`). Wan, HunyuanVideo."""

    facts: backbones.Backbone
    text_attention: str
    """Name of the module within such a block by which the video reads text."""

    @property
    def text_blocks(self) -> range:
        """Numbers of the blocks that can be asked."""
        ...

    def text_values(self, block: nn.Module, stream: Stream) -> Float[Tensor, "B M D"]:
        """The values of the text's rows in this block, heads side by side, with nothing added."""
        ...

    def written(self, block: nn.Module, values: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
        """What values become by the attention's output projection, its bias left out: so they reach the video's tokens."""
        ...


@runtime_checkable
class PictureValues(TextValues, Protocol):
    """One whose blocks read a picture's tokens too, by projections of their own: Wan, image-to-video."""

    def embed_pictures(self, tokens: Float[Tensor, "B K I"]) -> Float[Tensor, "B K D"]:
        """Tokens of the image encoder as blocks read them."""
        ...

    def picture_values(self, block: nn.Module, tokens: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
        """The values of embedded picture tokens in this block, heads side by side."""
        ...


@runtime_checkable
class MethodModule(Protocol):
    """A method at work: an nn.Module whose parameters are the method's own, and nothing else's. It holds the backbone unregistered."""

    def forward(self, batch: Batch) -> Float[Tensor, " B"]:
        """The loss per sample, unweighted."""
        ...

    def predict(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], target: Side, references: tuple[Side, ...]) -> Float[Tensor, "B C T H W"]:
        """The prediction for the target, as sampling asks for it. `target.video` is not looked at."""
        ...


@runtime_checkable
class Method(Protocol):
    """A control method's configuration."""

    name: ClassVar[str]
    trains_backbone: ClassVar[bool]
    """True when it trains the backbone's own weights: then the backbone is what is exported."""
    caption_drop: float
    """Share of samples whose captions, on both sides, become the empty prompt."""

    def reads(self, facts: backbones.Backbone) -> Reads:
        """What it wants of every clip, the backbone's own needs left out."""
        ...

    def attach(self, backbone: Backbone, wrap: WrapBlock) -> nn.Module:
        """The module, a `MethodModule`, with float32 parameters on the backbone's device; parameters that get no gradient are frozen."""
        ...

    def release_names(self, backbone: Backbone) -> Mapping[str, str]:
        """Our parameter name -> the name in the authors' released weights; empty where there are none."""
        ...


@runtime_checkable
class Guided(Protocol):
    """A method module whose pictures, too, guidance may withhold from its negative branch."""

    negative_prompt: Literal["empty", "negative"]
    """The prompt of the negative branch; for modules that do not say it is the negative one."""

    def branches(self, negative: Side, positive: Side) -> tuple[Side, Side]:
        """Both sides as the module is to be asked."""
        ...


def attention(
    query: Float[Tensor, "B h S d"], key: Float[Tensor, "B h K d"], value: Float[Tensor, "B h K d"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B h S d"]:
    """Softmax attention over the keys that `mask` leaves, scaled by 1/sqrt(d): torch's own kernel, as diffusers calls it."""
    allowed = None if mask is None else mask[:, None, None, :]
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=0.0, is_causal=False)


def run_block(backbone: Backbone, block: nn.Module, stream: Stream) -> Stream:
    """One stock block, by way of the uniform access."""
    inputs = backbone.attention_inputs(block, stream)
    return backbone.attention_output(block, stream, attention(inputs.query, inputs.key, inputs.value, inputs.mask), inputs.carry)
