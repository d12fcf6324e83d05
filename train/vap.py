"""Video-As-Prompt (VAP): a reference video is the prompt, read by a trained copy of blocks beside the frozen backbone.

Source: "Video-As-Prompt: Unified Semantic Control for Video Generation" (ICLR 2026) and bytedance/Video-As-Prompt.
Every stream is projected by its own weights (the target's are frozen, the references' are the expert's) and all
tokens meet in one attention per expert block; elsewhere the references wait and the target runs the stock block.
Where paper and released code differ we follow the code, and each such place says so.
`python -m train.vap --catalog C --backbone cogvideox-5b-i2v --out RUN`; exercised by `pytest tests/train/test_vap.py
tests/train/test_vap_maths.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from train.batch import Batch, Reads, Side
from train.choices import one_of
from train.expert import corrections, freeze, low_rank_view, own, zero_linear
from train.meeting import added, joint
from train.method import Backbone, Stream, WrapBlock, run_block
from train.objective import normal, seed_of
from vapdata import backbones
from vapdata.errors import CallError

Layers = Literal["all", "all-but-last", "every-4", "first-half"]
Fusion = Literal["joint", "ref_to_target", "residual", "single_branch_full", "single_branch_lora"]
Rope = Literal["time_bias", "shared", "time_and_width_bias", "discrete_long"]
RefNoise = Literal["clean", "independent"]
RefTimestep = Literal["target", "constant"]
RefAbsPos = Literal["same", "none"]

RELEASED_LAYERS: Mapping[str, Layers] = {"cogvideox": "all-but-last", "wan": "every-4"}
"""Which blocks the released weights have experts in: 41 of CogVideoX-5B-I2V's 42, 10 of Wan2.1-I2V-14B's 40."""
RELEASED_TIMESTEP: Mapping[str, RefTimestep] = {"cogvideox": "target", "wan": "constant"}
"""What the released code tells the expert about its clean latents: CogVideoX's the target's t, Wan's always 1."""
CLEAN_TIMESTEP = 1.0
"""The timestep of `constant`: all but no noise, 1 of 1000 in either family's units."""
LONG_START, LONG_GAP = 50, 30
"""discrete_long: latent frame at which the first reference stands, and from one reference to the next."""
MOST_REFERENCES = 3


