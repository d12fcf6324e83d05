"""SSG-DiT: the first frame, sharp where the caption looks and blurred elsewhere, is read beside the frozen self-attention.

Source: "SSG-DiT: A Spatial Signal Guided Framework for Controllable Video Generation" (arXiv 2508.17062); nothing was
released. Stage 1, the masks, is the encoder `clip_mask`. Here is stage 2: the visual prompt I' = M I + (1 - M) Blur(I) goes
through an image encoder that learns; in every block the video's tokens attend to C = [caption ; E(I')] with the frozen
block's own queries and new keys and values, Z + SA + CA. What the paper leaves open is a switch, and says what was chosen.

I' depends on mask source and blur, so no encoding of it lies in the catalog: picture and masks do, and the frozen CLIP
runs here, every step. Stored tokens would be another 1.2 MB a clip for each of the ablations; a ViT-L pass is below one
part in a thousand of Wan-1.3B's step at 81 x 480 x 832.
`python -m train.ssg --catalog C --backbone wan2.1-t2v-1.3b --out RUN`; exercised by `pytest tests/train/test_ssg.py`.

Shapes: B batch, C T H W latents, L video tokens, K context rows, N image tokens, D width, h heads, d head dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from train.batch import Batch, Reads, Side
from train.choices import one_of
from train.method import AttentionInputs, Backbone, Stream, WrapBlock, attention
from train.objective import seed_of, uniform
from train.visual_encoder import ClipEncoder, PatchEncoder
from vapdata import backbones
from vapdata.encoders.clip_mask import GRIDS
from vapdata.encoders.mask_maths import minmax, smooth
from vapdata.encoders.visual_prompt import BLUR_SHARE, visual_prompts
from vapdata.errors import CallError

ImageEncoder = Literal["clip_mlp", "clip_resampler", "conv"]
MaskSource = Literal["both", "attn", "mlp", "none", "random"]
Query = Literal["pre_rope", "post_rope"]
Gate = Literal["inside", "outside"]

STORED: Mapping[str, str] = {"both": "fused", "attn": "attention", "mlp": "mlp"}
"""Mask source -> which of the stored grids it is."""
RANDOM_GRID = 16
"""Rows and columns of a random mask, as many as CLIP ViT-L/14-224 has."""


@dataclass(frozen=True, kw_only=True)
class Ssg:
    """Trains an image encoder and, in every block, keys and values for it. The defaults are methods.md's reading of the paper."""

    name: ClassVar[str] = "ssg"
    trains_backbone: ClassVar[bool] = False
    image_encoder: ImageEncoder = "clip_mlp"
    """What turns the visual prompt into tokens; the paper says "lightweight, trainable" and no more.

        clip_mlp        the masks' CLIP, frozen, its last block but one; each token through a network that learns
        clip_resampler  the same CLIP, read by `queries` learned queries
        conv            a vision transformer that learns, on patches of the picture
    """
    queries: int = 16
    """clip_resampler: tokens that it gives."""
    conv_side: int = 224
    """conv: pixels of the picture's shorter side."""
    conv_patch: int = 16
    """conv: pixels of a patch's side."""
    conv_width: int = 512
    """conv: width of its blocks, a multiple of 4."""
    conv_depth: int = 4
    """conv: how many blocks."""
    mask_source: MaskSource = "both"
    """Where the picture stays sharp: both CLIP masks fused, `attn` or `mlp` alone (the paper's ablations), `none` for the
    picture itself, `random` for a smooth mask drawn from the clip's id."""
    blur: float = BLUR_SHARE
    """Deviation of the blur as a share of the picture's shorter side; 0 for none. The paper names none."""
    ca_query: Query = "pre_rope"
    """The shared query. A rotated one would score by absolute position, for the keys have none; the paper does not say."""
    gate: Gate = "inside"
    """Whether what is read is scaled by the block's gate, with self-attention, or added beside it."""
    zero_init: bool = True
    """The output projection (share_out: the values') begins at zero, so that step 0 is the frozen model."""
    share_out: bool = False
    """What is read goes through the frozen output projection instead of one of its own."""
    c_text: bool = True
    """The caption's tokens are part of the context; the frozen model reads them in its own way as well."""
    c_image: bool = True
    """The image tokens are; without them the adapter reads the caption alone: "without SSG"."""
    caption_drop: float = 0.1
    """Share of samples that see the empty prompt."""
    image_drop: float = 0.1
    """Share of samples whose image tokens are zeros, drawn apart from the captions'."""
    drop_image_in_uncond: bool = True
    """Guidance: the negative branch, with the empty prompt, has zeros for image tokens too, not the target's."""

    def __post_init__(self) -> None:
        for field, kind in (("image_encoder", ImageEncoder), ("mask_source", MaskSource), ("ca_query", Query), ("gate", Gate)):
            one_of("ssg", field, getattr(self, field), get_args(kind))
        for field, least, usual in (("queries", 1, 16), ("conv_side", 1, 224), ("conv_patch", 1, 16), ("conv_width", 4, 512), ("conv_depth", 1, 4)):
            if getattr(self, field) < least:
                raise CallError(f"ssg: {field} is {least} or more; got {getattr(self, field)}. Type --set ssg.{field}={usual}")
        if self.conv_width % 4:
            raise CallError(f"ssg: conv_width is a multiple of 4, for sines and cosines of two axes; got {self.conv_width}. Type --set ssg.conv_width=512")
        for field in ("caption_drop", "image_drop"):
            if not 0 <= getattr(self, field) <= 1:
                raise CallError(f"ssg: {field} is a share, 0 to 1; got {getattr(self, field):g}. Type --set ssg.{field}=0.1")
        if self.blur < 0:
            raise CallError(f"ssg: blur is a share of the picture's shorter side, 0 or more; got {self.blur:g}. Type --set ssg.blur={BLUR_SHARE:g}")
        if not (self.c_text or self.c_image):
            raise CallError("ssg: c_text=false with c_image=false leaves nothing to attend to. Type --set ssg.c_image=true")
        if self.share_out and self.gate == "outside":
            raise CallError("ssg: share_out sends what is read through the frozen projection, whose rows are gated, so gate=outside cannot be. Type --set ssg.gate=inside")

    def reads(self, facts: backbones.Backbone) -> Reads:
        """The caption, the first frame, and the masks where they decide what is blurred."""
        return Reads(text=True, picture=self.c_image, masks=self.c_image and self.mask_source in STORED)

    def attach(self, backbone: Backbone, wrap: WrapBlock) -> nn.Module:
        """Image encoder and adapters. Raises MissingWeights when the frozen CLIP is wanted and not on this machine."""
        return SsgModule(self, backbone, wrap)

    def release_names(self, backbone: Backbone) -> Mapping[str, str]:
        """None: nothing was released."""
        return {}

    def encoder(self, backbone: Backbone, width: int, device: torch.device) -> nn.Module:
        """The image encoder, for blocks of this width."""
        if self.image_encoder == "conv":
            return PatchEncoder(width, side=self.conv_side, patch=self.conv_patch, inner=self.conv_width, depth=self.conv_depth, device=device)
        head: Literal["mlp", "resampler"] = "mlp" if self.image_encoder == "clip_mlp" else "resampler"
        return ClipEncoder(backbone.facts, width, head=head, queries=self.queries, device=device)


