"""Frame-wise Conditioning Adaptation (FCA): initial frames and text of each frame's own, read beside a frozen CogVideoX.

In every block a second attention stands beside the frozen one. Its keys are the caption, the initial frame as the frozen
model itself sees it (an extra pass without adapters, nothing stored), and text that a small module made of the caption
and the first frame for each latent frame; a token sees the text of its own frame alone. No code was released: where
the paper is silent, the choice and its reason stand at the setting.
`python -m train.fca --catalog C --backbone cogvideox-2b --out RUN`; exercised by `pytest tests/train/test_fca.py
tests/train/test_fca_maths.py`.

Source: "Frame-wise Conditioning Adaptation for Fine-Tuning Diffusion Models in Text-to-Video Prediction" (2025).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from train.batch import Batch, Reads, Side
from train.choices import one_of
from train.expert import corrections, low_rank_view, zero_linear
from train.frame_text import FrameNorm, FrameText, Refinement, Sizes, blip2_widths
from train.method import AttentionInputs, Backbone, Stream, WrapBlock, attention, run_block
from train.objective import normal, seed_of
from train.parallel_attention import ParallelAttention, frame_mask
from vapdata import backbones
from vapdata.errors import CallError

FineTuning = Literal["fca", "lora"]
FrameTexts = Literal["none", "uniform", "uniform_refine", "layerwise"]
PreNorm = Literal["adaln", "ln", "none"]
Inject = Literal["kv", "controlnet_dup", "controlnet_zero"]
TextRows = Literal["y_only", "all"]
InitialText = Literal["same", "empty"]
InitialNorm = Literal["block", "none"]
Begin = Literal["random", "copied"]

INITIAL_NOISE = "initial frame noise"
"""What tells the noise of the initial frame from the clip's."""


