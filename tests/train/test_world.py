import os
import signal
from pathlib import Path

import pytest
import torch

from train.world import asked_to_stop, world
from vapdata.errors import CallError, RunError


def test_a_process_without_torchrun_is_a_world_of_its_own() -> None:
    with world("cpu") as here:
        assert (here.rank, here.ranks, here.device, here.is_first) == (0, 1, torch.device("cpu"), True)
        assert here.total([1.5, 2.0**60 + 256]) == [1.5, 2.0**60 + 256], "in float64"
    assert not torch.distributed.is_initialized()


def test_what_is_raised_in_the_first_process_is_raised_there_itself() -> None:
    done = []
    with world("cpu") as here:
        here.first_alone(lambda: done.append(1))
        here.together(lambda: done.append(2))
        with pytest.raises(CallError, match="^no$"):
            here.first_alone(_refuse)
        with pytest.raises(CallError, match="^no$"):
            here.together(_refuse)
    assert done == [1, 2]


def test_a_world_is_left_when_its_work_fails() -> None:
    with pytest.raises(CallError), world("cpu"):
        _refuse()
    assert not torch.distributed.is_initialized()


def test_a_process_that_cannot_meet_the_others_says_to_use_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(RunError, match=r"process 0 of 2 cannot meet the others .*Start all of them with torchrun"), world("cpu"):
        pass


@pytest.mark.parametrize(("asked", "says"), [("warp", "torch knows no such device"), ("meta", "training runs on cpu or cuda")])
def test_a_device_that_cannot_be_is_refused(asked: str, says: str) -> None:
    with pytest.raises(CallError, match=f"--device {asked}: {says}"), world(asked):
        pass


def test_a_gpu_that_is_not_there_is_refused() -> None:
    says = "counted from 0" if torch.cuda.is_available() else "torch sees no GPU on this machine. Type --device cpu"
    with pytest.raises(CallError, match=says), world("cuda:99"):
        pass


def test_sigterm_is_noted_inside_and_means_what_it_meant_before_outside(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with asked_to_stop(tmp_path) as asked:
        assert not asked.stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.stop
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_file_of_the_name_stop_asks_too(tmp_path: Path) -> None:
    with asked_to_stop(tmp_path) as asked:
        assert not asked.stop
        (tmp_path / "stop").touch()
        assert asked.stop


def _refuse() -> None:
    raise CallError("no")
