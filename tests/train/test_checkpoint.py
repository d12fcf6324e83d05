import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from train.checkpoint import Checkpoints, Saver, Stamp, newest, read_stamp, refuse, restore, restore_weights
from train.optimizer import average, averages, trained
from train.world import World, world
from vapdata.errors import CallError, RunError

STAMP = Stamp(
    method="vap",
    config='{"caption_drop": 0.02, "expert_layers": null, "name": "vap"}',
    backbone="tiny-cogvideox",
    catalog="catalog",
    index="1f" * 32,
    generation="2e" * 32,
    step=0,
    ranks=1,
    global_batch=8,
    seed=3,
)


class Learner(nn.Module):
    """A small module with what a method may have: matrices, a scalar, a buffer, and a part that does not learn."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.into = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, 6)
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.out.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.into(x)).relu()) * self.gain


class Trained:
    """A learner on its way; every step is the same wherever and whenever it is taken."""

    def __init__(self, *, seed: int = 0, ema: bool = True, width: int = 12) -> None:
        torch.manual_seed(seed)
        self.module = Learner(width)
        self.optimizer = torch.optim.AdamW(trained(self.module).values(), lr=1e-2)
        self.ema = averages(self.module) if ema else None
        self.step = 0

    def train(self, steps: int) -> "Trained":
        for _ in range(steps):
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(self.step))
            (self.module(x) - x).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.ema is not None:
                average(self.ema, self.module, 0.9)
            self.step += 1
        return self

    def save(self, saver: Saver, *, block: bool = True) -> None:
        saver.save(self.step, self.module, self.optimizer, self.ema, block=block)

    def restore(self, path: Path) -> "Trained":
        self.step = restore(path, self.module, self.optimizer, self.ema)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a step depends on."""
        named = dict(self.module.named_parameters())
        moments = {f"{name}.{kind}": value for name in trained(self.module) for kind, value in self.optimizer.state[named[name]].items()}
        return {**self.module.state_dict(), **moments, **{f"ema.{name}": value for name, value in (self.ema or {}).items()}}

    def digest(self) -> str:
        digest = hashlib.sha256(str(self.step).encode())
        for name, value in sorted(self.tensors().items()):
            digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()


@pytest.fixture
def alone() -> Iterator[World]:
    with world("cpu") as here:
        yield here