@dataclass(frozen=True, kw_only=True)
class Vap:
    """Trains an expert that reads 1 to 3 reference videos. The defaults are the released model's."""

    name: ClassVar[str] = "vap"
    trains_backbone: ClassVar[bool] = False
    splits_tokens: ClassVar[bool] = True
    expert_layers: Layers | tuple[int, ...] | None = None
    """Blocks that have an expert, e.g. 0,4,8; None for what was released for the backbone's family."""
    fusion: Fusion = "joint"
    """How the streams meet; all but `joint` are the paper's ablations.

        joint               every token attends to every token, target and references
        ref_to_target       the target attends to all, references only to references
        residual            references attend to themselves; their video tokens are added to the target's after each
                            expert block through a linear layer that begins at zero (ours: the paper gives no form)
        single_branch_full  no expert: one trained copy of entry and blocks serves every stream, the target's too; the head is frozen
        single_branch_lora  no expert: rank-`rank` corrections of the attention projections serve every stream
    """
    rank: int = 64
    """single_branch_lora: rank of each correction."""
    rope: Rope = "time_bias"
    """Where references stand, by rotary positions (CogVideoX-2B has none, so there this changes nothing).

        time_bias            before the target in time: frames -delta ... -1, more references further back
        shared               at the target's own positions
        time_and_width_bias  as time_bias, and to the target's left by its width
        discrete_long        far after the target: at latent frame 50, 80, 110
    """
    delta: int | None = None
    """time_bias: latent frames from one clip's start to the next one's, so that ranges never overlap; None for as many as
    the reference has (as released; the paper gives no number)."""
    ref_noise: RefNoise = "clean"
    """independent: while training, references are noised to a level of their own, and their own loss is added."""
    ref_timestep: RefTimestep | None = None
    """What clean references are modulated by: the target's t, or always 1; None for what was released."""
    ref_abs_pos: RefAbsPos = "same"
    """none: references go without the absolute position table that some CogVideoX models add as well.

    As released they get the target's, unshifted, so that positions leak that `rope` keeps apart.
    """
    references: int = 1
    """References per target."""
    caption_drop: float = 0.02
    """Share of samples that see the empty prompt on both sides."""

    def __post_init__(self) -> None:
        for field, kind in (("fusion", Fusion), ("rope", Rope), ("ref_noise", RefNoise), ("ref_timestep", RefTimestep), ("ref_abs_pos", RefAbsPos)):
            if not (field == "ref_timestep" and self.ref_timestep is None):
                one_of("vap", field, getattr(self, field), get_args(kind))
        if isinstance(self.expert_layers, str):
            one_of("vap", "expert_layers", self.expert_layers, get_args(Layers))
        elif self.expert_layers is not None and (not self.expert_layers or list(self.expert_layers) != sorted({each for each in self.expert_layers if each >= 0})):
            raise CallError(f"vap: expert_layers are block numbers from 0, rising; got {self.expert_layers}. Type e.g. --set vap.expert_layers=0,4,8")
        if self.single_branch and self.expert_layers is not None:
            raise CallError(f"vap: fusion={self.fusion} trains every block, so expert_layers says nothing; got {self.expert_layers}. Type --set vap.expert_layers=none")
        if self.rank < 1:
            raise CallError(f"vap: rank is 1 or more; got {self.rank}. Type --set vap.rank=64")
        if self.delta is not None and self.delta < 1:
            raise CallError(f"vap: delta counts latent frames, 1 or more; got {self.delta}. Type --set vap.delta=none for the reference's own number")
        if self.delta is not None and self.rope in ("shared", "discrete_long"):
            raise CallError(f"vap: rope={self.rope} has no use for delta; got {self.delta}. Type --set vap.delta=none, or --set vap.rope=time_bias")
        if self.ref_noise == "independent" and self.ref_timestep is not None:
            raise CallError(f"vap: ref_noise=independent draws the references' own timesteps; got ref_timestep={self.ref_timestep}. Type --set vap.ref_timestep=none")
        if not 1 <= self.references <= MOST_REFERENCES:
            raise CallError(f"vap: references is 1 to {MOST_REFERENCES}; got {self.references}. Type --set vap.references=1")
        if not 0 <= self.caption_drop <= 1:
            raise CallError(f"vap: caption_drop is a share, 0 to 1; got {self.caption_drop:g}. Type --set vap.caption_drop=0.02")

    def reads(self, facts: backbones.Backbone) -> Reads:
        """Captions on both sides, and the references; the backbone adds each side's own first frame where it takes one."""
        return Reads(text=True, references=self.references)

    def attach(self, backbone: Backbone, wrap: WrapBlock) -> nn.Module:
        """The expert, copied from the backbone's weights: nothing begins at zero, so it speaks from the first step on."""
        return VapModule(self, backbone, wrap)

    def release_names(self, backbone: Backbone) -> Mapping[str, str]:
        """`blocks.3.attn1.to_q.weight` -> `transformer_blocks.3.attn1_mot_ref.to_q.weight`, and so on; empty for the ablations."""
        if self.fusion != "joint":
            return {}
        entry = {
            f"entry.{name}.{key}": f"{name}_mot_ref.{key}" for name in backbone.entry for key in backbone.transformer.get_submodule(name).state_dict()
        }
        blocks = {
            f"blocks.{number}.{key}": f"{backbone.block_name(number)}.{_marked(key)}" for number in self.layers(backbone) for key in backbone.blocks[number].state_dict()
        }
        return entry | blocks

    def layers(self, backbone: Backbone) -> tuple[int, ...]:
        """Numbers of the blocks that have an expert (single branch: that are trained). Raises CallError for one that is not there."""
        count = len(backbone.blocks)
        chosen = "all" if self.single_branch else self.expert_layers or _released(RELEASED_LAYERS, backbone.facts, "expert_layers=all")
        if isinstance(chosen, str):
            return tuple({"all": range(count), "all-but-last": range(max(1, count - 1)), "every-4": range(0, count, 4), "first-half": range((count + 1) // 2)}[chosen])
        if chosen[-1] >= count:
            raise CallError(f"vap: expert_layers names block {chosen[-1]}; {backbone.facts.name} has blocks 0 to {count - 1}. Type e.g. --set vap.expert_layers=0,{count - 1}")
        return chosen

    def frame_offsets(self, count: int, frames: int) -> tuple[float, ...]:
        """What is added to the temporal positions of `count` references of `frames` latent frames each, the nearest one last.

        Raises CallError where two clips would share a position that `rope` means to keep apart.
        """
        if self.rope == "shared":
            return (0.0,) * count
        if self.rope == "discrete_long":
            if frames > LONG_GAP:
                raise CallError(f"vap: rope=discrete_long leaves {LONG_GAP} latent frames per clip; got {frames}. Type --set vap.rope=time_bias")
            return tuple(float(LONG_START + LONG_GAP * place) for place in range(count))
        delta = frames if self.delta is None else self.delta
        if delta < frames:
            raise CallError(f"vap: delta={delta} latent frames, but a reference has {frames}, so positions would overlap. Type --set vap.delta=none, or {frames} or more")
        return tuple(-float(delta * (count - place)) for place in range(count))

    @property
    def single_branch(self) -> bool:
        """Whether one branch serves every stream, so that there is no expert."""
        return self.fusion in ("single_branch_full", "single_branch_lora")


class VapModule(nn.Module):
    """The expert at work. Its parameters and state are the method's alone; the backbone is held unregistered.

    `entry` holds the copied entry modules, `blocks` the copied blocks by number, `inject` and `lora` what the
    ablations of these names learn.
    """

    def __init__(self, config: Vap, backbone: Backbone, wrap: WrapBlock) -> None:
        super().__init__()
        self._config, self._backbone = config, (backbone,)
        layers = config.layers(backbone)
        if config.fusion == "single_branch_lora":
            blocks = {number: backbone.blocks[number] for number in layers}
            self._experts = {number: low_rank_view(block, backbone.projections(block), config.rank, number) for number, block in blocks.items()}
            self.entry = nn.ModuleDict()
            self.lora = nn.ModuleDict({str(number): corrections(view) for number, view in self._experts.items()})
        else:
            self._experts = {number: own(backbone.blocks[number]) for number in layers}
            self.entry = nn.ModuleDict({name: own(backbone.transformer.get_submodule(name)) for name in backbone.entry})
            self.blocks = nn.ModuleDict({str(number): expert for number, expert in self._experts.items()})
        if config.fusion == "residual":
            last = {number: backbone.projections(backbone.blocks[number])[-1] for number in layers}
            self.inject = nn.ModuleDict({str(number): zero_linear(backbone.blocks[number].get_submodule(name)) for number, name in last.items()})
        self._unread = None if config.fusion == "residual" or config.ref_noise == "independent" else layers[-1]
        if self._unread is not None and not config.single_branch:
            freeze(self._experts[self._unread], backbone.after_keys(self._experts[self._unread]))
            if self._unread == layers[0]:
                freeze(self.entry, backbone.context_entry)
        two_way = config.fusion != "ref_to_target"
        self._stock = wrap(lambda block, stream: run_block(backbone, block, stream))
        self._joint = wrap(lambda block, expert, streams, onward: joint(backbone, block, expert, streams, onward=onward, two_way=two_way))
        self._added = wrap(lambda block, expert, inject, streams: added(backbone, block, expert, inject, streams))

    def forward(self, batch: Batch) -> Float[Tensor, " B"]:
        """The loss per sample; with ref_noise=independent, while training, the mean of the references' own is added."""
        objective, head = self._backbone[0].objective, self._backbone[0].head
        if not batch.references:
            raise CallError("vap: the batch brings no references, so there is nothing to learn from. Make pairs first: vapdata pairs --catalog C")
        given = tuple(self._given(side, batch, place) for place, side in enumerate(batch.references))
        noisy = objective.noisy(batch.target.video, batch.noise, batch.timesteps)
        target, *references = self._through(noisy, batch.timesteps, batch.target, given)
        losses = objective.losses(head(target), batch.target.video, batch.noise, batch.timesteps)
        if self._config.ref_noise == "clean" or not self.training:
            return losses
        own_losses = [objective.losses(head(stream), each.side.video, each.noise, each.timesteps) for stream, each in zip(references, given, strict=True)]
        return losses + torch.stack(own_losses).mean(dim=0)

    def predict(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], target: Side, references: tuple[Side, ...]) -> Float[Tensor, "B C T H W"]:
        """The prediction for the target. Without references an expert is silent: bit for bit the backbone's own."""
        given = tuple(self._clean(side, timesteps) for side in references)
        return self._backbone[0].head(self._through(noisy, timesteps, target, given)[0])

    def _through(self, noisy: Tensor, timesteps: Tensor, target: Side, given: tuple["_Given", ...]) -> tuple[Stream, ...]:
        """Every stream after the last block, the target's first."""
        streams = self._embed(noisy, timesteps, target, given)
        for number, block in enumerate(self._backbone[0].blocks):
            streams = self._block(number, block, streams)
        return streams

    def _embed(self, noisy: Tensor, timesteps: Tensor, target: Side, given: tuple["_Given", ...]) -> tuple[Stream, ...]:
        """The streams before the first block, the target's first."""
        backbone, config = self._backbone[0], self._config
        entry = dict(self.entry.items()) or None
        first = backbone.embed(noisy, timesteps, target, entry=entry if config.single_branch else None)
        if not given:
            return (first,)
        width = -float(first.grid[2]) if config.rope == "time_and_width_bias" else 0.0
        patch = backbone.facts.patch_frames
        offsets = config.frame_offsets(len(given), -(-given[0].latents.shape[2] // patch) * patch)
        absolute = config.ref_abs_pos == "same"
        return first, *(
            backbone.embed(each.latents, each.timesteps, each.side, frame_offset=offset, width_offset=width, absolute_positions=absolute, entry=entry)
            for each, offset in zip(given, offsets, strict=True)
        )

    def _block(self, number: int, block: nn.Module, streams: tuple[Stream, ...]) -> tuple[Stream, ...]:
        """The streams after block `number`. References wait where there is no expert, and without references no expert is asked."""
        target, *references = streams
        expert = self._experts.get(number)
        if expert is not None and self._config.single_branch:
            block = expert
        if expert is None or not references:
            return self._stock(block, target), *references
        if self._config.fusion == "residual":
            return self._added(block, expert, self.inject[str(number)], streams)
        return self._joint(block, expert, streams, number != self._unread)

    def _given(self, side: Side, batch: Batch, place: int) -> "_Given":
        """A reference for the loss: as it is, or with noise and timestep of its own, drawn from the sample's seed."""
        if self._config.ref_noise == "clean":
            return self._clean(side, batch.timesteps)
        objective = self._backbone[0].objective
        seeds = [seed_of(seed, batch.step, 1 + place, clip) for seed, clip in zip(batch.seeds, side.clip_ids, strict=True)]
        timesteps = objective.timesteps(seeds).to(batch.timesteps)
        noise = torch.stack([normal(seed, tuple(side.video.shape[1:])) for seed in seeds]).to(batch.noise)
        return _Given(side, objective.noisy(side.video, noise, timesteps), timesteps, noise)

    def _clean(self, side: Side, timesteps: Tensor) -> "_Given":
        """A reference as it is. An expert that learned levels of noise is told that there is none."""
        config = self._config
        told: str | None = "constant" if config.ref_noise == "independent" else config.ref_timestep
        told = told or _released(RELEASED_TIMESTEP, self._backbone[0].facts, "ref_timestep=target")
        return _Given(side, side.video, timesteps if told == "target" else torch.full_like(timesteps, CLEAN_TIMESTEP), None)


@dataclass(frozen=True)
class _Given:
    """One reference as the expert is given it."""

    side: Side
    latents: Tensor
    timesteps: Tensor
    noise: Tensor | None


def _released(choices: Mapping[str, str], facts: backbones.Backbone, instead: str) -> str:
    if facts.family not in choices:
        raise CallError(f"vap: nothing was released for {facts.name} ({facts.family}), so this has no default. Type --set vap.{instead}")
    return choices[facts.family]


def _marked(key: str) -> str:
    """`attn1.to_q.weight` -> `attn1_mot_ref.to_q.weight`; a block's bare parameter gets the mark at its end."""
    part, dot, rest = key.partition(".")
    return f"{part}_mot_ref{dot}{rest}"


if __name__ == "__main__":
    from train.launch import main

    main("vap")
