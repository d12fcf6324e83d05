"""Focal Guidance (FG): in the blocks that lose sight of the text, its keywords are bound to what they look like in the first frame.

Source: arXiv 2601.07287; no code was released. The catalog says which words of a caption the first frame shows, where, and what they
look like there (encoder `keywords`). In weak blocks a keyword's text value is moved towards its picture (binding), its
picture is added to the first frame's tokens where they show it (injection), and to all tokens that responsive blocks
found to be about it (attention cache). Post-training trains these blocks' reading of text, zero-shot nothing.

    python -m train.fg --catalog C --backbone wan2.1-i2v-14b-480p --out RUN
    python -m train.fg diagnose --catalog C --backbone NAME --out DIR      which blocks are weak, see train/diagnose.py

Exercised by `pytest tests/train/test_fg.py`.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from train import focus
from train.batch import Batch, Reads, Side
from train.choices import one_of
from train.expert import with_own, zero_projection
from train.method import Backbone, Inside, PictureValues, Stream, TextValues, WrapBlock, run_block
from vapdata import backbones, tiny_text
from vapdata.errors import CallError

Mode = Literal["post_train", "zero_shot"]
Scope = Literal["preceding", "previous_step", "two_pass"]
Place = Literal["block_in", "after_cross", "block_out"]
Space = Literal["value", "output"]

WEAK: Mapping[str, tuple[int, int]] = {"wan": (11, 26), "hunyuan": (17, 32)}
"""First and last weak block of the 40 that the paper looked at in Wan2.1-I2V-14B, and of HunyuanVideo-I2V's 40 single-stream ones, from 0."""
PAPER_BLOCKS = 40
JOINT_WIDTH = 1024
"""Of HunyuanVideo's anchors: the joint space of CLIP ViT-H."""


@dataclass(frozen=True, kw_only=True)
class Fg:
    """The paper gives no strengths and thresholds: these are ours (small, since a value is added to tokens of another space)."""

    name: ClassVar[str] = "fg"
    trains_backbone: ClassVar[bool] = False
    mode: Mode = "post_train"
    """zero_shot: nothing learns, so that a run is its evaluation and can be sampled from."""
    weak_layers: tuple[int, ...] | None = None
    """Numbers of the weak blocks, as `diagnose` prints them; None for the paper's share of the backbone's blocks."""
    fsg_text: bool = True
    """Binding: a keyword's values in the text's attention get `lambda_text` times its picture's."""
    fsg_latent: bool = True
    """Injection into the tokens of latent frame 0 where they show the keyword."""
    ac: bool = True
    """Attention cache: injection into all tokens that responsive blocks found to be about the keyword."""
    lambda_text: float = 0.1
    lambda_latent: float = 0.1
    lambda_cache: float = 0.1
    region: float = 0.5
    """Injection: least share of a keyword's highest similarity at which a token shows it."""
    cache_threshold: float = 0.3
    """Attention cache: cosine above which a token is about a keyword; at 1 none is."""
    ac_scope: Scope = "preceding"
    """Which responsive blocks the cache is the mean of. The paper's is of all, those behind the weak ones too.

        preceding       those that this pass has gone through
        previous_step   all, as they were at the sampler's step before; while training, and at the first step, `preceding`
        two_pass        all, by a pass before this one, without guidance: twice the cost
    """
    inject_at: Place = "block_in"
    """Where tokens are added to: before the block, behind its cross-attention (Wan), or behind the block."""
    vis_space: Space = "value"
    """What is added to tokens: the picture's values as printed, or what the attention's output projection makes of them."""
    inject_ref: bool | None = None
    """Whether tokens of latent frame 0 are added to; None for yes, but where that frame is clean (HunyuanVideo, token_replace)."""
    caption_drop: float = 0.1
    """Share of samples that see the empty prompt, without keywords."""

    def __post_init__(self) -> None:
        for name, kind in (("mode", Mode), ("ac_scope", Scope), ("inject_at", Place), ("vis_space", Space)):
            one_of("fg", name, getattr(self, name), get_args(kind))
        if self.weak_layers is not None and (not self.weak_layers or list(self.weak_layers) != sorted({each for each in self.weak_layers if each >= 0})):
            raise CallError(f"fg: weak_layers are block numbers from 0, rising; got {self.weak_layers}. Type e.g. --set fg.weak_layers=3,4,5, or see python -m train.fg diagnose")
        for name, least, most in (("region", 0, 1), ("cache_threshold", -1, 1), ("caption_drop", 0, 1)):
            if not least <= getattr(self, name) <= most:
                raise CallError(f"fg: {name} is {least} to {most}; got {getattr(self, name):g}. Type --set fg.{name}={getattr(type(self), name):g}")

    @property
    def guides(self) -> bool:
        """Whether anything is added at all; without, this is the paper's plain post-training."""
        return self.fsg_text or self.fsg_latent or self.ac

    def reads(self, facts: backbones.Backbone) -> Reads:
        """Captions and their keywords, without guidance too: so that all variants see the same samples."""
        return Reads(text=True, keywords=True)

    def attach(self, backbone: Backbone, wrap: WrapBlock) -> nn.Module:
        """The weak blocks with a copy of their reading of text that learns; for HunyuanVideo, projections of pictures that begin at zero."""
        return FgModule(self, backbone, wrap)

    def release_names(self, backbone: Backbone) -> Mapping[str, str]:
        """None: nothing was released."""
        return {}

    def weak(self, backbone: TextValues) -> tuple[int, ...]:
        """Numbers of the weak blocks. Raises CallError for one that is not there."""
        blocks = backbone.text_blocks
        if self.weak_layers is None:
            first, last = WEAK[backbone.facts.family]
            chosen = tuple(number for place, number in enumerate(blocks) if first <= place * PAPER_BLOCKS / len(blocks) <= last)
        else:
            chosen = self.weak_layers
        wrong = [number for number in chosen if number not in blocks]
        if wrong or not chosen:
            named = f"weak_layers names block {wrong[0]}" if wrong else "the paper's share of so few blocks is none"
            there = f"{backbone.facts.name} can be guided in blocks {blocks[0]} to {blocks[-1]}"
            raise CallError(f"fg: {named}; {there}. Type e.g. --set fg.weak_layers={blocks[-1]}")
        return chosen