def _folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def _held(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, read without the code under test."""
    held = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            held |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a dict
    return held


@pytest.mark.usefixtures("alone")
def test_weights_moments_and_average_come_back_bit_for_bit_and_training_goes_on_as_if_undisturbed(tmp_path: Path) -> None:
    first = Trained().train(5)
    first.save(Saver(tmp_path, Checkpoints(), STAMP))
    second = Trained(seed=1).restore(newest(tmp_path))
    assert second.step == 5
    assert all(torch.equal(value, second.tensors()[name]) for name, value in first.tensors().items())
    assert first.train(7).digest() == second.train(7).digest()


@pytest.mark.usefixtures("alone")
def test_what_is_kept_is_the_modules_state_the_moments_of_what_learns_and_the_average_and_nothing_else(tmp_path: Path) -> None:
    run = Trained().train(2)
    run.save(Saver(tmp_path, Checkpoints(), STAMP))
    held = _held(newest(tmp_path))
    learns = ("into.weight", "into.bias", "norm.weight", "norm.bias", "out.weight", "gain")
    wanted = {f"model.{name}" for name in run.module.state_dict()} | {f"ema.{name}" for name in learns}
    wanted |= {f"optimizer.{name}.{kind}" for name in learns for kind in ("step", "exp_avg", "exp_avg_sq")}
    assert held.keys() == wanted
    assert {value.dtype for name, value in held.items() if not name.endswith("num_batches_tracked")} == {torch.float32}


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    Trained().train(1).save(Saver(tmp_path, Checkpoints(), STAMP))
    assert sorted(path.name for path in newest(tmp_path).iterdir()) == ["shard-00001-model-00001-of-00001.safetensors", "stamp.json"]


@pytest.mark.usefixtures("alone")
def test_moments_find_their_weight_by_name_when_the_optimiser_lists_weights_in_another_order(tmp_path: Path) -> None:
    first = Trained().train(3)
    first.save(Saver(tmp_path, Checkpoints(), STAMP))
    second = Trained(seed=1)
    second.optimizer = torch.optim.AdamW([*reversed(trained(second.module).values())], lr=1e-2)
    second.restore(newest(tmp_path))
    assert first.digest() == second.digest()


@pytest.mark.usefixtures("alone")
def test_the_optimisers_settings_are_the_runs_own(tmp_path: Path) -> None:
    Trained().train(1).save(Saver(tmp_path, Checkpoints(), STAMP))
    second = Trained()
    second.optimizer = torch.optim.AdamW(trained(second.module).values(), lr=0.5, weight_decay=0.3)
    second.restore(newest(tmp_path))
    assert (second.optimizer.param_groups[0]["lr"], second.optimizer.param_groups[0]["weight_decay"]) == (0.5, 0.3)


@pytest.mark.usefixtures("alone")
def test_what_is_written_in_the_background_is_the_moment_of_the_call_byte_for_byte(tmp_path: Path) -> None:
    behind, before = Trained(), Trained()
    background = Saver(tmp_path / "background", Checkpoints(keep=9), STAMP)
    waiting = Saver(tmp_path / "waiting", Checkpoints(keep=9, background=False), STAMP)
    for _ in range(6):
        behind.train(1).save(background, block=False)  # and on at once with the next step
        before.train(1).save(waiting, block=False)
    background.finish()
    waiting.finish()
    assert _folders(tmp_path / "background") == _folders(tmp_path / "waiting") == [f"step-{step:08d}" for step in range(1, 7)]
    for step in _folders(tmp_path / "background"):
        one, other = (_held(tmp_path / way / "checkpoints" / step) for way in ("background", "waiting"))
        assert one.keys() == other.keys()
        assert all(value.numpy().tobytes() == other[name].numpy().tobytes() for name, value in one.items())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Checkpoints(keep=1), [10]),
        (Checkpoints(keep=3), [8, 9, 10]),
        (Checkpoints(keep=2, keep_every=4), [4, 8, 9, 10]),
        (Checkpoints(keep=20), list(range(1, 11))),
    ],
)
@pytest.mark.slow
def test_the_newest_stay_and_every_nth_where_that_is_wanted(policy: Checkpoints, kept: list[int], tmp_path: Path) -> None:
    saver, run = Saver(tmp_path, policy, STAMP), Trained()
    for _ in range(10):
        run.train(1).save(saver, block=False)
    saver.finish()
    assert _folders(tmp_path) == [f"step-{step:08d}" for step in kept]
    assert newest(tmp_path).name == "step-00000010"


@pytest.mark.usefixtures("alone")
def test_large_weights_are_cut_into_several_files_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.checkpoint.FILE_BYTES", 700)
    first = Trained().train(2)
    first.save(Saver(tmp_path, Checkpoints(), STAMP))
    assert len([*newest(tmp_path).glob("*.safetensors")]) > 2
    assert Trained(seed=1).restore(newest(tmp_path)).digest() == first.digest()


@pytest.mark.usefixtures("alone")
def test_a_weight_that_lies_transposed_in_memory_comes_back_equal(tmp_path: Path) -> None:
    first, second = Trained(), Trained(seed=1)
    for run in (first, second):
        run.module.into.weight.data = run.module.into.weight.data.T.contiguous().T
    first.train(2).save(Saver(tmp_path, Checkpoints(), STAMP))
    assert second.restore(newest(tmp_path)).digest() == first.digest()


def test_an_unfinished_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for name in (".step-00000009.partial", ".step-00000003.removed", "step-00000008", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest(tmp_path) is None
    for name in ("step-00000007", "step-00000012", ".step-00000020.partial"):
        (tmp_path / "checkpoints" / name).mkdir(exist_ok=True, parents=True)
        (tmp_path / "checkpoints" / name / "stamp.json").write_text("{}")
    assert newest(tmp_path).name == "step-00000012"


@pytest.mark.usefixtures("alone")
def test_the_next_run_removes_what_an_earlier_one_left_unfinished_and_only_that(tmp_path: Path) -> None:
    for name in (".step-00000009.partial", ".step-00000003.removed", "notes", ".hidden"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "file").write_text("x")
    Trained().train(1).save(Saver(tmp_path, Checkpoints(), STAMP))
    assert _folders(tmp_path) == [".hidden", "notes", "step-00000001"]


@pytest.mark.usefixtures("alone")
def test_a_step_that_is_saved_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    run, saver = Trained(seed=0).train(1), Saver(tmp_path, Checkpoints(), STAMP)
    run.save(saver)
    other = Trained(seed=1).train(1)
    other.save(saver)
    assert _folders(tmp_path) == ["step-00000001"]
    assert run.restore(newest(tmp_path)).digest() == other.digest()


@pytest.mark.usefixtures("alone")
def test_the_stamp_says_which_run_and_which_step(tmp_path: Path) -> None:
    Trained().train(4).save(Saver(tmp_path, Checkpoints(), STAMP))
    assert read_stamp(newest(tmp_path)) == replace(STAMP, step=4)


def _stamped(tmp_path: Path, stamp: Stamp = STAMP) -> Path:
    path = tmp_path / "checkpoints" / "step-00000100"
    path.mkdir(parents=True)
    (path / "stamp.json").write_text(json.dumps(vars(stamp)))
    return path


@pytest.mark.parametrize("same", [STAMP, replace(STAMP, step=7, ranks=4, catalog="/elsewhere/catalog"), replace(STAMP, weights="ab" * 8)])
def test_a_run_on_other_processes_or_from_a_moved_catalog_is_the_same_run(same: Stamp, tmp_path: Path) -> None:
    refuse(_stamped(tmp_path), same)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"method": "full", "config": '{"name": "full"}'}, "method vap; this run has method full. Type python -m train.vap, or give another --out"),
        ({"backbone": "cogvideox-2b"}, "backbone tiny-cogvideox; this run has backbone cogvideox-2b. Type --backbone tiny-cogvideox, or give another --out"),
        ({"global_batch": 16}, "global_batch 8; this run has global_batch 16. Type --global-batch 8, or give another --out"),
        ({"seed": 4}, "seed 3; this run has seed 4. Type --seed 3, or give another --out"),
        ({"seed": 4, "global_batch": 2}, "global_batch 8, seed 3; this run has global_batch 2, seed 4. Type --global-batch 8 --seed 3, or give another --out"),
        ({"index": "3d" * 32}, "samples (index) 1f1f1f1f1f1f; this run has samples (index) 3d3d3d3d3d3d. Give another --out"),
        ({"generation": "4c" * 32}, "pairs (generation) 2e2e2e2e2e2e; this run has pairs (generation) 4c4c4c4c4c4c. Give another --out"),
        ({"generation": None}, "pairs (generation) 2e2e2e2e2e2e; this run has pairs (generation) none. Give another --out"),
        (
            {"config": '{"caption_drop": 0.1, "expert_layers": [0, 4], "name": "vap"}'},
            "vap.caption_drop 0.02, vap.expert_layers none; this run has vap.caption_drop 0.1, vap.expert_layers 0,4. "
            "Type --set vap.caption_drop=0.02 --set vap.expert_layers=none, or give another --out",
        ),
    ],
)
def test_another_runs_checkpoint_is_refused_with_what_differs_and_what_to_type(other: dict[str, object], said: str, tmp_path: Path) -> None:
    path = _stamped(tmp_path)
    with pytest.raises(CallError) as refused:
        refuse(path, replace(STAMP, **other))
    assert str(refused.value) == f"{path}: was written with {said}"


def test_other_backbone_weights_are_refused_where_both_are_known(tmp_path: Path) -> None:
    path = _stamped(tmp_path, replace(STAMP, weights="aa" * 8))
    refuse(path, STAMP)
    with pytest.raises(CallError) as refused:
        refuse(path, replace(STAMP, weights="bb" * 8))
    assert str(refused.value) == f"{path}: was written with backbone weights aaaaaaaaaaaa; this run has backbone weights bbbbbbbbbbbb. Give another --out"


def test_a_stamp_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    path = _stamped(tmp_path)
    (path / "stamp.json").write_text('{"method": "vap"')
    with pytest.raises(CallError, match=r"stamp\.json cannot be read as a checkpoint's \(.*\)\. Remove the folder to go on from the one before, or give another --out"):
        refuse(path, STAMP)


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_of_other_tensors_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    Trained().train(1).save(Saver(tmp_path, Checkpoints(), STAMP))
    path, wider = newest(tmp_path), Trained(width=20)
    before = {name: value.clone() for name, value in wider.module.state_dict().items()}
    with pytest.raises(CallError) as refused:
        wider.restore(path)
    assert str(refused.value) == f"{path}: ema.into.bias is (12,) in the checkpoint, (20,) in this run (22 such tensors). Give another --out"
    assert all(torch.equal(value, before[name]) for name, value in wider.module.state_dict().items())
    deeper = Trained()
    deeper.module.more = nn.Linear(2, 2).requires_grad_(False)
    del deeper.module._parameters["gain"]
    deeper.optimizer = torch.optim.AdamW(trained(deeper.module).values(), lr=1e-2)
    deeper.ema = averages(deeper.module)
    with pytest.raises(CallError) as refused:
        deeper.restore(path)
    assert str(refused.value) == (
        f"{path}: 2 tensors are missing (model.more.bias, model.more.weight) and 5 tensors are left over (ema.gain, model.gain, optimizer.gain.exp_avg, ...); "
        "the method trains other tensors now. Give another --out"
    )


@pytest.mark.usefixtures("alone")
def test_an_average_may_be_dropped_on_resuming_but_not_invented(tmp_path: Path) -> None:
    Trained(ema=True).train(1).save(Saver(tmp_path / "with", Checkpoints(), STAMP))
    Trained(ema=False).train(1).save(Saver(tmp_path / "without", Checkpoints(), STAMP))
    assert Trained(ema=False, seed=1).restore(newest(tmp_path / "with")).digest() == Trained(ema=False).train(1).digest()
    path = newest(tmp_path / "without")
    with pytest.raises(CallError) as refused:
        Trained(ema=True).restore(path)
    assert str(refused.value) == f"{path}: holds no moving average, this run wants one. Type --set optimizer.ema=0, or give another --out"


def test_weights_alone_are_read_by_a_process_without_a_group_or_an_optimiser(tmp_path: Path) -> None:
    with world("cpu"):
        first = Trained().train(4)
        first.save(Saver(tmp_path, Checkpoints(), STAMP))
    module = Learner()
    assert restore_weights(newest(tmp_path), module) == 4
    assert all(torch.equal(value, first.module.state_dict()[name]) for name, value in module.state_dict().items())
    with pytest.raises(CallError, match=r"model\.into\.bias is \(12,\) in the checkpoint, \(20,\) in this run \(7 such tensors\)"):
        restore_weights(newest(tmp_path), Learner(width=20))


@pytest.mark.usefixtures("alone")
def test_a_file_that_was_cut_off_is_one_sentence(tmp_path: Path) -> None:
    Trained().train(1).save(Saver(tmp_path, Checkpoints(), STAMP))
    path = newest(tmp_path)
    file = next(path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"step-00000001: a file of this checkpoint cannot be read \(.+\)\. Remove the folder to go on from the one before$"):
        Trained().restore(path)


@pytest.mark.parametrize("wrong", [{"every": -1}, {"keep": 0}, {"keep_every": -2}])
def test_a_policy_that_cannot_be_is_refused_with_what_to_type(wrong: dict[str, int]) -> None:
    with pytest.raises(CallError, match=r"keep is 1 or more, the others 0 or more\. Type e\.g\. --set checkpoints\.keep=3"):
        Checkpoints(**wrong)


# Several processes: this file is also what they run.


def _command(*words: object) -> list[str]:
    return [sys.executable, "-W", "error", __file__, *map(str, words)]


def _environment(repository: Path, **more: object) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **{name: str(value) for name, value in more.items()}}


def _run(repository: Path, *words: object) -> str:
    done = subprocess.run(_command(*words), env=_environment(repository), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run_pair(repository: Path, *words: object) -> list[str]:
    """What each of two processes printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        subprocess.Popen(_command(*words), env=_environment(repository, RANK=rank, LOCAL_RANK=rank, **shared), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        said = [each.communicate(timeout=600) for each in both]
    finally:
        for each in both:
            each.kill()
    assert [each.returncode for each in both] == [0, 0], said
    return [out for out, _ in said]


def _go_on(folder: str, steps: str) -> None:
    """Trains with a checkpoint in the background at each step, while the main thread has collectives of its own; says what it has."""
    with world("cpu") as here:
        run = Trained(seed=here.rank)
        path = newest(Path(folder))
        run = run.restore(path) if path else Trained()
        saver = Saver(Path(folder), Checkpoints(keep=2), replace(STAMP, ranks=here.ranks))
        for _ in range(int(steps)):
            run.train(1).save(saver, block=False)
            here.total([1.0])
        saver.finish()
        print(run.digest())


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_two_processes_go_on_from_one_and_one_from_two(tmp_path: Path, repository: Path) -> None:
    first = Trained().train(2)
    first.save(Saver(tmp_path, Checkpoints(), STAMP))
    wanted = f"{Trained().train(5).digest()}\n"
    assert _run_pair(repository, "go_on", tmp_path, 3) == [wanted, wanted]
    path = newest(tmp_path)
    assert read_stamp(path).ranks == 2
    assert sorted(each.name for each in path.glob("*.safetensors")) == [f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)]
    assert Trained(seed=1).restore(path).train(4).digest() == Trained().train(9).digest()


def _write_apart(folder: str) -> None:
    """Two processes whose --out is not the same folder."""
    with world("cpu") as here:
        try:
            Trained().train(1).save(Saver(Path(folder) / str(here.rank), Checkpoints(), STAMP))
        except RunError as error:
            print(error)


@pytest.mark.slow
def test_processes_that_do_not_share_a_folder_are_told_so(tmp_path: Path, repository: Path) -> None:
    sentence = (
        f"{tmp_path}/0/checkpoints/.step-00000001.partial: lacks shard-00002-model-00001-of-00001.safetensors, which another process has written (1 such files). "
        "Give an --out that is one folder for all machines\n"
    )
    assert _run_pair(repository, "write_apart", tmp_path) == [sentence, sentence]
    assert newest(tmp_path / "0") is None


def _fill_the_disk(folder: str) -> None:
    """Runs into a limit on the size of files while a checkpoint is written, then goes on without it."""
    with world("cpu"):
        run, saver = Trained(width=500).train(1), Saver(Path(folder), Checkpoints(), STAMP)
        run.save(saver)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        run.train(1).save(saver, block=False)
        told = []
        try:
            saver.finish()
        except RunError as error:
            told.append(str(error))
        try:
            run.save(saver, block=True)
        except RunError as error:
            told.append(str(error))
        print(json.dumps({"told": told, "folders": _folders(Path(folder))}))
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        run.save(saver)
        print(json.dumps({"folders": _folders(Path(folder))}))


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_one_sentence_and_leaves_the_earlier_checkpoint(tmp_path: Path, repository: Path) -> None:
    full, freed = [json.loads(line) for line in _run(repository, "fill_the_disk", tmp_path).splitlines()]
    sentence = f"{tmp_path}/checkpoints/step-00000002: the checkpoint cannot be written (File too large). Free the disk, then go on with --resume"
    assert full == {"told": [sentence, sentence], "folders": ["step-00000001"]}
    assert freed == {"folders": ["step-00000001", "step-00000002"]}


TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree")
WIDTH = 2_000


def _die_often(folder: str, at_files: str, from_outside: str) -> None:
    """Lives one after another on the same folder, each resumed from what the one before left, each killed with SIGKILL.

    `at_files` of them kill themselves at their 1st, 4th, 7th ... touch of the file system, `from_outside` are
    killed at a training step while checkpoints are written. Every resumed life has exactly the state of an
    undisturbed run at that step, or fails.
    """
    undisturbed = [Trained(width=WIDTH).digest()]
    twin = Trained(width=WIDTH)
    lives = int(at_files) + int(from_outside)
    for _ in range(6 * lives + 2):
        undisturbed.append(twin.train(1).digest())
    told = []
    for life in range(lives):
        way = {"touch": 1 + 3 * life, "after": None} if life < int(at_files) else {"touch": None, "after": life % 7}
        told.append(_life(Path(folder), undisturbed, steps=6, **way))
    told.append(_life(Path(folder), undisturbed, steps=2, touch=None, after=None))
    began, killed = zip(*told, strict=True)
    print(json.dumps({"killed": sum(killed), "began_at": sorted(set(began)), "last": began[-1]}))


def _life(folder: Path, undisturbed: list[str], *, steps: int, touch: int | None, after: int | None) -> tuple[int, bool]:
    """One process, up to its death at its `touch`, after step `after`, or to its end; the step that it began at, and whether it was killed."""
    reads, writes = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.close(reads)
            _live(folder, undisturbed, touch, steps, writes)
            status = 0
        finally:
            os._exit(status)
    os.close(writes)
    with os.fdopen(reads, "rb", buffering=0) as said:
        began = int.from_bytes(said.read(4), "big")
        if after is not None:
            for _ in range(after):
                said.read(1)
            os.kill(process, signal.SIGKILL)
        while said.read(64):
            pass
    _, status = os.waitpid(process, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0, f"a life ended by itself, with {status}"
    return began, killed


def _live(folder: Path, undisturbed: list[str], touch: int | None, steps: int, writes: int) -> None:
    with world("cpu"):
        path = newest(folder)
        run = Trained(seed=1, width=WIDTH).restore(path) if path else Trained(width=WIDTH)
        assert run.digest() == undisturbed[run.step], f"{path} is not what an undisturbed run has at step {run.step}"
        os.write(writes, run.step.to_bytes(4, "big"))
        if touch is not None:
            _die_at(touch)
        saver = Saver(folder, Checkpoints(keep=2, keep_every=10), STAMP)
        for _ in range(steps):
            run.train(1).save(saver, block=False)
            os.write(writes, b".")
        saver.finish()


def _die_at(touch: int) -> None:
    """SIGKILL at the process's `touch`-th operation on the file system from here on, in whichever thread."""
    left = [touch]

    def count(event: str, _: tuple[object, ...]) -> None:
        if event in TOUCHES:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


@pytest.mark.slow
def test_a_process_that_is_killed_at_any_moment_leaves_a_newest_checkpoint_that_is_whole(tmp_path: Path, repository: Path) -> None:
    told = json.loads(_run(repository, "die_often", tmp_path, 30, 15))
    print(told)
    assert told["killed"] > 30, "lives that come to their end show little"
    assert len(told["began_at"]) > 15, "so do lives that die before they keep anything"
    assert all(not name.startswith(".") for name in _folders(tmp_path)), "the last life cleared up"
    with world("cpu"):
        assert Trained(seed=1, width=WIDTH).restore(newest(tmp_path)).step == told["last"] + 2


COMMANDS = {"go_on": _go_on, "write_apart": _write_apart, "fill_the_disk": _fill_the_disk, "die_often": _die_often}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
