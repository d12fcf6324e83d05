"""A run shared out among 1, 2 and 4 processes in every way is the same run: its losses, its weights, its checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from lived import Lives, exported, furthest
from safetensors import safe_open
from torch import nn

from train.export import read_card
from train.parallel import Parallel, clip
from train.record import read_metrics
from train.world import World
from vapdata.errors import CallError

CPU = torch.device("cpu")
STEPS = 4
HSDP = ("parallel.shard=2", "parallel.replicate_backbone=false", "parallel.offload=true", "blocks.keep=attention")
BOTH = ("parallel.shard=2", "parallel.sequence=2", "parallel.replicate_backbone=true", "parallel.offload=false")


@pytest.fixture(scope="module")
def lives(tiny_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """The same four steps in one process and shared out, and a run that goes from one layout to the next."""
    made = Lives(tmp_path_factory.mktemp("layouts"), tiny_catalog)
    small = ("evaluation.every=2", "checkpoints.every=2", "optimizer.clip=0.05")
    made.begin("one", STEPS, *small)
    made.begin("fsdp", STEPS, *small, "parallel.shard=0", "samples.every=4", "samples.count=1", "samples.steps=1", ranks=2)
    made.begin("hsdp", STEPS, *small, *HSDP, ranks=4)
    made.begin("sequence", STEPS, *small, "parallel.sequence=2", ranks=2)
    made.begin("moved", STEPS, *small, stop_at=1)
    made.add("moved", "--resume", *(part for each in BOTH for part in ("--set", each)), ranks=4, stop_at=1)
    made.add("moved", "--resume", "--set", "parallel.shard=0", "--set", "parallel.sequence=1", ranks=2)
    made.begin("full-one", 2, *small, method="full")
    made.begin("full-fsdp", 2, *small, "parallel.shard=0", "blocks.keep=nothing", method="full", ranks=2)
    made.live()
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("run", "like"), [("fsdp", "one"), ("hsdp", "one"), ("sequence", "one"), ("moved", "one"), ("full-fsdp", "full-one")])
def test_every_way_of_sharing_a_run_out_gives_the_losses_and_the_weights_of_one_process(run: str, like: str, lives: Lives) -> None:
    assert all(not any(statuses) for statuses in lives.of(run)), lives.said(run)
    rows, wanted = read_metrics(lives.folder / run), read_metrics(lives.folder / like)
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    for name in ("eval_loss", "eval_loss_shuffled", "eval_drop", "reference_sensitivity", "loss", "grad_norm"):
        assert [row[name] for row in rows if name in row] == pytest.approx([row[name] for row in wanted if name in row], abs=1e-5), name
    for name in ("samples", "model_tflops"):
        assert [row.get(name) for row in rows] == [row.get(name) for row in wanted]
    assert furthest(exported(lives.folder / run), exported(lives.folder / like)) < 1e-5
    cards = [read_card(lives.folder / name / "export") for name in (run, like)]
    assert cards[0].weights == cards[1].weights or run == "full-fsdp"
    assert cards[0].averaged and cards[0].parameters == cards[1].parameters


@pytest.mark.slow
def test_clipping_was_at_work_in_every_step(lives: Lives) -> None:
    assert all(row["grad_norm"] > 0.05 for row in read_metrics(lives.folder / "one")[1:])


@pytest.mark.slow
def test_a_run_goes_on_from_one_process_to_four_that_split_and_to_two(lives: Lives) -> None:
    moved = lives.folder / "moved"
    config = json.loads((moved / "config.json").read_text())
    assert (config["resumed_from"], config["processes"], config["parallel"]["shard"], config["parallel"]["sequence"]) == ([1, 3], 2, 0, 1)


@pytest.mark.slow
def test_what_is_split_is_written_in_parts_by_every_process_and_once(lives: Lives) -> None:
    parts = {}
    for path in sorted((lives.folder / "hsdp" / "checkpoints" / "step-00000004").glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            parts[path.name] = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict
    weight = "model.blocks.0.attn1.to_q.weight"
    held = [shapes[weight] for shapes in parts.values() if weight in shapes]
    assert len(held) == 2 and sum(shape[0] for shape in held) == 128 and all(shape[0] == 64 for shape in held), parts.keys()


@pytest.mark.slow
def test_samples_are_made_by_all_and_written_by_the_first(lives: Lives) -> None:
    assert (lives.folder / "fsdp" / "samples" / "step-00000004" / "sheet.png").is_file()


@pytest.mark.slow
def test_every_process_has_a_log_and_numbers_of_its_own(lives: Lives) -> None:
    logs = lives.folder / "hsdp" / "logs"
    assert sorted(path.name for path in logs.iterdir()) == sorted(f"rank-{rank:05d}.{kind}" for rank in range(4) for kind in ("log", "jsonl"))
    for rank in range(4):
        rows = [json.loads(line) for line in (logs / f"rank-{rank:05d}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [*range(1, STEPS + 1)]
        assert f"process {rank} of 4 on" in (logs / f"rank-{rank:05d}.log").read_text()
    own = [[json.loads(line)["loss"] for line in (logs / f"rank-{rank:05d}.jsonl").read_text().splitlines()] for rank in range(4)]
    assert [sum(each) for each in zip(*own, strict=True)] == pytest.approx([row["loss"] for row in read_metrics(lives.folder / "hsdp")[1:]])
    assert not (lives.folder / "one" / "logs").exists()


# Settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"shard": -1}, "got shard=-1 sequence=1; shard is 0 or more, sequence 1 or more. Type e.g. --set parallel.shard=0"),
        ({"sequence": 0}, "got shard=1 sequence=0"),
        ({"offload": True}, "offload=true speaks of what is split, and shard=1 splits nothing. Type --set parallel.shard=0"),
        ({"replicate_backbone": False}, "replicate_backbone=false speaks of what is split"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(CallError) as refused:
        Parallel(**settings)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"shard": 4}, "parallel.shard=4: 6 processes cannot be put into groups of 4. Type --set parallel.shard=2"), ({"sequence": 4}, "parallel.sequence=4: 6 processes")],
)
def test_groups_that_do_not_divide_the_processes_are_refused(settings: dict[str, int], says: str) -> None:
    with pytest.raises(CallError) as refused:
        Parallel(**settings).over(World(rank=0, ranks=6, device=CPU))
    assert says in str(refused.value)


@pytest.mark.parametrize("rank", range(6))
def test_neighbours_that_share_samples_are_given_the_same_part_and_one_of_them_counts(rank: int) -> None:
    layout = Parallel(sequence=3).over(World(rank=rank, ranks=6, device=CPU))
    assert (layout.data_rank, layout.data_ranks, layout.counts, layout.in_step) == (rank // 3, 2, rank in (0, 3), True)


@pytest.mark.parametrize("most", [0.0, 0.5, 100.0])
def test_clipping_is_torchs_own(most: float) -> None:
    torch.manual_seed(0)
    mine, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    for each in (mine, theirs):
        each.weight.grad, each.bias.grad = torch.arange(15.0).view(3, 5), torch.ones(3)
    norm = clip([*mine.parameters()], most)
    wanted = torch.nn.utils.clip_grad_norm_(theirs.parameters(), most or float("inf"))
    assert norm == pytest.approx(wanted.item(), rel=1e-6)
    assert torch.allclose(mine.weight.grad, theirs.weight.grad, rtol=1e-6) and torch.allclose(mine.bias.grad, theirs.bias.grad, rtol=1e-6)
