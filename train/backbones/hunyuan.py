"""HunyuanVideo-I2V: diffusers' own transformer, opened up for methods, in both its ways of taking a first frame.

token_replace: the frame's latent stands in for noisy latent frame 0. It is clean, so its tokens are modulated by a time
vector of their own, that of timestep 0, and it is not predicted: frame 0 counts for nothing in the loss. latent_concat:
the frame's latent, zeros behind it, and a mask stand beside the noisy latents along the channels.

Attention runs over [video ; text], text last, its padding masked. Dual blocks have projections and a feed-forward for
either; in single blocks, behind them, both share one, and the feed-forward runs beside attention. Run with
`train.method.run_block` over all blocks, embed and head give the stock forward bit for bit.
Exercised by `pytest tests/train/backbones/test_hunyuan.py`.

Shapes: B batch, C channels, T latent frames, H W latent rows and columns, L video tokens, M text rows, D width, h heads,
d head dim, S = L + M with the video first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from train import rotary
from train.backbones.stored import check_config, stored
from train.batch import Reads, Side
from train.method import AttentionInputs, Objective, Stream
from train.objective import FLOW_STEPS, Flow, objective_from
from vapdata import backbones
from vapdata.errors import CallError

GUIDANCE = 1.0
"""The guidance scale that distilled weights are told, as diffusers' I2V pipeline by default."""