class SsgModule(nn.Module):
    """Adapters at work. `image` is the encoder, `blocks` the adapters by block number; the backbone is held unregistered."""

    negative_prompt: Literal["empty"] = "empty"
    """What guidance pushes away from is what training dropped to."""

    def __init__(self, config: Ssg, backbone: Backbone, wrap: WrapBlock) -> None:
        super().__init__()
        self._config, self._backbone = config, (backbone,)
        queries = [block.get_submodule(next(name for name in backbone.projections(block) if name.endswith("to_q"))) for block in backbone.blocks]
        first = queries[0]
        if config.c_image:
            self.image = config.encoder(backbone, first.in_features, first.weight.device)
        self.blocks = nn.ModuleDict({str(number): Adapter(config, query) for number, query in enumerate(queries)})
        self._block = wrap(lambda block, adapter, stream, context, mask: adapted(backbone, block, adapter, config, stream, context, mask))

    def forward(self, batch: Batch) -> Float[Tensor, " B"]:
        """The loss per sample; while training, some samples' image tokens are dropped."""
        objective, target = self._backbone[0].objective, batch.target
        if self.training and self._config.c_image:
            shown = [uniform(seed, "image") >= self._config.image_drop for seed in batch.seeds]
            target = replace(target, shown=torch.tensor(shown, device=batch.timesteps.device))
        predicted = self.predict(objective.noisy(target.video, batch.noise, batch.timesteps), batch.timesteps, target, ())
        return objective.losses(predicted, target.video, batch.noise, batch.timesteps)

    def predict(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], target: Side, references: tuple[Side, ...]) -> Float[Tensor, "B C T H W"]:
        """The prediction; references are not looked at."""
        backbone = self._backbone[0]
        stream = backbone.embed(noisy, timesteps, target)
        context, mask = self.context(stream, target)
        for block, adapter in zip(backbone.blocks, self.blocks.values(), strict=True):
            stream = self._block(block, adapter, stream, context, mask)
        return backbone.head(stream)

    def branches(self, negative: Side, positive: Side) -> tuple[Side, Side]:
        """Guidance's two sides, with what each may see of the picture."""
        if not (self._config.c_image and self._config.drop_image_in_uncond):
            return negative, positive
        every = torch.ones(len(positive.clip_ids), dtype=torch.bool, device=positive.video.device)
        return replace(negative, shown=~every), replace(positive, shown=every)

    def context(self, stream: Stream, side: Side) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"] | None]:
        """C, [caption ; image tokens], and which rows may be attended to (None for all). Image tokens that are not shown are zeros."""
        rows: list[Tensor] = []
        mask: Tensor | None = None
        if self._config.c_text:
            caption, mask = self._backbone[0].caption_tokens(stream)
            rows.append(caption)
        if self._config.c_image:
            tokens = self.image(visual_prompt(self._config, side)).to(stream.video.dtype)
            if side.shown is not None:
                tokens = tokens * side.shown[:, None, None].to(tokens.dtype)
            rows.append(tokens)
            mask = mask if mask is None else torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1)
        return torch.cat(rows, dim=1), mask


