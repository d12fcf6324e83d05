"""CogVideoX 2B, 5B, 5B-I2V, 1.5 and 1.5-I2V: diffusers' own transformer, opened up for methods.

What differs between them is read from the transformer's config: 2B adds a fixed sine table to its tokens and has no
rotary positions; 5B has rotary positions; 5B-I2V has those and a learned table, for 480 x 720 x 13 alone; 1.5 joins two
latent frames in a patch; 1.5-I2V is also told a constant `ofs`. Run with `train.method.run_block` over all blocks, embed
and head give the stock forward bit for bit. Exercised by `pytest tests/train/backbones/test_cogvideox.py`.

One thing of the I2V training cannot be had from stored latents: the official trainer adds noise of deviation
exp(N(-3, 0.5)) to the first frame's pixels before the VAE, anew at every step (and drops the image altogether for 5 in
100 samples). Here a stored latent is used, that of the clean frame by default; a frozen backbone has the augmentation
behind it. `VaeFirst(noised=K)` stores K latents of noised frames per clip, of which `draws.noised_first=K` takes one per step.

Shapes: B batch, C channels, T latent frames, H W latent rows and columns, L video tokens, M text rows, D width, h heads,
d head dim, S = M + L with the text first.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from train import rotary
from train.backbones.stored import check_config, stored
from train.batch import Reads, Side
from train.method import AttentionInputs, Objective, Stream
from train.objective import objective_from
from vapdata import backbones
from vapdata.errors import CallError

OFS = 2.0
"""What diffusers' 1.5-I2V pipeline passes as `ofs`, whatever the clip."""


