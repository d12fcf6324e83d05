"""The network of TransNet V2, with the tensor names of its authors' PyTorch port. Exercised by `pytest tests/vapdata/filters/test_transnet.py`.

Soucek and Lokoc, "TransNet V2: An effective deep network architecture for fast shot transition detection", 2020. Letters: B videos, T frames,
C channels. Written for inference: dropout and stochastic depth are left out, they hold no weights.
"""

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn

FILTERS, BLOCKS, LAYERS = 16, 3, 2
"""Channels of the first stack, stacks of dilated convolutions, convolutions in each."""
HIDDEN = 1024
LOOK = 101
"""Frames around a frame that it is compared with, itself in their middle."""
SIMILAR = 128
BINS = 512


class TransNetV2(nn.Module):
    """Frames of 48 x 27 pixels to one logit each: whether a transition lies behind it."""

    def __init__(self) -> None:
        super().__init__()
        widths = [4 * FILTERS * 2**block for block in range(BLOCKS)]
        self.SDDCNN = nn.ModuleList(Stack(before, width // 4) for before, width in zip([3, *widths], widths, strict=False))
        self.frame_sim_layer = FrameSimilarity(sum(widths))
        self.color_hist_layer = ColorHistograms()
        self.fc1 = nn.Linear(widths[-1] * 3 * 6 + 2 * SIMILAR, HIDDEN)
        self.cls_layer1 = nn.Linear(HIDDEN, 1)
        self.cls_layer2 = nn.Linear(HIDDEN, 1)
        """The second head marks all frames of a long transition; it was for training, and its weights are in the file."""

    def forward(self, frames: UInt8[Tensor, "B T 27 48 3"]) -> Float[Tensor, "B T 1"]:
        """Logits of "the last frame before a new shot"."""
        features, x = [], frames.permute(0, 4, 1, 2, 3).float() / 255
        for stack in self.SDDCNN:
            x = stack(x)
            features.append(x)
        flat = x.permute(0, 2, 3, 4, 1).flatten(2)
        everything = torch.cat([self.color_hist_layer(frames), self.frame_sim_layer(features), flat], 2)
        return self.cls_layer1(functional.relu(self.fc1(everything)))


class Stack(nn.Module):
    """Dilated convolutions with a short cut around all but the first, then half the height and width."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList(Dilated(4 * filters if layer else channels, filters) for layer in range(LAYERS))

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C2 T H2 W2"]:
        """The activation follows every convolution but the last, and the sum's parts."""
        first = x = functional.relu(self.DDCNN[0](x))
        for layer in self.DDCNN[1:]:
            x = layer(x)
        return functional.avg_pool3d(functional.relu(x) + first, (1, 2, 2))


class Dilated(nn.Module):
    """Four separable convolutions, one, two, four and eight frames apart, side by side."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        for dilation in (1, 2, 4, 8):
            self.add_module(f"Conv3D_{dilation}", Separable(channels, filters, dilation))
        self.bn = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C2 T H W"]:
        """Normalised, not activated."""
        return self.bn(torch.cat([getattr(self, f"Conv3D_{dilation}")(x) for dilation in (1, 2, 4, 8)], 1))


class Separable(nn.Module):
    """3 x 3 in space, then three frames in time."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        space = nn.Conv3d(channels, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(2 * filters, filters, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False)
        self.layers = nn.ModuleList([space, time])

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C2 T H W"]:
        """Size is kept."""
        return self.layers[1](self.layers[0](x))


class FrameSimilarity(nn.Module):
    """How alike a frame's features are to those of the 50 frames before and after it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, SIMILAR)
        self.fc = nn.Linear(LOOK, SIMILAR)

    def forward(self, features: list[Float[Tensor, "B _C T _H _W"]]) -> Float[Tensor, "B T 128"]:
        """From the features of all stacks, averaged over space."""
        x = torch.cat([each.mean((3, 4)) for each in features], 1).transpose(1, 2)
        return functional.relu(self.fc(around(functional.normalize(self.projection(x), dim=2))))


class ColorHistograms(nn.Module):
    """How alike a frame's colours are to those of the 50 frames before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(LOOK, SIMILAR)

    def forward(self, frames: UInt8[Tensor, "B T 27 48 3"]) -> Float[Tensor, "B T 128"]:
        """From histograms of 8 x 8 x 8 colours."""
        return functional.relu(self.fc(around(functional.normalize(histograms(frames), dim=2))))


def histograms(frames: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B T 512"]:
    """Pixels of each of 8 x 8 x 8 colours, counted; red counts most, blue least in a colour's number."""
    red, green, blue = (frames[..., band].long() >> 5 for band in range(3))
    codes: Integer[Tensor, "B T n"] = ((red << 6) + (green << 3) + blue).flatten(2)
    counts = torch.zeros(*codes.shape[:2], BINS)
    return counts.scatter_add_(2, codes, torch.ones(codes.shape))


def around(x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T 101"]:
    """Inner products of each row with the 50 before it, itself, and the 50 after it; 0 beyond the ends."""
    reach = (LOOK - 1) // 2
    products = functional.pad(x @ x.transpose(1, 2), (reach, reach))
    steps = torch.arange(x.shape[1])[:, None] + torch.arange(LOOK)
    return products.gather(2, steps.expand(x.shape[0], -1, -1))