class Adapter(nn.Module):
    """One block's new keys and values, and their output projection; K' = C W_K', V' = C W_V'."""

    def __init__(self, config: Ssg, query: nn.Module) -> None:
        """`query` is the frozen block's query projection, whose heads are shared."""
        super().__init__()
        width, inner, device = query.in_features, query.out_features, query.weight.device
        self.to_k = nn.Linear(width, inner, device=device, dtype=torch.float32)
        self.to_v = nn.Linear(width, inner, device=device, dtype=torch.float32)
        self.to_out = None if config.share_out else nn.Linear(inner, width, device=device, dtype=torch.float32)
        if config.zero_init:
            for parameter in (self.to_out or self.to_v).parameters():
                nn.init.zeros_(parameter)

    def forward(self, query: Float[Tensor, "B h L d"], context: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"] | None) -> Float[Tensor, "B h L d"]:
        """CA = softmax(Q K'^T / sqrt(d)) V', heads apart, before any output projection."""
        key, value = (project(context).unflatten(2, (query.shape[1], -1)).transpose(1, 2).to(query.dtype) for project in (self.to_k, self.to_v))
        return attention(query, key, value, mask)


def adapted(
    backbone: Backbone,
    block: nn.Module,
    adapter: Adapter,
    config: Ssg,
    stream: Stream,
    context: Float[Tensor, "B K D"],
    mask: Bool[Tensor, "B K"] | None,
) -> Stream:
    """One block: self-attention as it is, and for the video's tokens what their queries read of the context."""
    inputs = backbone.attention_inputs(block, stream)
    attended = attention(inputs.query, inputs.key, inputs.value, inputs.mask)
    asked = inputs.query if config.ca_query != "pre_rope" else inputs.unturned
    if asked is None:
        raise CallError("ssg: this process has a part of the queries alone. Type --set parallel.sequence=1")
    read = adapter(asked[:, :, inputs.video_rows], context, mask)
    if adapter.to_out is None:
        return backbone.attention_output(block, stream, _among(attended, read, inputs), inputs.carry)
    added = adapter.to_out(read.transpose(1, 2).flatten(2))
    if config.gate == "inside":
        return backbone.attention_output(block, stream, attended, inputs.carry, added=added)
    beside = replace(stream, video=stream.video + added.to(stream.video.dtype))
    return backbone.attention_output(block, beside, attended, inputs.carry)


def visual_prompt(config: Ssg, side: Side) -> Float[Tensor, "B 3 y x"]:
    """I' = M I + (1 - M) Blur(I) of each clip, RGB in 0..1, M being the mask of the configured source."""
    if side.picture is None:
        raise CallError("ssg: the batch has no first frames. Type: vapdata backfill first_frame")
    pictures = side.picture.float() / 255
    if config.mask_source == "none":
        return pictures
    if config.mask_source == "random":
        masks = torch.stack([random_mask(clip) for clip in side.clip_ids]).to(pictures)
    elif side.masks is None:
        raise CallError("ssg: the batch has no CLIP masks. Type: vapdata backfill clip_mask")
    else:
        masks = side.masks[:, GRIDS.index(STORED[config.mask_source])].to(pictures.dtype)
    return visual_prompts(pictures, masks, config.blur * min(pictures.shape[2:]))


def random_mask(clip_id: str) -> Float[Tensor, "16 16"]:
    """A mask that says nothing: uniform numbers from the clip's id, smoothed 3 x 3 and stretched to 0..1 as CLIP's are."""
    seed = seed_of(0, 0, 0, clip_id)
    drawn = torch.tensor([uniform(seed, f"mask {place}") for place in range(RANDOM_GRID**2)])
    return minmax(smooth(drawn.view(1, RANDOM_GRID, RANDOM_GRID), 3))[0]


def _among(attended: Float[Tensor, "B h S d"], read: Float[Tensor, "B h L d"], inputs: AttentionInputs) -> Float[Tensor, "B h S d"]:
    """`attended` with `read` added to the video's rows."""
    start, stop, _ = inputs.video_rows.indices(attended.shape[2])
    return attended + nn.functional.pad(read.to(attended.dtype), (0, 0, start, attended.shape[2] - stop))


if __name__ == "__main__":
    from train.launch import main

    main("ssg")