@dataclass(frozen=True, kw_only=True)
class GivenFirst(Flow):
    """Flow whose latent frame 0 is given, not predicted: token_replace."""

    def losses(
        self, prediction: Float[Tensor, "B C T H W"], clean: Float[Tensor, "B C T H W"], noise: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Mean squared error over latent frames 1 and later. Raises CallError when there are none."""
        if clean.shape[2] < 2:
            raise CallError("hunyuan: a clip of one latent frame, and that is given (token_replace), so there is nothing to predict. Train on a product of 5 frames or more.")
        return super().losses(prediction[:, :, 1:], clean[:, :, 1:], noise[:, :, 1:], timesteps)


class Hunyuan:
    """One loaded HunyuanVideo-I2V; see `train.method.Backbone`, which it satisfies."""

    entry: tuple[str, ...] = ("x_embedder", "context_embedder", "time_text_embed")
    context_entry: tuple[str, ...] = ()
    text_attention = "attn"
    text_first = False

    def __init__(self, facts: backbones.Backbone, transformer: nn.Module, scheduler_config: Mapping[str, Any]) -> None:
        """Wraps `transformer`, freezes it and puts it into eval mode. Raises CallError when it is not what `facts` say."""
        self.facts = facts
        self.transformer = transformer.requires_grad_(False).eval()
        self.scheduler_config = dict(scheduler_config)
        self.config: Any = transformer.config
        self._replaces = facts.condition == "token_replace"
        objective = objective_from(scheduler_config)
        self.objective: Objective = GivenFirst() if self._replaces and isinstance(objective, Flow) else objective
        channels = facts.vae.latent_channels
        wanted = {
            "image_condition_type": facts.condition,
            "in_channels": channels if self._replaces else 2 * channels + 1,
            "out_channels": channels,
            "text_embed_dim": facts.text.width,
            "patch_size_t": facts.patch_frames,
        }
        check_config(facts, self.config, wanted)

    @classmethod
    def load(cls, facts: backbones.Backbone, *, dtype: torch.dtype, device: torch.device, folder: str | None = None) -> "Hunyuan":
        """From this machine, see `train.backbones.stored`."""
        transformer, config = stored("HunyuanVideoTransformer3DModel", facts, dtype=dtype, device=device, folder=folder)
        return cls(facts, transformer, config)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks in order: dual ones, then single ones."""
        return (*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks)

    def block_name(self, number: int) -> str:
        """The name of a block in the transformer."""
        dual = len(self.transformer.transformer_blocks)
        return f"transformer_blocks.{number}" if number < dual else f"single_transformer_blocks.{number - dual}"

    def projections(self, block: nn.Module) -> tuple[str, ...]:
        """The linear layers of its attention. A single block's output projection is its feed-forward's too."""
        if _is_single(block):
            return "attn.to_q", "attn.to_k", "attn.to_v", "proj_out"
        return "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"

    def after_keys(self, block: nn.Module) -> tuple[str, ...]:
        """The queries' projections and norms, the feed-forward beside or after attention, and the output's projections."""
        if _is_single(block):
            return "attn.to_q", "attn.norm_q", "proj_mlp", "proj_out"
        queries = ("attn.to_q", "attn.norm_q", "attn.add_q_proj", "attn.norm_added_q")
        return (*queries, "attn.to_out", "attn.to_add_out", "norm2", "ff", "norm2_context", "ff_context")

    def reads(self) -> Reads:
        """LLaVA's rows for first frame and caption, CLIP-L's pooled vector of the caption, and the first frame's latent."""
        return self.needs(self.facts)

    @staticmethod
    def needs(facts: backbones.Backbone) -> Reads:
        """`reads`, with nothing loaded."""
        return Reads(text=True, pooled=True, condition=True)

    def model_input(self, noisy: Float[Tensor, "B C T H W"], side: Side) -> Float[Tensor, "B c T H W"]:
        """`hidden_states`: the first frame's latent in place of frame 0, or beside the noisy latents with a mask behind."""
        if side.condition is None:
            raise CallError(f"{self.facts.name}: the batch has no image-condition latents. Type: vapdata backfill vae_condition")
        given = side.condition[:, :, :1]
        if self._replaces:
            return torch.cat([given.to(noisy.dtype), noisy[:, :, 1:]], dim=2)
        image, mask = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
        image[:, :, :1], mask[:, :, :1] = given, 1
        return torch.cat([noisy, image, mask], dim=1)

    def forward(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], side: Side) -> Float[Tensor, "B C T H W"]:
        """The stock prediction, by the transformer's own forward."""
        dtype = self.transformer.x_embedder.proj.weight.dtype
        text, mask, pooled = self._texts(side, dtype)
        predicted: Tensor = self.transformer(
            hidden_states=self.model_input(noisy, side).to(dtype),
            timestep=timesteps,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            pooled_projections=pooled,
            guidance=self._guidance(timesteps),
            return_dict=False,
        )[0]
        return predicted

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
        """Tokens, refined text, time vectors, rotary positions and mask; see `train.method.Backbone.embed`.

        `time` is (B, 1, D), for token_replace (B, 2, D): the second is that of frame 0. There is no position table. What
        goes in takes the dtype of the entry modules' weights.
        """
        modules = {name: self.transformer.get_submodule(name) for name in self.entry} | dict(entry or {})
        dtype = modules["x_embedder"].proj.weight.dtype
        states = self.model_input(noisy, side).to(dtype)
        text, text_mask, pooled = self._texts(side, dtype)
        vector, replaced = modules["time_text_embed"](timesteps, pooled, self._guidance(timesteps))
        size = self.config.patch_size
        grid = (states.shape[2] // self.config.patch_size_t, states.shape[3] // size, states.shape[4] // size)
        video = modules["x_embedder"](states)
        return Stream(
            video=video,
            text=modules["context_embedder"](text, timesteps, text_mask),
            time=torch.stack([vector] if replaced is None else [vector, replaced], dim=1),
            rotary=self._rotary(grid, states.device, frame_offset, width_offset),
            grid=grid,
            mask=torch.cat([text_mask.new_ones(video.shape[:2]), text_mask], dim=1),
        )

    def attention_inputs(self, block: nn.Module, stream: Stream) -> AttentionInputs:
        """[video ; text] after norm and modulation, projection, query and key norms, and rotary positions on the video part."""
        made, carry = self._single_inputs(block, stream) if _is_single(block) else self._dual_inputs(block, stream)
        query, key, value, unturned = (each.transpose(1, 2) for each in made)
        video_rows = slice(stream.video.shape[1])
        if stream.inside is not None and stream.inside.text_values is not None:
            text = value[:, :, video_rows.stop :]
            added = stream.inside.text_values.to(value.dtype).unflatten(2, (text.shape[1], -1)).transpose(1, 2)
            value = torch.cat([value[:, :, video_rows], text + added], dim=2)
        return AttentionInputs(query=query, key=key, value=value, unturned=unturned, video_rows=video_rows, carry=carry, mask=stream.mask)

    def attention_output(
        self, block: nn.Module, stream: Stream, attended: Float[Tensor, "B h S d"], carry: tuple[Tensor, ...], *, added: Float[Tensor, "B rows D"] | None = None
    ) -> Stream:
        """The block's rest, and its residuals.

        Dual, video and text apart: output projection, gate, norm, modulation, feed-forward, gate. Single: the
        feed-forward's hidden rows beside the attended ones, one projection of both, one gate.
        """
        states = attended.transpose(1, 2).flatten(2)
        output = self._single_output if _is_single(block) else self._dual_output
        return output(block, stream, states, carry, added)

    def caption_tokens(self, stream: Stream) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"] | None]:
        """The text that walks along, refined, and which of its rows are true."""
        return _rows(stream), None if stream.mask is None else stream.mask[:, stream.video.shape[1] :]

    @property
    def text_blocks(self) -> range:
        """The single ones, in which text and video share their projections."""
        return range(len(self.transformer.transformer_blocks), len(self.blocks))

    def text_values(self, block: nn.Module, stream: Stream) -> Float[Tensor, "B M D"]:
        """Of a single block's attention, after norm and modulation; see `train.method.TextValues`."""
        text = _rows(stream)
        # No row of the text is of frame 0, which alone has a time vector of its own.
        modulation = (stream.time[:, 0], stream.time[:, 1], 0) if self._replaces else (stream.time[:, 0],)
        values: Tensor = block.attn.to_v(block.norm(text, *modulation)[0])
        return values

    def written(self, block: nn.Module, values: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
        """By the part of a single block's output projection that reads attention, without its bias."""
        return torch.nn.functional.linear(values, block.proj_out.weight[:, : values.shape[2]].to(values.dtype))

    def head(self, stream: Stream) -> Float[Tensor, "B C T H W"]:
        """norm_out by the time vector, proj_out, and patches put back."""
        model, size, deep = self.transformer, self.config.patch_size, self.config.patch_size_t
        patches = model.proj_out(model.norm_out(stream.video, stream.time[:, 0]))
        # Patches hold (channel, frame, row, column).
        patches = patches.unflatten(1, stream.grid).unflatten(-1, (-1, deep, size, size))
        return patches.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def finished(self, latents: Float[Tensor, "B C T H W"], side: Side) -> Float[Tensor, "B C T H W"]:
        """token_replace: the first frame's own latent as frame 0, as the pipeline ends."""
        return torch.cat([side.condition[:, :, :1].to(latents), latents[:, :, 1:]], dim=2) if self._replaces and side.condition is not None else latents

    def _dual_inputs(self, block: nn.Module, stream: Stream) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Query, key, value and unturned query (B S h d); gates, shifts and scales."""
        attn = block.attn
        video, *carry = self._normed(block.norm1, stream.video, stream)
        text, *text_carry = block.norm1_context(_rows(stream), emb=stream.time[:, 0])
        query, key, value = (project(video).unflatten(2, (attn.heads, -1)) for project in (attn.to_q, attn.to_k, attn.to_v))
        added = (project(text).unflatten(2, (attn.heads, -1)) for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
        text_query, text_key, text_value = added
        unturned, key, text_query = attn.norm_q(query), attn.norm_k(key), attn.norm_added_q(text_query)
        query, key = (_turned(each, stream.rotary, video.shape[1]) for each in (unturned, key))
        joined = ((query, text_query), (key, attn.norm_added_k(text_key)), (value, text_value), (unturned, text_query))
        return [torch.cat(pair, dim=1) for pair in joined], (*carry, *text_carry)

    def _dual_output(self, block: nn.Module, stream: Stream, states: Tensor, carry: tuple[Tensor, ...], added: Tensor | None) -> Stream:
        *modulation, text_gate, text_shift, text_scale, text_feed_gate = carry
        # Each for later frames, then for frame 0.
        gate, shift, scale, feed_gate = zip(modulation[:4], modulation[4:] or modulation[:4], strict=True)
        tokens = stream.video.shape[1]
        attended, text = states[:, :tokens], _rows(stream)
        for layer in block.attn.to_out:
            attended = layer(attended)
        text_attended = block.attn.to_add_out(states[:, tokens:])
        if added is not None:
            attended = attended + added[:, :tokens].to(attended.dtype)
            text_attended = text_attended + added[:, tokens:].to(attended.dtype) if added.shape[1] > tokens else text_attended
        video = stream.video + self._by_frame(stream, attended, lambda rows, which: rows * gate[which][:, None])
        text = text + text_attended * text_gate[:, None]
        fed = block.ff(self._by_frame(stream, block.norm2(video), lambda rows, which: rows * (1 + scale[which][:, None]) + shift[which][:, None]))
        text_fed = block.ff_context(block.norm2_context(text) * (1 + text_scale[:, None]) + text_shift[:, None])
        video = video + self._by_frame(stream, fed, lambda rows, which: rows * feed_gate[which][:, None])
        return replace(stream, video=video, text=text + text_feed_gate[:, None] * text_fed)

    def _single_inputs(self, block: nn.Module, stream: Stream) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Query, key, value and unturned query (B S h d); the normed rows, which the feed-forward reads too, and gates."""
        attn = block.attn
        normed, *gates = self._normed(block.norm, torch.cat([stream.video, _rows(stream)], dim=1), stream)
        query, key, value = (project(normed).unflatten(2, (attn.heads, -1)) for project in (attn.to_q, attn.to_k, attn.to_v))
        unturned = attn.norm_q(query)
        query, key = (_turned(each, stream.rotary, stream.video.shape[1]) for each in (unturned, attn.norm_k(key)))
        return [query, key, value, unturned], (normed, *gates)

    def _single_output(self, block: nn.Module, stream: Stream, states: Tensor, carry: tuple[Tensor, ...], added: Tensor | None) -> Stream:
        tokens = stream.video.shape[1]
        normed, *gates = carry
        made = block.proj_out(torch.cat([states, block.act_mlp(block.proj_mlp(normed))], dim=2))
        if added is not None:
            rows = added.shape[1]
            made = torch.cat([made[:, :rows] + added.to(made.dtype), made[:, rows:]], dim=1)
        made = self._by_frame(stream, made, lambda rows, which: rows * gates[which][:, None])
        joined = made + torch.cat([stream.video, _rows(stream)], dim=1)
        return replace(stream, video=joined[:, :tokens], text=joined[:, tokens:])

    def _normed(self, norm: nn.Module, states: Tensor, stream: Stream) -> tuple[Tensor, ...]:
        """Rows after a norm that knows of time, and the rest of what it makes of it: of frame 0's last, where that has its own."""
        if not self._replaces:
            made: tuple[Tensor, ...] = norm(states, emb=stream.time[:, 0])
        else:
            made = norm(states, stream.time[:, 0], stream.time[:, 1], _given_tokens(stream))
        return made

    def _by_frame(self, stream: Stream, states: Tensor, change: Callable[[Tensor, int], Tensor]) -> Tensor:
        """`change(rows, 0)` of all rows, or, where frame 0 is given, `change(rows, 1)` of those of its tokens."""
        if not self._replaces:
            return change(states, 0)
        tokens = _given_tokens(stream)
        return torch.cat([change(states[:, :tokens], 1), change(states[:, tokens:], 0)], dim=1)

    def _texts(self, side: Side, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Caption rows, which of them are true, and the pooled vector."""
        name = self.facts.name
        if side.text is None or side.text_mask is None:
            raise CallError(f"{name}: the batch has no caption embeddings with their lengths. Type: vapdata backfill llava")
        if side.pooled is None:
            raise CallError(f"{name}: the batch has no pooled caption embeddings. Type: vapdata backfill clip_text")
        return side.text.to(dtype), side.text_mask, side.pooled.to(dtype)

    def _guidance(self, timesteps: Tensor) -> Tensor | None:
        return torch.full_like(timesteps, GUIDANCE * FLOW_STEPS) if self.config.guidance_embeds else None

    def _rotary(self, grid: tuple[int, int, int], device: torch.device, frame_offset: float, width_offset: float) -> tuple[Tensor, Tensor]:
        """HunyuanVideoRotaryPosEmbed's table for this grid, moved by the offsets."""
        shares = tuple(self.config.rope_axes_dim)
        positions = rotary.counted(grid, patch_frames=self.config.patch_size_t, device=device).moved(latent_frames=frame_offset, patches=width_offset)
        return rotary.table(positions, sum(shares), shares=shares, theta=self.config.rope_theta)


def _is_single(block: nn.Module) -> bool:
    return hasattr(block, "proj_mlp")


def _given_tokens(stream: Stream) -> int:
    """Tokens of frame 0 among the stream's own, which may be a part of all."""
    before = stream.part.first if stream.part else 0
    return min(max(0, stream.grid[1] * stream.grid[2] - before), stream.video.shape[1])


def _rows(stream: Stream) -> Tensor:
    """The text that walks along."""
    if stream.text is None:
        raise CallError("hunyuan: a stream without text. Make it with embed().")
    return stream.text


def _turned(states: Float[Tensor, "B S h d"], table: tuple[Tensor, Tensor] | None, tokens: int) -> Float[Tensor, "B S h d"]:
    """Rotary positions on the video part, the first `tokens` rows; text has none."""
    from diffusers.models.embeddings import apply_rotary_emb

    if table is None:
        return states
    turned = apply_rotary_emb(states[:, :tokens], table, sequence_dim=1)
    return turned if states.shape[1] == tokens else torch.cat([turned, states[:, tokens:]], dim=1)