@dataclass(frozen=True, kw_only=True)
class Fca:
    """Trains attentions beside the frozen ones, and what makes text of each frame's own. The defaults are the paper's."""

    name: ClassVar[str] = "fca"
    trains_backbone: ClassVar[bool] = False
    ft: FineTuning = "fca"
    """lora: the paper's baseline. The initial frame's latent stands in front of the clip's tokens, and rank-`rank` corrections of the attention learn."""
    ftc: FrameTexts = "layerwise"
    """Text of each frame's own.

        none            the second attention reads caption and initial frame alone
        uniform         one module makes it for all blocks
        uniform_refine  the same, and each block refines it by a layer of its own (ours: the paper gives no form)
        layerwise       every block has a module of its own
    """
    ftc_layers: int = 1
    """Layers of each module."""
    ftc_width: int = 768
    """Width within; 768 is BERT's, 1920 CogVideoX-2B's own. The paper says neither."""
    ftc_tokens_per_frame: int | None = None
    """Rows of text for each latent frame; None for as many as a caption has (226: 904 queries for 4 frames)."""
    latent_frames: int = 4
    """Latent frames of a clip: 4 for the paper's 16 frames."""
    frame_mask: bool = True
    """A token sees the text of its own frame alone."""
    text_rows: TextRows = "y_only"
    """Under the mask the caption's own rows see no frame's text, for they would carry it to every frame in the next block; all: they see every frame's."""
    prenorm: PreNorm = "adaln"
    """Normalisation of the frames' text before the attention reads it: by the timestep, plain, or none."""
    scale_init: float = 0.1
    """What the second attention's output is multiplied by, at first."""
    scale_learnable: bool = True
    zero_init_out: bool = False
    """Begin with an output projection of zeros, so that step 0 is the frozen model (ours: at 0.1 the paper's is not)."""
    attention_init: Begin = "random"
    """copied: begin with the frozen attention's own weights."""
    n_init: Literal[1, 2] = 1
    """Initial frames: 1 for BridgeData and Epic-Kitchens, 2 for Something-Something. Either makes one latent frame."""
    init_inject: Inject = "kv"
    """Where the initial frame comes in: among the second attention's keys, or, as in ControlNet, added to the stream through a
    layer of zeros after each block: to every frame (dup) or to the first alone (zero)."""
    xinit_text: InitialText = "same"
    """The caption of the pass that sees the initial frame: the clip's, or the empty one."""
    xinit_norm: InitialNorm = "block"
    """block: the initial frame's rows go through the block's frozen norm, into the space of the rows that ask."""
    rank: int = 64
    """lora: rank of each correction."""
    caption_drop: float = 0.0
    """Share of samples that see the empty prompt: the paper drops none."""

    def __post_init__(self) -> None:
        for field, kind in _WORDS.items():
            one_of("fca", field, getattr(self, field), get_args(kind))
        for field, least in (("ftc_layers", 1), ("ftc_width", 1), ("latent_frames", 1), ("rank", 1)):
            if getattr(self, field) < least:
                raise CallError(f"fca: {field} is {least} or more; got {getattr(self, field)}. Type --set fca.{field}={type(self).__dataclass_fields__[field].default}")
        if self.ftc_tokens_per_frame is not None and self.ftc_tokens_per_frame < 1:
            raise CallError(f"fca: ftc_tokens_per_frame is 1 or more; got {self.ftc_tokens_per_frame}. Type --set fca.ftc_tokens_per_frame=none for as many as a caption has")
        if self.n_init not in (1, 2):
            raise CallError(f"fca: n_init is 1 or 2 initial frames; got {self.n_init}. Type --set fca.n_init=1")
        if self.ft == "lora" and (self.ftc != "none" or self.init_inject != "kv"):
            raise CallError(f"fca: ft=lora has no second attention for ftc={self.ftc} and init_inject={self.init_inject}. Type --set fca.ftc=none before --set fca.ft=lora")
        if self.scale_init == 0 and not self.scale_learnable:
            raise CallError("fca: scale_init=0 that does not learn never adds anything. Type --set fca.scale_learnable=true, or --set fca.scale_init=0.1")
        if self.scale_init == 0 and self.zero_init_out:
            raise CallError("fca: scale_init=0 with zero_init_out gives neither of them a gradient. Type --set fca.scale_init=0.1")
        if not 0 <= self.caption_drop <= 1:
            raise CallError(f"fca: caption_drop is a share, 0 to 1; got {self.caption_drop:g}. Type --set fca.caption_drop=0")

    def reads(self, facts: backbones.Backbone) -> Reads:
        """The caption and the initial frames' latent; for frames' text the caption's words and the first frame's ViT tokens.

        On an image-to-video backbone the initial frames' latent is its image condition too.
        """
        told = self.ftc != "none"
        return Reads(text=True, first=self.n_init, image_tokens="blip2" if told else None, words=told, empty=self.xinit_text == "empty")

    def attach(self, backbone: Backbone, wrap: WrapBlock) -> nn.Module:
        """The module. Raises CallError for a backbone that is no CogVideoX with one latent frame a patch."""
        facts = backbone.facts
        if facts.family != "cogvideox" or facts.patch_frames != 1:
            why = "joins two latent frames in a patch" if facts.family == "cogvideox" else f"is of the family {facts.family}"
            raise CallError(f"fca: made for CogVideoX-2B and 5B; {facts.name} {why}. Type --backbone cogvideox-2b")
        return LowRankModule(self, backbone, wrap) if self.ft == "lora" else FcaModule(self, backbone, wrap)

    def release_names(self, backbone: Backbone) -> Mapping[str, str]:
        """None: no weights were released."""
        return {}

    def sizes(self, backbone: Backbone) -> Sizes:
        """Of the modules that make frames' text."""
        facts = backbone.facts
        words, image = blip2_widths(facts.tiny)
        per_frame = self.ftc_tokens_per_frame or facts.text.rows
        out = backbone.blocks[0].attn1.to_q.in_features
        return Sizes(frames=self.latent_frames, per_frame=per_frame, width=self.ftc_width, words=words, image=image, out=out, layers=self.ftc_layers)


class BlockAdapter(nn.Module):
    """What is learned beside one block."""

    def __init__(self, config: Fca, backbone: Backbone, block: nn.Module, sizes: Sizes) -> None:
        super().__init__()
        device = block.attn1.to_q.weight.device
        self.attention = ParallelAttention(
            block.attn1, copied=config.attention_init == "copied", zero_out=config.zero_init_out, scale=config.scale_init, scale_learns=config.scale_learnable
        )
        if config.ftc == "layerwise":
            self.frame_text = FrameText(sizes, device)
        if config.ftc == "uniform_refine":
            self.refine = Refinement(sizes.out, device)
        if config.ftc != "none" and config.prenorm != "none":
            time = block.norm1.linear.in_features
            self.prenorm = FrameNorm(sizes.out, time, adaptive=config.prenorm == "adaln", device=device)
        if config.init_inject != "kv":
            self.inject = zero_linear(block.attn1.to_out[0])

    def frames(self, told: "_Told", time: Float[Tensor, "B E"]) -> Float[Tensor, "B F n D"] | None:
        """The frames' text as this block's attention reads it."""
        made = told.shared
        if hasattr(self, "frame_text"):
            made = self.frame_text(told.words, told.words_mask, told.image)
        elif hasattr(self, "refine"):
            made = self.refine(made)
        return self.prenorm(made, time) if hasattr(self, "prenorm") else made


