"""How much moves in a clip, by a network: the GPU variant of `motion`. Exercised by `pytest tests/vapdata/filters/test_motion_raft.py`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Clip, Score
from vapdata.device import pick
from vapdata.errors import CallError, MissingInput
from vapdata.filters.motion import DECIMALS, LONG_SIDE
from vapdata.filters.shrink import at_most
from vapdata.step import Meter

LEAST_SIDE = 128
"""RAFT looks at an eighth of the size, and at an eighth of that."""

MeanFlow = Callable[[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]], float]


@dataclass(frozen=True, kw_only=True)
class MotionRaft:
    """Mean optical-flow magnitude by RAFT.

    What: as `motion`, in the same unit, with RAFT's flow in place of DIS: better where much moves at once, or little is textured.
    Reads: frames at `fps`, longer side at most 320 px.
    Writes: `motion_raft`, px per 1/fps s at that size.
    Default: 2 frames per second, raft_large; `weights` has no default.
    Cost: not measured: no GPU was at hand. On a CPU it is for a few clips only.
    Fails when: the clip has fewer than two frames. CallError without weights, or with those of another network.
    Source: Teed and Deng, "RAFT: Recurrent all-pairs field transforms for optical flow", ECCV 2020; torchvision's classes, whose weights
        (`raft_large_C_T_SKHT_V2`) `safetensors.torch.save_file` writes. Data-Juicer's threshold at 2 fps is 1.0, for other sizes.
    """

    name: ClassVar[str] = "motion_raft"
    fps: float = 2.0
    weights: str | None = None
    """Path of the network's tensors, safetensors."""
    size: Literal["large", "small"] = "large"
    device: str | None = None
    """None: the GPU when there is one."""

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise CallError(f"motion_raft.fps: got {self.fps:g}, wants more than 0; type --set motion_raft.fps=2")

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """One number."""
        return {"motion_raft": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Loads the network, for all the meters that this gives."""
        if not self.weights or not os.path.isfile(self.weights):
            raise CallError(f"motion_raft.weights: got {self.weights}, wants a file; type --set motion_raft.weights=raft_{self.size}.safetensors with its path")
        flow = _opened(self.weights, self.size, pick(self.device))
        return lambda clip: MotionRaftMeter(clip, self.fps, flow)


class MotionRaftMeter:
    """Adds up the flow between one clip's sampled frames."""

    def __init__(self, clip: Clip, fps: float, flow: MeanFlow) -> None:
        self._clip = clip
        self._fps = fps
        self._flow = flow
        self._last: UInt8[np.ndarray, "h w 3"] | None = None
        self._last_s = 0.0
        self._pixels = self._seconds = 0.0

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes the next frame and its own time; a frame given again (same time) is skipped."""
        if self._last is not None and time_s <= self._last_s:
            return
        small = at_most(frame, LONG_SIDE)
        if self._last is not None:
            self._pixels += self._flow(self._last, small)
            self._seconds += time_s - self._last_s
        self._last, self._last_s = small, time_s

    def finish(self) -> list[Score]:
        """Pixels per 1/fps seconds. Raises MissingInput for a clip of one frame."""
        if self._seconds == 0:
            raise MissingInput(
                f"motion_raft of {self._clip.clip_id}: needs two frames, the clip has fewer. Nothing to do; "
                "leave such clips out with --where \"motion_raft is not null\""
            )
        return [Score(filter="motion_raft", value=round(self._pixels / self._seconds / self._fps, DECIMALS))]


def bordered(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "bh bw 3"]:
    """`frame` continued at its right and lower borders to multiples of 8, 128 at least."""
    down, right = (max(LEAST_SIDE, -(-side // 8) * 8) - side for side in frame.shape[:2])
    return cv2.copyMakeBorder(frame, 0, down, 0, right, cv2.BORDER_REPLICATE)


def _opened(weights: str, size: str, device: str) -> MeanFlow:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torchvision.models.optical_flow import raft_large, raft_small

    network: Any = {"large": raft_large, "small": raft_small}[size](weights=None)
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise CallError(f"motion_raft.weights: {os.path.basename(weights)} does not hold raft_{size}'s tensors as safetensors: {str(error)[:300]}") from error
    network.eval().to(device)

    @torch.inference_mode()
    def mean_flow(first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "h w 3"]) -> float:
        both = (torch.from_numpy(bordered(each)).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1 for each in (first, second))
        flow = network(*both)[-1][0, :, : first.shape[0], : first.shape[1]]
        return float(torch.linalg.vector_norm(flow.double(), dim=0).mean())

    return mean_flow
