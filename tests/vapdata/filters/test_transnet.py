"""TransNet V2 on random weights, saved and loaded as real ones are: shapes by hand, windows, and what a probability becomes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vapdata.errors import CallError
from vapdata.filters import transnet
from vapdata.filters.cuts import Cuts
from vapdata.filters.lengths import Lengths
from vapdata.filters.transnet import LONGEST_WAIT, TransNetFinder
from vapdata.filters.transnet_net import TransNetV2, around, histograms


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return TransNetV2().eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("transnet") / "transnet.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


def test_the_tensors_have_the_authors_names_and_the_shapes_counted_by_hand(network):
    shapes = {name: tuple(each.shape) for name, each in network.state_dict().items()}
    assert shapes["SDDCNN.0.DDCNN.0.Conv3D_1.layers.0.weight"] == (32, 3, 1, 3, 3)
    assert shapes["SDDCNN.0.DDCNN.1.Conv3D_8.layers.1.weight"] == (16, 32, 3, 1, 1)
    assert shapes["SDDCNN.1.DDCNN.0.Conv3D_2.layers.0.weight"] == (64, 64, 1, 3, 3)
    assert shapes["SDDCNN.2.DDCNN.1.Conv3D_4.layers.0.weight"] == (128, 256, 1, 3, 3)
    assert shapes["SDDCNN.2.DDCNN.1.bn.running_var"] == (256,)
    assert shapes["frame_sim_layer.projection.weight"] == (128, 64 + 128 + 256)
    assert shapes["frame_sim_layer.fc.weight"] == shapes["color_hist_layer.fc.weight"] == (128, 101)
    assert shapes["fc1.weight"] == (1024, 256 * 3 * 6 + 128 + 128)
    assert shapes["cls_layer1.weight"] == shapes["cls_layer2.weight"] == (1, 1024)
    # 3 stacks x 2 x (4 x 2 convolutions + 5 of the norm), 2 + 4 comparisons (weight and bias each), 3 x 2 linear
    assert len(shapes) == 3 * 2 * 13 + 6 + 6


def test_each_frame_gets_one_logit(network):
    assert network(torch.zeros(1, 7, 27, 48, 3, dtype=torch.uint8)).shape == (1, 7, 1)


def test_neighbours_are_compared_by_hand_computed_products():
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    found = around(x)
    assert found.shape == (1, 3, 101)
    assert found[0, 0, 49:53].tolist() == [0, 1, 0, 1]  # before, itself, next, the one after
    assert found[0, 2, 48:52].tolist() == [1, 1, 2, 0]


def test_colours_are_counted_in_eight_by_eight_by_eight():
    frames = torch.tensor([255, 0, 40], dtype=torch.uint8).expand(1, 1, 2, 3, 3)
    counts = histograms(frames)
    assert counts.shape == (1, 1, 512)
    assert counts[0, 0, (7 << 6) + 1] == 6
    assert counts.sum() == 6


def _frames(count):
    return np.random.default_rng(0).integers(0, 256, (count, 27, 48, 3), dtype=np.uint8)


@pytest.mark.slow
def test_saved_weights_give_what_the_network_gives(network, weights):
    shown = _frames(100)
    with torch.inference_mode():
        wanted = torch.sigmoid(network(torch.from_numpy(shown)[None]))[0, :, 0].numpy()
    assert np.allclose(transnet._opened(weights)(shown), wanted, atol=1e-6)


@pytest.mark.parametrize("count", [1, 60, 100, 163])
def test_every_frame_is_answered_for_once_and_in_time(monkeypatch, count):
    """A stand-in for the network that marks dark frames: the windows around it are what is tested."""
    monkeypatch.setattr(transnet, "_opened", lambda weights: lambda frames: (frames.mean((1, 2, 3)) < 10).astype(np.float32))
    shown = np.full((count, 27, 48, 3), 200, np.uint8)
    dark = [index for index in (12, 49, 50, 74, 75, 130, 131) if index < count - 1]
    shown[dark] = 0
    finder, found = TransNetFinder("-", 0.5, Lengths(0.0, None)), {}
    for index, image in enumerate(shown):
        found.update(dict.fromkeys(finder.add(image, index / 25), index))
    found.update(dict.fromkeys(finder.finish(), count - 1))
    assert sorted(found) == [index + 1 for index in dark if index + 1 not in dark]
    assert all(known - index <= LONGEST_WAIT for index, known in found.items())


@pytest.mark.slow
def test_the_cuts_of_a_scan_may_come_from_it(weights):
    cuts = Cuts(detector="transnet", weights=weights, max_s=1.0)
    assert cuts.delay == LONGEST_WAIT
    finder, found = cuts.open(), []
    for index, image in enumerate(_frames(60)):
        found += finder.add(image, index / 25)
    begins = [0, *found, *finder.finish(), 60]
    # whatever random weights say, no clip but the last is shorter than min_s, none longer than max_s
    assert all(7 <= end - start <= 25 for start, end in pairwise(begins[:-1]))
    assert 0 < begins[-1] - begins[-2] <= 25


def test_weights_that_are_missing_or_of_something_else_are_refused(tmp_path):
    with pytest.raises(CallError, match=r"type --set cuts\.weights=transnetv2\.safetensors"):
        Cuts(detector="transnet")
    with pytest.raises(CallError, match=r"cuts\.weights: there is no file"):
        Cuts(detector="transnet", weights=str(tmp_path / "none")).open()
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(CallError, match="does not hold TransNet V2's tensors"):
        Cuts(detector="transnet", weights=str(other)).open()
    pickled = tmp_path / "weights.pth"
    pickled.write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(CallError, match="does not hold TransNet V2's tensors as safetensors"):
        Cuts(detector="transnet", weights=str(pickled)).open()