@dataclass(frozen=True)
class _Told:
    """What frames' text is made of, and that which all blocks share."""

    words: Tensor | None
    words_mask: Tensor | None
    image: Tensor | None
    shared: Tensor | None


@dataclass(frozen=True)
class Initial:
    """The initial frame before one block, as the frozen model without adapters makes it."""

    hidden: Float[Tensor, "B N D"]
    normed: Float[Tensor, "B N D"]
    """After the block's norm and modulation, by the pass's own time vector."""
    rotary: tuple[Tensor, Tensor] | None


class FcaModule(nn.Module):
    """The adapters at work. Its parameters are the method's alone; the backbone is held unregistered."""

    def __init__(self, config: Fca, backbone: Backbone, wrap: WrapBlock) -> None:
        super().__init__()
        self._config, self._backbone, sizes = config, (backbone,), config.sizes(backbone)
        self._sizes = sizes
        self.blocks = nn.ModuleDict({str(number): BlockAdapter(config, backbone, block, sizes) for number, block in enumerate(backbone.blocks)})
        if config.ftc in ("uniform", "uniform_refine"):
            self.frame_text = FrameText(sizes, backbone.blocks[0].attn1.to_q.weight.device)
        self._adapted, self._initial = wrap(self._block), wrap(self._before)

    def forward(self, batch: Batch) -> Float[Tensor, " B"]:
        """The loss per sample."""
        objective = self._backbone[0].objective
        noisy = objective.noisy(batch.target.video, batch.noise, batch.timesteps)
        return objective.losses(self._predict(noisy, batch.timesteps, batch.target, batch.seeds), batch.target.video, batch.noise, batch.timesteps)

    def predict(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], target: Side, references: tuple[Side, ...]) -> Float[Tensor, "B C T H W"]:
        """The prediction; references are not looked at. The initial frame's noise follows from the clip, so that it is the same at every step of sampling."""
        return self._predict(noisy, timesteps, target, [seed_of(0, 0, 0, clip) for clip in target.clip_ids])

    @torch.no_grad()
    def initial(self, target: Side, seeds: Sequence[int]) -> Iterator[Initial]:
        """The initial frame before each block: its latent at the first noise level, through the frozen blocks, one after another."""
        backbone, config = self._backbone[0], self._config
        noisy, timesteps = first_level(backbone, target, seeds)
        side = replace(target, text=_given(target.empty, "the empty prompt")) if config.xinit_text == "empty" else target
        stream = backbone.embed(noisy, timesteps, side)
        for number, block in enumerate(backbone.blocks):
            initial, stream = self._initial(block, stream, number + 1 == len(backbone.blocks))
            yield initial

    def _predict(self, noisy: Tensor, timesteps: Tensor, target: Side, seeds: Sequence[int]) -> Tensor:
        backbone, config = self._backbone[0], self._config
        stream = backbone.embed(noisy, timesteps, target)
        if config.ftc != "none" and stream.grid[0] != config.latent_frames:
            raise CallError(f"fca: frames' text is made for {config.latent_frames} latent frames, these clips have {stream.grid[0]}. Type --set fca.latent_frames={stream.grid[0]}")
        told, mask = self._told(target), self._mask(stream)
        for block, adapter, initial in zip(backbone.blocks, self.blocks.values(), self.initial(target, seeds), strict=True):
            stream = self._adapted(block, adapter, stream, initial, told, mask)
        return backbone.head(stream)

    def _before(self, block: nn.Module, stream: Stream, is_last: bool) -> tuple[Initial, Stream]:
        """The initial frame before a block, and its stream behind it: nobody asks what the last block makes of it."""
        inputs = self._backbone[0].attention_inputs(block, stream)
        initial = Initial(stream.video, _normed(inputs)[:, inputs.video_rows], stream.rotary)
        if is_last:
            return initial, stream
        attended = attention(inputs.query, inputs.key, inputs.value, inputs.mask)
        return initial, self._backbone[0].attention_output(block, stream, attended, inputs.carry)

    def _block(self, block: nn.Module, adapter: BlockAdapter, stream: Stream, initial: Initial, told: _Told, mask: Tensor | None) -> Stream:
        """One frozen block with what its adapter adds."""
        backbone, config, kv = self._backbone[0], self._config, self._config.init_inject == "kv"
        inputs = backbone.attention_inputs(block, stream)
        attended = attention(inputs.query, inputs.key, inputs.value, inputs.mask)
        seen = (initial.normed if config.xinit_norm == "block" else initial.hidden) if kv else None
        frames = adapter.frames(told, stream.time)
        added = adapter.attention(_normed(inputs), _text(stream).shape[1], stream.rotary, seen, initial.rotary, frames, mask)
        after = backbone.attention_output(block, stream, attended, inputs.carry, added=added)
        return after if kv else replace(after, video=after.video + self._injected(adapter, initial, stream).to(after.video))

    def _injected(self, adapter: BlockAdapter, initial: Initial, stream: Stream) -> Tensor:
        """The initial frame's rows through the layer of zeros: for every frame, or for the first with nothing behind."""
        made = adapter.inject(initial.hidden)
        rest = made if self._config.init_inject == "controlnet_dup" else torch.zeros_like(made)
        return torch.cat([made, *[rest] * (stream.grid[0] - 1)], dim=1)

    def _told(self, target: Side) -> _Told:
        if self._config.ftc == "none":
            return _Told(None, None, None, None)
        words, mask, image = _given(target.words, "word embeddings"), _given(target.words_mask, "word embeddings"), _given(target.image_tokens, "image tokens")
        shared = self.frame_text(words, mask, image) if hasattr(self, "frame_text") else None
        return _Told(words, mask, image, shared)

    def _mask(self, stream: Stream) -> Tensor | None:
        config = self._config
        if config.ftc == "none" or not config.frame_mask:
            return None
        initial = stream.grid[1] * stream.grid[2] if config.init_inject == "kv" else 0
        sees = config.text_rows == "all"
        return frame_mask(text=_text(stream).shape[1], grid=stream.grid, initial=initial, per_frame=self._sizes.per_frame, text_sees_frames=sees, device=stream.video.device)


