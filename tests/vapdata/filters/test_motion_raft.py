"""RAFT on random weights, saved and loaded as real ones are: the unit, the border, and what is refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.optical_flow import raft_small

from vapdata.clip import Clip
from vapdata.errors import CallError, MissingInput
from vapdata.filters.motion_raft import MotionRaft, MotionRaftMeter, bordered

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=1.0, frames=8, fps=8.0, width=8, height=8, codec="h264", whole=True
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return raft_small(weights=None).eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("raft") / "raft_small.safetensors"
    save_file({name: each.contiguous() for name, each in network.state_dict().items()}, path)
    return str(path)


def _frame(seed, height=130, width=140):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_saved_weights_give_the_networks_own_mean_length_per_half_second(network, weights):
    first, second = _frame(1), _frame(2)
    with torch.inference_mode():
        inputs = [torch.from_numpy(bordered(each)).permute(2, 0, 1)[None].float() / 127.5 - 1 for each in (first, second)]
        wanted = network(*inputs)[-1][0, :, :130, :140].double().norm(dim=0).mean().item()
    meter = MotionRaft(weights=weights, size="small", device="cpu").open()(CLIP)
    meter.add(first, 0.0)
    meter.add(first, 0.0)
    meter.add(second, 0.25)
    (score,) = meter.finish()
    assert score.filter == "motion_raft"
    assert score.value == pytest.approx(2 * wanted, abs=1e-3)  # a quarter of a second counts for half of one


def test_lengths_add_up_over_time():
    meter = MotionRaftMeter(CLIP, 2.0, lambda first, second: 3.0)
    for step in range(4):
        meter.add(_frame(step), 0.5 * step)
    assert meter.finish()[0].value == 3


def test_pictures_are_continued_to_what_the_network_takes():
    assert bordered(_frame(0, 90, 321)).shape == (128, 328, 3)
    assert bordered(_frame(0, 136, 320)).shape == (136, 320, 3)


def test_one_frame_is_an_error_and_no_number():
    with pytest.raises(MissingInput, match="motion_raft of d/a: needs two frames"):
        MotionRaftMeter(CLIP, 2.0, lambda first, second: 0.0).finish()


def test_missing_and_wrong_weights_are_refused(weights):
    with pytest.raises(CallError, match=r"type --set motion_raft\.weights=raft_large\.safetensors"):
        MotionRaft().open()
    with pytest.raises(CallError, match="does not hold raft_large's tensors"):
        MotionRaft(weights=weights, device="cpu").open()
    with pytest.raises(CallError, match=r"--set motion_raft\.fps=2"):
        MotionRaft(fps=0)