class CogVideoX:
    """One loaded CogVideoX; see `train.method.Backbone`, which it satisfies."""

    context_entry: tuple[str, ...] = ()
    text_first = True

    def __init__(self, facts: backbones.Backbone, transformer: nn.Module, scheduler_config: Mapping[str, Any]) -> None:
        """Wraps `transformer`, freezes it and puts it into eval mode. Raises CallError when it is not what `facts` say."""
        self.facts = facts
        self.transformer = transformer.requires_grad_(False).eval()
        self.scheduler_config = dict(scheduler_config)
        self.objective: Objective = objective_from(scheduler_config)
        self.config: Any = transformer.config
        self.entry: tuple[str, ...] = ("patch_embed", "time_embedding")
        if self.config.ofs_embed_dim:
            self.entry += ("ofs_embedding",)
        channels = facts.vae.latent_channels
        wanted = {
            "in_channels": channels * (2 if facts.image_to_video else 1),
            "out_channels": channels,
            "text_embed_dim": facts.text.width,
            "patch_size_t": facts.patch_frames if facts.patch_frames > 1 else None,
        }
        check_config(facts, self.config, wanted)

    @classmethod
    def load(cls, facts: backbones.Backbone, *, dtype: torch.dtype, device: torch.device, folder: str | None = None) -> "CogVideoX":
        """From this machine, see `train.backbones.stored`."""
        whole = facts.name == "cogvideox-2b"
        transformer, config = stored("CogVideoXTransformer3DModel", facts, dtype=dtype, device=device, folder=folder, whole=whole)
        return cls(facts, transformer, config)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks in order."""
        return tuple(self.transformer.transformer_blocks)

    def block_name(self, number: int) -> str:
        """The name of a block in the transformer."""
        return f"transformer_blocks.{number}"

    def projections(self, block: nn.Module) -> tuple[str, ...]:
        """The linear layers of its attention."""
        return "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"

    def after_keys(self, block: nn.Module) -> tuple[str, ...]:
        """The query's projection and norm, and all that comes after attention."""
        return "attn1.to_q", "attn1.norm_q", "attn1.to_out", "norm2", "ff"

    def reads(self) -> Reads:
        """The caption; for image-to-video the first frame's latent too."""
        return self.needs(self.facts)

    @staticmethod
    def needs(facts: backbones.Backbone) -> Reads:
        """`reads`, with nothing loaded."""
        return Reads(text=True, first=int(facts.image_to_video))

    def model_input(self, noisy: Float[Tensor, "B C T H W"], side: Side) -> Float[Tensor, "B t c H W"]:
        """`hidden_states`: frames before channels; for image-to-video the first frame's latent, then zeros, in channels behind.

        Where a patch spans more frames than there are, copies of latent frame 0 come in front, and the image's latent
        stands beside the first of them, as in diffusers' pipeline. A loader that pads clean latents by itself
        (`facts.patch_frames`) gives the copies noise of their own, as the official trainer does.
        """
        frames = noisy.permute(0, 2, 1, 3, 4)
        if extra := self._pad_frames(noisy):
            frames = torch.cat([frames[:, :1].expand(-1, extra, -1, -1, -1), frames], dim=1)
        if not self.facts.image_to_video:
            return frames
        if side.first is None:
            raise CallError(f"{self.facts.name}: the batch has no first-frame latents. Type: vapdata backfill vae_first")
        image = torch.zeros_like(frames)
        image[:, :1] = side.first.permute(0, 2, 1, 3, 4)
        return torch.cat([frames, image], dim=2)

    def forward(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], side: Side) -> Float[Tensor, "B C T H W"]:
        """The stock prediction, by the transformer's own forward."""
        dtype = self.transformer.patch_embed.text_proj.weight.dtype
        states = self.model_input(noisy, side).to(dtype)
        predicted = self.transformer(
            hidden_states=states,
            encoder_hidden_states=self._text(side).to(dtype),
            timestep=timesteps,
            ofs=self._ofs(states),
            image_rotary_emb=self._rotary(self._grid(states), states.device),
            return_dict=False,
        )[0]
        return predicted[:, self._pad_frames(noisy) :].permute(0, 2, 1, 3, 4)

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
        """Tokens, text, time vector and rotary positions; see `train.method.Backbone.embed`.

        Offsets move rotary positions alone; a position table, where there is one, stays as it is or is left out. What
        goes in takes the dtype of the entry modules' weights.
        """
        modules = {name: self.transformer.get_submodule(name) for name in self.entry} | dict(entry or {})
        patch_embed = modules["patch_embed"] if absolute_positions else _without_table(modules["patch_embed"])
        dtype = patch_embed.text_proj.weight.dtype
        states, text = self.model_input(noisy, side).to(dtype), self._text(side).to(dtype)
        tokens = self.transformer.embedding_dropout(patch_embed(text, states))
        grid = self._grid(states)
        return Stream(
            video=tokens[:, text.shape[1] :],
            text=tokens[:, : text.shape[1]],
            time=self._time(timesteps, states, modules),
            rotary=self._rotary(grid, states.device, frame_offset, width_offset),
            grid=grid,
            pad_frames=self._pad_frames(noisy),
        )

    def attention_inputs(self, block: nn.Module, stream: Stream) -> AttentionInputs:
        """[text ; video] after norm1, projection, query and key norms, and rotary positions on the video part."""
        video, text, gate, text_gate = block.norm1(stream.video, stream.text, stream.time)
        attn, states = block.attn1, torch.cat([text, video], dim=1)
        query, key, value = (heads_apart(project(states), attn.heads) for project in (attn.to_q, attn.to_k, attn.to_v))
        if attn.norm_q is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
        unturned, rows = query, text.shape[1]
        if stream.rotary is not None:
            query, key = (turned(each, stream.rotary, rows) for each in (query, key))
        return AttentionInputs(query=query, key=key, value=value, unturned=unturned, video_rows=slice(rows, None), normed=states, carry=(gate, text_gate))

    def attention_output(
        self, block: nn.Module, stream: Stream, attended: Float[Tensor, "B h S d"], carry: tuple[Tensor, ...], *, added: Float[Tensor, "B rows D"] | None = None
    ) -> Stream:
        """Output projection, gated residual, norm2, feed-forward over [text ; video], gated residual."""
        gate, text_gate = carry
        rows = stream.text.shape[1]
        states = attended.transpose(1, 2).flatten(2)
        for layer in block.attn1.to_out:
            states = layer(states)
        if added is not None and added.shape[1] == states.shape[1]:
            states = states + added.to(states.dtype)
        elif added is not None:
            states = torch.cat([states[:, :rows], states[:, rows:] + added.to(states.dtype)], dim=1)
        video, text = stream.video + gate * states[:, rows:], stream.text + text_gate * states[:, :rows]
        normed_video, normed_text, gate, text_gate = block.norm2(video, text, stream.time)
        states = block.ff(torch.cat([normed_text, normed_video], dim=1))
        return replace(stream, video=video + gate * states[:, rows:], text=text + text_gate * states[:, :rows])

    def caption_tokens(self, stream: Stream) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"] | None]:
        """The text that walks along; its padding is attended to."""
        if stream.text is None:
            raise CallError(f"{self.facts.name}: a stream without text. Make it with embed().")
        return stream.text, None

    def head(self, stream: Stream) -> Float[Tensor, "B C T H W"]:
        """norm_final, norm_out by the time vector, proj_out, and patches put back; padding frames taken off."""
        model, size, deep = self.transformer, self.config.patch_size, self.config.patch_size_t or 1
        patches = model.proj_out(model.norm_out(model.norm_final(stream.video), temb=stream.time))
        # Patches hold (channel, frame, row, column), 1.0's without the frame.
        patches = patches.unflatten(1, stream.grid).unflatten(-1, (-1, deep, size, size))
        latents = patches.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return latents[:, :, stream.pad_frames :]

    def finished(self, latents: Float[Tensor, "B C T H W"], side: Side) -> Float[Tensor, "B C T H W"]:
        """The same latents: all of them are predicted."""
        return latents

    def _time(self, timesteps: Tensor, states: Tensor, modules: Mapping[str, nn.Module]) -> Tensor:
        """The time vector, with `ofs` in it where the backbone takes one."""
        vector = modules["time_embedding"](self.transformer.time_proj(timesteps).to(states.dtype))
        ofs = self._ofs(states)
        if ofs is None:
            return vector
        return vector + modules["ofs_embedding"](self.transformer.ofs_proj(ofs).to(states.dtype))

    def _ofs(self, states: Tensor) -> Tensor | None:
        return states.new_full((1,), OFS) if self.config.ofs_embed_dim else None

    def _text(self, side: Side) -> Tensor:
        if side.text is None:
            raise CallError(f"{self.facts.name}: the batch has no caption embeddings. Type: vapdata backfill t5")
        return side.text

    def _pad_frames(self, noisy: Tensor) -> int:
        return -noisy.shape[2] % (self.config.patch_size_t or 1)

    def _grid(self, states: Tensor) -> tuple[int, int, int]:
        """Patches along time, height and width."""
        size = self.config.patch_size
        return states.shape[1] // (self.config.patch_size_t or 1), states.shape[3] // size, states.shape[4] // size

    def _rotary(
        self, grid: tuple[int, int, int], device: torch.device, frame_offset: float = 0.0, width_offset: float = 0.0
    ) -> tuple[Tensor, Tensor] | None:
        """The pipeline's rotary table for this grid, moved by the offsets; None for 2B."""
        config = self.config
        if not config.use_rotary_positional_embeddings:
            return None
        if config.patch_size_t is None:
            base = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
            positions = rotary.cropped(grid, base, device=device)
        else:
            positions = rotary.counted(grid, patch_frames=config.patch_size_t, device=device)
        return rotary.table(positions.moved(latent_frames=frame_offset, patches=width_offset), config.attention_head_dim)


def _without_table(patch_embed: nn.Module) -> nn.Module:
    """A view of the same weights that adds no position table."""
    view = copy.copy(patch_embed)
    view.use_positional_embeddings = view.use_learned_positional_embeddings = False
    return view


def heads_apart(states: Float[Tensor, "B S D"], count: int) -> Float[Tensor, "B h S d"]:
    """Rows with their heads apart."""
    return states.unflatten(-1, (count, -1)).transpose(1, 2)


def turned(states: Float[Tensor, "B h S d"], table: tuple[Tensor, Tensor], text_rows: int) -> Float[Tensor, "B h S d"]:
    """Rotary positions on the video part; text has none."""
    from diffusers.models.embeddings import apply_rotary_emb

    return torch.cat([states[:, :, :text_rows], apply_rotary_emb(states[:, :, text_rows:], table)], dim=2)
