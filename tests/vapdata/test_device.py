"""Device choice, batches, and the checks that every encoder makes on what goes in and out."""

import numpy as np
import pytest
import torch

from vapdata import device as devices
from vapdata.errors import ClipError, Transient


def test_the_gpu_is_taken_when_there_is_one() -> None:
    assert devices.pick(None) == ("cuda" if torch.cuda.is_available() else "cpu")
    assert devices.pick("cpu") == "cpu"


def test_a_cpu_computes_in_float32_and_a_gpu_in_bfloat16() -> None:
    assert devices.precision("cpu") == torch.float32
    assert devices.precision("cuda:0") == torch.bfloat16


def test_a_cpu_works_one_by_one_and_a_gpu_in_batches() -> None:
    assert [len(range(5)[group]) for group in devices.groups(5, "cpu", 2)] == [1, 1, 1, 1, 1]
    assert [len(range(5)[group]) for group in devices.groups(5, "cuda", 2)] == [2, 2, 1]
    assert list(devices.groups(0, "cuda", 2)) == []


def test_running_out_of_gpu_memory_may_pass_and_says_what_to_type() -> None:
    with pytest.raises(Transient, match=r"--set vae\.tile_above_gb=4"), devices.out_of_memory("vae", "Type: --set vae.tile_above_gb=4"):
        raise torch.cuda.OutOfMemoryError("out of memory")


def test_values_that_are_not_finite_are_never_handed_on() -> None:
    good = np.zeros(3, np.float32)
    assert devices.finite(good, "p", "c") is good
    with pytest.raises(ClipError, match="1 of 3 values for clip c are NaN or infinite"):
        devices.finite(np.array([0, np.nan, 1], np.float32), "p", "c")
