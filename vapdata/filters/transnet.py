"""TransNet V2 finds shot changes, dissolves among them, from 48 x 27 pixels. Behind `cuts`, with `detector="transnet"`.

    vapdata build ... --set cuts.detector=transnet --set cuts.weights=transnetv2.safetensors

Weights come from the authors' repository as `transnetv2-pytorch-weights.pth`; `safetensors.torch.save_file` writes what
`torch.load(..., weights_only=True)` gives. Exercised by `pytest tests/vapdata/filters/test_transnet.py`.
"""

import functools
import os
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vapdata.errors import CallError
from vapdata.filters.lengths import Lengths

WIDTH, HEIGHT = 48, 27
WINDOW, MIDDLE, MARGIN = 100, 50, 25
"""A window of 100 frames answers for its middle 50."""
LONGEST_WAIT = MIDDLE + MARGIN
"""Frames after which a frame's answer is known."""


class TransNetFinder:
    """Finds the cuts of one video, given its frames in order."""

    def __init__(self, weights: str, probability: float, lengths: Lengths) -> None:
        self._predict = _opened(weights)
        self._probability = probability
        self._lengths = lengths
        self._waiting: list[UInt8[np.ndarray, "27 48 3"]] = []
        self._times: list[float] = []
        self._next = 0
        self._in_transition = False

    def add(self, image: UInt8[np.ndarray, "h w 3"], time_s: float) -> list[int]:
        """Takes the next frame; gives the indices (from 0, in calls of `add`) of frames now known to begin a new shot."""
        small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        if not self._waiting and not self._next:
            self._waiting = [small] * MARGIN  # as the authors: the first frame stands for those before it
        self._waiting.append(small)
        self._times.append(time_s)
        return self._answers() if len(self._waiting) == WINDOW else []

    def finish(self) -> list[int]:
        """The cuts among the frames that no window has answered for; the last frame stands for those after it."""
        found: list[int] = []
        while self._times:
            self._waiting += [self._waiting[-1]] * (WINDOW - len(self._waiting))
            found += self._answers()
        return found

    def _answers(self) -> list[int]:
        scores = self._predict(np.stack(self._waiting))[MARGIN : MARGIN + MIDDLE]
        found = []
        for score, time_s in zip(scores, self._times, strict=False):  # at a video's end fewer frames are waiting than a window answers for
            transition = bool(score > self._probability)
            # a transition's last frame still shows the old shot
            if self._lengths.begins(self._in_transition and not transition, time_s):
                found.append(self._next)
            self._in_transition = transition
            self._next += 1
        self._waiting, self._times = self._waiting[MIDDLE:], self._times[MIDDLE:]
        return found


@functools.lru_cache(maxsize=1)
def _opened(weights: str) -> Callable[[UInt8[np.ndarray, "t 27 48 3"]], Float[np.ndarray, " t"]]:
    """Frames to the probability that a transition lies behind each; the network is loaded once per process."""
    if not os.path.isfile(weights):
        raise CallError(f"cuts.weights: there is no file {weights}; type --set cuts.weights=transnetv2.safetensors with its path")
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from vapdata.filters.transnet_net import TransNetV2

    network = TransNetV2()
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise CallError(f"cuts.weights: {os.path.basename(weights)} does not hold TransNet V2's tensors as safetensors: {str(error)[:300]}") from error
    network.eval()

    @torch.inference_mode()
    def predict(frames: UInt8[np.ndarray, "t 27 48 3"]) -> Float[np.ndarray, " t"]:
        return torch.sigmoid(network(torch.from_numpy(frames)[None])[0, :, 0]).numpy()

    return predict