class LowRankModule(nn.Module):
    """The LoRA baseline: the initial frame's latent, clean, in front of the clip's tokens, one latent frame earlier."""

    def __init__(self, config: Fca, backbone: Backbone, wrap: WrapBlock) -> None:
        super().__init__()
        self._backbone = (backbone,)
        self._views = [low_rank_view(block, backbone.projections(block), config.rank, number) for number, block in enumerate(backbone.blocks)]
        self.lora = nn.ModuleDict({str(number): corrections(view) for number, view in enumerate(self._views)})
        self._block = wrap(lambda view, stream: run_block(backbone, view, stream))

    def forward(self, batch: Batch) -> Float[Tensor, " B"]:
        """The loss per sample, of the clip's own frames."""
        objective = self._backbone[0].objective
        noisy = objective.noisy(batch.target.video, batch.noise, batch.timesteps)
        return objective.losses(self.predict(noisy, batch.timesteps, batch.target, ()), batch.target.video, batch.noise, batch.timesteps)

    def predict(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], target: Side, references: tuple[Side, ...]) -> Float[Tensor, "B C T H W"]:
        """The prediction for the clip's own frames."""
        backbone = self._backbone[0]
        clip = backbone.embed(noisy, timesteps, target)
        before = backbone.embed(_first(target), timesteps, target, frame_offset=-1.0)
        count = before.video.shape[1]
        tables = None if clip.rotary is None or before.rotary is None else tuple(torch.cat(pair) for pair in zip(before.rotary, clip.rotary, strict=True))
        stream = replace(clip, video=torch.cat([before.video, clip.video], dim=1), rotary=tables, grid=(clip.grid[0] + 1, *clip.grid[1:]))
        for view in self._views:
            stream = self._block(view, stream)
        return backbone.head(replace(stream, video=stream.video[:, count:], grid=clip.grid))


def first_level(backbone: Backbone, target: Side, seeds: Sequence[int]) -> tuple[Float[Tensor, "B C 1 H W"], Float[Tensor, " B"]]:
    """The initial frames' latent at timestep 0, the first of the schedule's levels ("one step of noise"), and that timestep."""
    clean = _first(target)
    noise = torch.stack([normal(seed, tuple(clean.shape[1:]), INITIAL_NOISE) for seed in seeds]).to(clean)
    timesteps = torch.zeros(len(seeds), device=clean.device)
    return backbone.objective.noisy(clean, noise, timesteps), timesteps


def _first(target: Side) -> Tensor:
    return _given(target.first, "the initial frames' latent")


def _given(value: Tensor | None, what: str) -> Tensor:
    if value is None:
        raise CallError(f"fca: the batch has no {what}. Make a batch with what Fca.reads names: train.data.Loader does")
    return value


def _normed(inputs: AttentionInputs) -> Tensor:
    return _given(inputs.normed, "normed rows")


def _text(stream: Stream) -> Tensor:
    return _given(stream.text, "text in its stream")


_WORDS = {
    "ft": FineTuning,
    "ftc": FrameTexts,
    "text_rows": TextRows,
    "prenorm": PreNorm,
    "attention_init": Begin,
    "init_inject": Inject,
    "xinit_text": InitialText,
    "xinit_norm": InitialNorm,
}


if __name__ == "__main__":
    from train.launch import main

    main("fca")
