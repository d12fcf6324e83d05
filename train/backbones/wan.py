"""Wan2.1 T2V 1.3B and 14B, and I2V 14B: diffusers' own transformer, opened up for methods.

Text does not walk along with the video: every block reads it by cross-attention, for I2V behind the 257 tokens of an image
encoder, [image ; text]. Blocks find where text begins by counting 512 rows from the end, without a check, so another
number of rows would be split in the wrong place: it is refused here. Modulation, norms and residuals are computed in
float32 whatever the dtype, as upstream; so a float64 model agrees with another computation to 1e-5, not to 1e-12. Run
with `train.method.run_block` over all blocks, embed and head give the stock forward bit for bit.
Exercised by `pytest tests/train/backbones/test_wan.py`.

Shapes: B batch, C channels, T latent frames, H W latent rows and columns, L video tokens, D width, h heads, d head dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from train import rotary
from train.backbones.stored import check_config, stored
from train.batch import Reads, Side
from train.method import AttentionInputs, Inside, Objective, Stream, attention
from train.objective import objective_from
from vapdata import backbones
from vapdata.errors import CallError

TEXT_ROWS = 512
"""What WanAttnProcessor counts from the end of the context; padding rows are zeros and are attended to."""
IMAGE_ROWS = 257
"""Tokens of CLIP ViT-H/14 at 224 pixels: 16 x 16 patches and CLS."""
MASK_CHANNELS = 4
"""Pixel frames that a latent frame spans: the mask says of each whether it is given."""
MODULATION = 6
"""Shift, scale and gate of self-attention and of the feed-forward, in that order."""


class Wan:
    """One loaded Wan2.1; see `train.method.Backbone`, which it satisfies."""

    entry: tuple[str, ...] = ("patch_embedding", "condition_embedder")
    text_attention = "attn2"
    text_first = False

    def __init__(self, facts: backbones.Backbone, transformer: nn.Module, scheduler_config: Mapping[str, Any]) -> None:
        """Wraps `transformer`, freezes it and puts it into eval mode. Raises CallError when it is not what `facts` say."""
        self.facts = facts
        self.transformer = transformer.requires_grad_(False).eval()
        self.scheduler_config = dict(scheduler_config)
        self.objective: Objective = objective_from(scheduler_config)
        self.config: Any = transformer.config
        self.context_entry: tuple[str, ...] = ("condition_embedder.text_embedder",)
        if facts.image_to_video:
            self.context_entry += ("condition_embedder.image_embedder",)
        channels = facts.vae.latent_channels
        wanted = {
            "in_channels": 2 * channels + MASK_CHANNELS if facts.image_to_video else channels,
            "out_channels": channels,
            "text_dim": facts.text.width,
            "pos_embed_seq_len": None,  # first-and-last-frame models alone have one
        }
        check_config(facts, self.config, wanted)
        if (self.config.image_dim is not None) != facts.image_to_video:
            check_config(facts, self.config, {"image_dim": "that of CLIP ViT-H/14" if facts.image_to_video else None})

    @classmethod
    def load(cls, facts: backbones.Backbone, *, dtype: torch.dtype, device: torch.device, folder: str | None = None) -> "Wan":
        """From this machine, see `train.backbones.stored`. Time embedding, modulation and norms stay float32, as diffusers loads them."""
        transformer, config = stored("WanTransformer3DModel", facts, dtype=dtype, device=device, folder=folder)
        return cls(facts, transformer, config)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks in order."""
        return tuple(self.transformer.blocks)

    def block_name(self, number: int) -> str:
        """The name of a block in the transformer."""
        return f"blocks.{number}"

    def projections(self, block: nn.Module) -> tuple[str, ...]:
        """The linear layers of its self-attention."""
        return "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"

    def after_keys(self, block: nn.Module) -> tuple[str, ...]:
        """The query's projection and norm, and all that comes after self-attention, cross-attention included."""
        return "attn1.to_q", "attn1.norm_q", "attn1.to_out", "attn2", "norm2", "ffn", "norm3"

    def reads(self) -> Reads:
        """The caption; for image-to-video the condition latent and the image encoder's tokens too."""
        return self.needs(self.facts)

    @staticmethod
    def needs(facts: backbones.Backbone) -> Reads:
        """`reads`, with nothing loaded."""
        return Reads(text=True, condition=facts.image_to_video, image_tokens="wan" if facts.image_to_video else None)

    def model_input(self, noisy: Float[Tensor, "B C T H W"], side: Side) -> Float[Tensor, "B c T H W"]:
        """`hidden_states`: for image-to-video [noisy ; mask ; condition] along the channels.

        The mask is 1 for what is given, the four pixel frames of latent frame 0: diffusers repeats pixel frame 0, so that
        latent frame 0 has four like the others.
        """
        if not self.facts.image_to_video:
            return noisy
        if side.condition is None:
            raise CallError(f"{self.facts.name}: the batch has no image-condition latents. Type: vapdata backfill vae_condition")
        if side.condition.shape != noisy.shape:
            got, wanted = ("x".join(map(str, each.shape[2:])) for each in (side.condition, noisy))
            raise CallError(f"{self.facts.name}: image-condition latents of {got} (frames, rows, columns) beside noisy ones of {wanted}. Read both from products of one grid.")
        mask = torch.zeros_like(side.condition[:, :MASK_CHANNELS])
        mask[:, :, 0] = 1
        return torch.cat([noisy, mask, side.condition], dim=1)

    def forward(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], side: Side) -> Float[Tensor, "B C T H W"]:
        """The stock prediction, by the transformer's own forward."""
        dtype = self.transformer.patch_embedding.weight.dtype
        text, image = self._context(side, dtype)
        predicted: Tensor = self.transformer(
            hidden_states=self.model_input(noisy, side).to(dtype), timestep=timesteps, encoder_hidden_states=text, encoder_hidden_states_image=image, return_dict=False
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
        """Tokens, context, time vectors and rotary positions; see `train.method.Backbone.embed`.

        `time` is (B, 7, D): the six that blocks are modulated by, then the one for the head. There is no position table.
        What goes in takes the dtype of the entry modules' weights.
        """
        modules = {name: self.transformer.get_submodule(name) for name in self.entry} | dict(entry or {})
        patch_embedding = modules["patch_embedding"]
        dtype = patch_embedding.weight.dtype
        text, image = self._context(side, dtype)
        patches = patch_embedding(self.model_input(noisy, side).to(dtype))
        vector, modulation, text, image = modules["condition_embedder"](timesteps, text, image)
        grid = tuple(patches.shape[2:])
        return Stream(
            video=patches.flatten(2).transpose(1, 2).contiguous(),
            text=None,
            context=text if image is None else torch.cat([image, text], dim=1),
            time=torch.cat([modulation.unflatten(1, (MODULATION, -1)), vector[:, None]], dim=1),
            rotary=self._rotary(grid, patches.device, frame_offset, width_offset),
            grid=grid,
        )

    def attention_inputs(self, block: nn.Module, stream: Stream) -> AttentionInputs:
        """Video tokens after norm1 and modulation, projection, query and key norms over all heads, and rotary positions."""
        shift, scale, *carry = (block.scale_shift_table + stream.time[:, :MODULATION].float()).chunk(MODULATION, dim=1)
        states = (block.norm1(stream.video.float()) * (1 + scale) + shift).type_as(stream.video)
        attn = block.attn1
        made = (_normed(attn.norm_q, attn.to_q(states)), _normed(attn.norm_k, attn.to_k(states)), attn.to_v(states))
        unturned, key, value = (each.unflatten(2, (attn.heads, -1)) for each in made)
        query = unturned
        if stream.rotary is not None:
            query, key = _turned(query, stream.rotary), _turned(key, stream.rotary)
        rows = {"query": query, "key": key, "value": value, "unturned": unturned}
        return AttentionInputs(**{name: each.transpose(1, 2) for name, each in rows.items()}, video_rows=slice(None), normed=states, carry=tuple(carry))

    def attention_output(
        self, block: nn.Module, stream: Stream, attended: Float[Tensor, "B h S d"], carry: tuple[Tensor, ...], *, added: Float[Tensor, "B rows D"] | None = None
    ) -> Stream:
        """Output projection and gated residual, cross-attention to the context and its residual, feed-forward and gated residual."""
        gate, feed_shift, feed_scale, feed_gate = carry
        states = attended.transpose(1, 2).flatten(2)
        for layer in block.attn1.to_out:
            states = layer(states)
        if added is not None:
            states = states + added.to(states.dtype)
        video = (stream.video.float() + states * gate).type_as(stream.video)
        inside = stream.inside or Inside()
        video = video + self._cross_attended(block.attn2, block.norm2(video.float()).type_as(video), stream.context, inside.text_values)
        if inside.video is not None:
            video = video + inside.video.to(video.dtype)
        states = block.ffn((block.norm3(video.float()) * (1 + feed_scale) + feed_shift).type_as(video))
        return replace(stream, video=(video.float() + states.float() * feed_gate).type_as(video))

    def caption_tokens(self, stream: Stream) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"] | None]:
        """The context's text rows, all of which are attended to; image tokens are left out."""
        return _given(stream.context)[:, -TEXT_ROWS:], None

    @property
    def text_blocks(self) -> range:
        """All of them."""
        return range(len(self.blocks))

    def text_values(self, block: nn.Module, stream: Stream) -> Float[Tensor, "B M D"]:
        """Of cross-attention; see `train.method.TextValues`."""
        values: Tensor = block.attn2.to_v(_given(stream.context)[:, -TEXT_ROWS:])
        return values

    def written(self, block: nn.Module, values: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
        """By cross-attention's output projection without its bias."""
        return torch.nn.functional.linear(values, block.attn2.to_out[0].weight.to(values.dtype))

    def embed_pictures(self, tokens: Float[Tensor, "B K I"]) -> Float[Tensor, "B K D"]:
        """Tokens of the image encoder as cross-attention reads them. Raises CallError for text-to-video, which reads none."""
        embedder = self.transformer.condition_embedder.image_embedder
        if embedder is None:
            raise CallError(f"{self.facts.name}: text-to-video reads no image tokens. Use an image-to-video backbone, e.g. --backbone wan2.1-i2v-14b-480p")
        embedded: Tensor = embedder(tokens.to(self.transformer.patch_embedding.weight.dtype))
        return embedded

    def picture_values(self, block: nn.Module, tokens: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
        """Of cross-attention's image branch."""
        values: Tensor = block.attn2.add_v_proj(tokens)
        return values

    def head(self, stream: Stream) -> Float[Tensor, "B C T H W"]:
        """norm_out modulated by the time vector, proj_out, and patches put back."""
        model, size = self.transformer, self.config.patch_size
        shift, scale = (model.scale_shift_table + stream.time[:, MODULATION:]).chunk(2, dim=1)
        states = (model.norm_out(stream.video.float()) * (1 + scale) + shift).type_as(stream.video)
        # Patches hold (frame, row, column, channel).
        patches = model.proj_out(states).unflatten(1, stream.grid).unflatten(-1, (*size, -1))
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def finished(self, latents: Float[Tensor, "B C T H W"], side: Side) -> Float[Tensor, "B C T H W"]:
        """The same latents: all of them are predicted."""
        return latents

    def _cross_attended(self, attn: nn.Module, states: Tensor, context: Tensor | None, added: Tensor | None) -> Tensor:
        """What video tokens read of text, plus what they read of the image, each with its own keys: WanAttnProcessor, written out.

        `added` is added to the text's values.
        """
        context = _given(context)
        query, text = _normed(attn.norm_q, attn.to_q(states)), context[:, -TEXT_ROWS:]
        value = attn.to_v(text)
        if added is not None:
            value = value + added.to(value.dtype)
        read = _attended(attn, query, _normed(attn.norm_k, attn.to_k(text)), value)
        if attn.add_k_proj is not None:
            image = context[:, :-TEXT_ROWS]
            read = read + _attended(attn, query, _normed(attn.norm_added_k, attn.add_k_proj(image)), attn.add_v_proj(image))
        for layer in attn.to_out:
            read = layer(read)
        return read

    def _context(self, side: Side, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Caption rows and, for image-to-video, image tokens, as many as blocks count on. Raises CallError for others."""
        name = self.facts.name
        if side.text is None:
            raise CallError(f"{name}: the batch has no caption embeddings. Type: vapdata backfill umt5")
        if side.text.shape[1] != TEXT_ROWS:
            raise CallError(f"{name}: caption embeddings have {side.text.shape[1]} rows, cross-attention counts on {TEXT_ROWS}. Pad them with zeros, as train.data does.")
        if not self.facts.image_to_video:
            return side.text.to(dtype), None
        if side.image_tokens is None:
            raise CallError(f"{name}: the batch has no image tokens. Type: vapdata backfill image_tokens")
        if side.image_tokens.shape[1:] != (IMAGE_ROWS, self.config.image_dim):
            got = "x".join(map(str, side.image_tokens.shape[1:]))
            raise CallError(f"{name}: image tokens are {got}, wanted {IMAGE_ROWS}x{self.config.image_dim}, those of the tower wan. Type: vapdata backfill image_tokens")
        return side.text.to(dtype), side.image_tokens.to(dtype)

    def _rotary(self, grid: tuple[int, int, int], device: torch.device, frame_offset: float, width_offset: float) -> tuple[Tensor, Tensor]:
        """WanRotaryPosEmbed's table for this grid, moved by the offsets; its own can be asked for whole positions from 0 alone."""
        head_dim = self.config.attention_head_dim
        side = 2 * (head_dim // 6)
        positions = rotary.counted(grid, patch_frames=self.config.patch_size[0], device=device).moved(latent_frames=frame_offset, patches=width_offset)
        return rotary.table(positions, head_dim, shares=(head_dim - 2 * side, side, side), computed_in=torch.float64)


def _given(context: Tensor | None) -> Tensor:
    """What cross-attention reads."""
    if context is None:
        raise CallError("wan: a stream without context. Make it with embed().")
    return context


def _normed(norm: nn.Module, states: Tensor) -> Tensor:
    """A norm over all heads, its weight in the rows' dtype: torch has no fused kernel for bf16 rows and a float32 weight."""
    return torch.nn.functional.rms_norm(states, norm.normalized_shape, norm.weight.to(states.dtype), norm.eps)


def _attended(attn: nn.Module, *rows: Tensor) -> Float[Tensor, "B L D"]:
    """Attention of query rows over key and value rows, by heads."""
    return attention(*(each.unflatten(2, (attn.heads, -1)).transpose(1, 2) for each in rows)).transpose(1, 2).flatten(2)


def _turned(states: Float[Tensor, "B L h d"], table: tuple[Tensor, Tensor]) -> Float[Tensor, "B L h d"]:
    """Rotary positions, neighbouring dimensions in pairs, as WanAttnProcessor computes them."""
    cos, sin = (each[:, None, ::2] for each in table)
    first, second = states.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).type_as(states)
