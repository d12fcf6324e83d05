"""What each patch adds to CLIP's image embedding: attention contributions and MLP features in the joint space.

The image embedding is linear in the residual stream once ln_post's statistics are fixed, so it falls apart into
terms: the embedded CLS token, and for each block one attention term and one MLP term; an attention term falls
apart further, into one term for each token that CLS attended to (Gandelsman et al. 2024, equations 3-6). The terms
sum to the embedding exactly; a test checks it in float64. Legend: B batch, N tokens (CLS first), P patches, W width.
Exercised by `pytest tests/vapdata/encoders/test_clip_features.py`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from vapdata.errors import CallError

MlpFeature = Literal["output", "branch"]


@dataclass(frozen=True, kw_only=True)
class PatchFeatures:
    """Features of each patch in the joint space, divided by the length of the image embedding."""

    attention: Float[Tensor, "b p d"]
    mlp: Float[Tensor, "b p d"]
    image: Float[Tensor, "b d"]
    """The image embedding, as `encode_image` gives it."""


@dataclass(frozen=True, kw_only=True)
class PostNorm:
    """ln_post as an affine map: its statistics are those of the final CLS token."""

    mean: Float[Tensor, "b 1 1"]
    deviation: Float[Tensor, "b 1 1"]

    @classmethod
    def of(cls, visual: VisionTransformer, final_cls: Float[Tensor, "b w"]) -> "PostNorm":
        """The statistics that `visual.ln_post` uses for this token: biased variance, its own epsilon."""
        variance, mean = torch.var_mean(final_cls, dim=-1, correction=0)
        deviation = (variance + visual.ln_post.eps).sqrt()
        return cls(mean=mean[:, None, None], deviation=deviation[:, None, None])

    def project(
        self, visual: VisionTransformer, terms: Float[Tensor, "b n w"], shares: int
    ) -> Float[Tensor, "b n d"]:
        """Terms of the residual stream, mapped to the joint space. Mean and bias are split evenly into `shares`.

        The terms of all shares sum to ln_post(stream) @ proj.
        """
        centred = (terms - self.mean / shares) / self.deviation
        return (centred * visual.ln_post.weight + visual.ln_post.bias / shares) @ visual.proj


def shares(visual: VisionTransformer) -> int:
    """Terms of the residual stream: the embedded CLS token, and attention and MLP of each block.

    2 * depth + 1 is what sums exactly; API's code divides by 2 * depth - 1 = 47. A share adds the same to every patch, so the
    masks, normalised by minimum and maximum, do not depend on it.
    """
    return 2 * len(visual.transformer.resblocks) + 1


def attention_contributions(
    block: ResidualAttentionBlock, stream: Float[Tensor, "b n w"]
) -> Float[Tensor, "b n w"]:
    """What each token m adds to CLS through the block's attention: sum over heads of attn[CLS, m] v_m W_O, plus bias / n.

    `stream` is the block's input. The sum over m is the CLS row of the block's attention (times its layer scale).
    Computed from the projection weights: the library's fused kernels return no attention weights.
    """
    attention = block.attn
    tokens, width = stream.shape[1:]
    heads = attention.num_heads
    weights = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3)
    normed = block.ln_1(stream)
    query = _heads(functional.linear(normed[:, :1], weights[0], biases[0]), heads)
    key = _heads(functional.linear(normed, weights[1], biases[1]), heads)
    value = _heads(functional.linear(normed, weights[2], biases[2]), heads)
    looks = (query @ key.mT * (width // heads) ** -0.5).softmax(dim=-1)
    weighted = (looks.mT * value).transpose(1, 2).flatten(2)
    out = attention.out_proj
    return block.ls_1(functional.linear(weighted, out.weight) + out.bias / tokens)


def patch_features(
    visual: VisionTransformer,
    pictures: Float[Tensor, "b 3 height width"],
    layer: int,
    mlp_feature: MlpFeature = "output",
) -> PatchFeatures:
    """Attention and MLP features of block `layer` (0-based; negative counts from the last).

    `output`: the residual stream after the block, as API's hook reads it. `branch`: what the block's MLP adds alone.
    """
    block = visual.transformer.resblocks[layer]
    with _Tap(block) as tap:
        found = visual.forward_intermediates(pictures, indices=1, output_fmt="NLC", output_extra_tokens=True)
    exact = visual.ln_post.weight.dtype
    image = found["image_features"].to(exact)
    final_cls = found["image_intermediates_prefix"][0][:, 0].to(exact)
    stream = (tap.after if mlp_feature == "output" else tap.branch).to(exact)
    count = shares(visual)
    length = image.norm(dim=-1)[:, None, None]
    # Contributions are small differences: in the weights' own precision even where the tower ran in bf16.
    with torch.autocast(pictures.device.type, enabled=False):
        norm = PostNorm.of(visual, final_cls)
        contributions = attention_contributions(block, tap.before.to(exact))
        attention = norm.project(visual, contributions, count * contributions.shape[1])[:, 1:]
        mlp = norm.project(visual, stream, count)[:, 1:]
    return PatchFeatures(attention=attention / length, mlp=mlp / length, image=image)


def check(visual: nn.Module, layer: int, model_id: str) -> VisionTransformer:
    """`visual` itself when it can be taken apart: a plain open_clip ViT with a CLS token. Raises CallError otherwise."""
    plain = (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and visual.transformer.batch_first
        and all(isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks)
    )
    if not plain:
        raise CallError(
            f"clip_mask: {model_id} has a {type(visual).__name__} that is not a plain ViT with a CLS token, which masks "
            "are made from. Use a ViT model of open_clip, e.g. --set clip_mask.model=timm/vit_large_patch14_clip_224.openai"
        )
    depth = len(visual.transformer.resblocks)
    if not -depth <= layer < depth:
        raise CallError(f"clip_mask.layer = {layer}: {model_id} has {depth} blocks, wanted -{depth} to {depth - 1}.")
    return visual


class _Tap:
    """Catches a block's input, its MLP branch and its output during one forward pass."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        self._block = block
        self.before: Tensor
        self.branch: Tensor
        self.after: Tensor

    def __enter__(self) -> "_Tap":
        self._handles = [
            self._block.register_forward_pre_hook(self._keep_before),
            self._block.mlp.register_forward_hook(self._keep_branch),
            self._block.register_forward_hook(self._keep_after),
        ]
        return self

    def __exit__(self, *raised: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep_before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.before = inputs[0]

    def _keep_branch(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.branch = self._block.ls_2(output)

    def _keep_after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.after = output


def _heads(tokens: Float[Tensor, "b n w"], heads: int) -> Float[Tensor, "b heads n d"]:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)