@dataclass(frozen=True, kw_only=True)
class Focus:
    """The keywords of a batch as weak blocks need them."""

    belongs: Bool[Tensor, "B G M"]
    """Which text rows a keyword is."""
    mask: Float[Tensor, "B G 1"]
    """1 for true keywords."""
    pictures: Float[Tensor, "B G A"]
    """What they look like: image tokens as blocks read them, or anchors as stored where blocks read no picture."""
    regions: Float[Tensor, "B G L"]
    """How much a token of latent frame 0 shows a keyword."""
    open: Float[Tensor, " L"] | None
    """0 for tokens that may not be added to; None for none."""


@dataclass
class _Cache:
    """The mean of the responsive blocks' maps, while they are gone through."""

    total: Tensor | None = None
    count: int = 0

    def add(self, maps: Float[Tensor, "B G L"]) -> None:
        self.total = maps if self.total is None else self.total + maps
        self.count += 1

    def mean(self) -> Float[Tensor, "B G L"] | None:
        """Of what was added, each with the same weight; None of nothing."""
        return None if self.total is None else self.total / self.count


Watch = Callable[[int, Float[Tensor, "B G L"]], None]
"""Told the similarity maps of the tokens that come to a block."""


class FgModule(nn.Module):
    """The weak blocks at work. `attention` holds their trained reading of text, `pictures` HunyuanVideo's projections."""

    def __init__(self, config: Fg, backbone: Backbone, wrap: WrapBlock) -> None:
        super().__init__()
        if not isinstance(backbone, TextValues) or not backbone.facts.image_to_video:
            raise CallError(f"fg: {backbone.facts.name} is no image-to-video backbone whose reading of text can be guided. Use one of Wan or HunyuanVideo: --backbone tiny-wan")
        self._embeds_pictures = isinstance(backbone, PictureValues)
        own_pictures = not self._embeds_pictures
        if own_pictures and config.guides and config.mode == "zero_shot":
            raise CallError(f"fg: {backbone.facts.name} reads no picture tokens, so its projections of them must be learned first. Type --set fg.mode=post_train")
        if own_pictures and config.inject_at == "after_cross":
            raise CallError(f"fg: {backbone.facts.name} has no cross-attention to inject behind. Type --set fg.inject_at=block_in")
        self._config, self._backbone, self._weak = config, (backbone,), config.weak(backbone)
        self._views = {number: with_own(backbone.blocks[number], backbone.text_attention) for number in self._weak} if config.mode == "post_train" else {}
        self.attention = nn.ModuleDict({str(number): view.get_submodule(backbone.text_attention) for number, view in self._views.items()})
        self.pictures = nn.ModuleDict()
        if own_pictures and config.guides:
            width = tiny_text.CLIP_XLM["embed_dim"] if backbone.facts.tiny else JOINT_WIDTH
            like = {number: backbone.blocks[number].get_submodule(f"{backbone.text_attention}.to_v") for number in self._weak}
            self.pictures.update({str(number): zero_projection(width, each) for number, each in like.items()})
        self._before: tuple[object, float, Tensor] | None = None
        self._stock = wrap(lambda block, stream: run_block(backbone, block, stream))
        self._guided = wrap(self._through_weak)
        self._seen = wrap(lambda block, stream, focus_on: self._maps(block, stream, focus_on))

    def forward(self, batch: Batch) -> Float[Tensor, " B"]:
        """The loss per sample."""
        objective = self._backbone[0].objective
        noisy = objective.noisy(batch.target.video, batch.noise, batch.timesteps)
        stream = self._through(noisy, batch.timesteps, batch.target, None)[0]
        return objective.losses(self._backbone[0].head(stream), batch.target.video, batch.noise, batch.timesteps)

    def predict(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], target: Side, references: tuple[Side, ...]) -> Float[Tensor, "B C T H W"]:
        """The prediction; references are not looked at. Without keywords bit for bit that of the backbone with the trained reading of text.

        With ac_scope=previous_step it remembers what it was last asked: the same clips at a lower timestep go on from there.
        """
        asked, at = (target.clip_ids, tuple(noisy.shape)), float(timesteps[0]) if self._remembers else 0.0
        before = self._before[2] if self._before is not None and self._before[0] == asked and at < self._before[1] else None
        stream, maps = self._through(noisy, timesteps, target, before)
        self._before = (asked, at, maps) if self._remembers and maps is not None else None
        return self._backbone[0].head(stream)

    def maps(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], target: Side) -> dict[int, Float[Tensor, "B G T h w"]]:
        """Block number -> similarity of the tokens that come to it with each keyword, for every block that can be guided. Empty without keywords."""
        found: dict[int, Tensor] = {}
        stream, _ = self._through(noisy, timesteps, target, None, found.__setitem__)
        return {number: maps.unflatten(2, stream.grid) for number, maps in found.items()}

    @property
    def _remembers(self) -> bool:
        return self._config.ac and self._config.ac_scope == "previous_step" and not self.training

    def _through(self, noisy: Tensor, timesteps: Tensor, target: Side, before: Tensor | None, watch: Watch | None = None) -> tuple[Stream, Tensor | None]:
        """The stream after the last block, and the mean of all responsive blocks' maps. Nothing trains before the first weak block: no gradient there."""
        backbone, config = self._backbone[0], self._config
        first, blocks = self._weak[0], range(len(backbone.blocks))
        cache = _Cache()
        with torch.no_grad():
            stream = backbone.embed(noisy, timesteps, target)
            focus_on = self._focus(target, stream)
            stream = self._run(blocks[:first], stream, focus_on, cache, None, watch)
            if config.ac and config.ac_scope == "two_pass" and focus_on is not None:
                all_blocks = replace(cache)
                self._run(blocks[first:], stream, focus_on, all_blocks, None, None, guided=False)
                before = all_blocks.mean()
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self._views)):
            stream = self._run(blocks[first:], stream, focus_on, cache, before, watch)
        return stream, cache.mean()

    def _run(
        self, numbers: Sequence[int], stream: Stream, focus_on: Focus | None, cache: _Cache, before: Tensor | None, watch: Watch | None, *, guided: bool = True
    ) -> Stream:
        """Blocks in order. `before`: the cache that weak blocks take instead of the one that fills here."""
        for number in numbers:
            block = self._views.get(number, self._backbone[0].blocks[number])
            weak, reads = number in self._weak, number in self._backbone[0].text_blocks
            if focus_on is not None and reads and (watch is not None or (self._config.ac and not weak)):
                maps = self._seen(block, stream, focus_on)
                if watch is not None:
                    watch(number, maps)
                if not weak:
                    cache.add(maps)
            if focus_on is None or not weak or not guided or not self._config.guides:
                stream = self._stock(block, stream)
            else:
                project = self.pictures[str(number)] if self.pictures else None
                stream = self._guided(block, project, stream, focus_on, cache.mean() if before is None else before)
        return stream

    @torch.no_grad()
    def _maps(self, block: nn.Module, stream: Stream, focus_on: Focus) -> Float[Tensor, "B G L"]:
        """Equation 10 with the keyword's own value, no picture bound to it. Where to look is not learned: no gradient."""
        values = focus.keyword_values(self._backbone[0].text_values(block, stream), focus_on.belongs)
        return focus.similarity(values, stream.video)

    def _through_weak(self, block: nn.Module, project: nn.Module | None, stream: Stream, focus_on: Focus, cached: Tensor | None) -> Stream:
        """One weak block: binding, injection, cache."""
        backbone, config = self._backbone[0], self._config
        values = (backbone.picture_values(block, focus_on.pictures) if project is None else project(focus_on.pictures)) * focus_on.mask
        bound = config.lambda_text * focus.on_rows(focus_on.belongs, values) if config.fsg_text else None
        added = self._added(values if config.vis_space == "value" else backbone.written(block, values), focus_on, cached)
        inside = Inside(text_values=bound, video=added if config.inject_at == "after_cross" else None)
        if added is not None and config.inject_at == "block_in":
            stream = replace(stream, video=stream.video + added.to(stream.video.dtype))
        stream = replace(run_block(backbone, block, replace(stream, inside=inside)), inside=None)
        if added is not None and config.inject_at == "block_out":
            stream = replace(stream, video=stream.video + added.to(stream.video.dtype))
        return stream

    def _added(self, values: Tensor, focus_on: Focus, cached: Tensor | None) -> Tensor | None:
        """What is added to the video's tokens; None where nothing may be."""
        config, weights = self._config, []
        if config.fsg_latent:
            weights.append(config.lambda_latent * focus_on.regions)
        if config.ac:
            none = torch.zeros_like(focus_on.regions)  # no responsive block came before
            weights.append(config.lambda_cache * focus.above(none if cached is None else cached, config.cache_threshold))
        if not weights:
            return None
        every = sum(weights[1:], weights[0])
        return focus.spread(every if focus_on.open is None else every * focus_on.open, values)

    def _focus(self, side: Side, stream: Stream) -> Focus | None:
        """The batch's keywords; None where there are none. Projections that learn are asked all the same, so that each process has their gradient."""
        backbone, mask = self._backbone[0], side.keyword_mask
        if mask is None or side.keyword_maps is None or side.keyword_anchors is None or side.keyword_spans is None:
            raise CallError(f"fg on {backbone.facts.name}: the batch has no keywords. Type: vapdata backfill keywords")
        maps, anchors, spans = side.keyword_maps, side.keyword_anchors, side.keyword_spans
        if not mask.shape[1]:
            if not self.pictures:
                return None
            maps, anchors, spans, mask = (each.new_zeros(len(mask), 1, *each.shape[2:]) for each in (maps, anchors, spans, mask))
        rows = backbone.caption_tokens(stream)[0].shape[1]
        frame = stream.grid[1] * stream.grid[2]
        closed = backbone.facts.condition == "token_replace" if self._config.inject_ref is None else not self._config.inject_ref
        return Focus(
            belongs=focus.rows_of(spans, mask, rows),
            mask=mask[..., None].to(stream.video.dtype),
            pictures=backbone.embed_pictures(anchors) if self._embeds_pictures else anchors.to(stream.video.dtype),
            regions=focus.regions(maps, stream.grid, self._config.region),
            open=(torch.arange(stream.video.shape[1], device=maps.device) >= frame).to(maps.dtype) if closed else None,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["diagnose"]:
        from train.diagnose import command

        command(sys.argv[2:], prog_name="python -m train.fg diagnose")
    else:
        from train.launch import main

        main("fg")
