"""The loop on the real tiny model and a real catalog: what it writes, that it resumes exactly, and that batches are what they say."""

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lived import Lives, exported, furthest
from safetensors.torch import load_file

import train.record
from train.backbones import load_backbone
from train.checkpoint import newest
from train.data import Loader
from train.export import load_export, read_card
from train.loop import Finished, fit
from train.method import unwrapped
from train.optimizer import trained
from train.recipes import recipe
from train.record import read_metrics
from train.run import Run
from train.samples import Index
from train.trained_run import open_run
from train.world import world
from vapdata import backbones
from vapdata.errors import RunError

BACKBONE = "tiny-cogvideox"
GRID = ("evaluation.samples=2", "evaluation.timesteps=2")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order: what is compared bit for bit is made by processes of one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_of(method: str, *settings: str) -> Run:
    return recipe(None, method, BACKBONE).changed(["optimizer.warmup=2", *GRID, *settings])


def trained_in(folder: Path, catalog: Path, *settings: str, method: str = "vap", **more: Any) -> Finished:
    """`fit` in this process."""
    with world("cpu") as here:
        return fit(run_of(method, *settings), catalog=str(catalog), folder=folder, world=here, **more)


def beginning(method: str, loader_of: Path, **sizes: Any) -> tuple[torch.nn.Module, Loader]:
    """The module as it is at step 0, and a loader of the run in `loader_of`."""
    facts = backbones.backbone(BACKBONE)
    backbone = load_backbone(facts, dtype=torch.float32, device=torch.device("cpu"))
    run = run_of(method)
    module = run.method.attach(backbone, unwrapped)
    loader = Loader(Index.load(loader_of / "index"), facts, backbone.objective, seed=0, caption_drop=run.method.caption_drop, **sizes)
    return module, loader


# Thirty steps


@pytest.fixture(scope="module", params=["vap", "full"])
def thirty(request: pytest.FixtureRequest, tiny_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Thirty steps of a method, evaluated at every twelfth."""
    folder = tmp_path_factory.mktemp("thirty") / request.param
    settings = ("run.steps=30", "run.global_batch=4", "run.micro_batch=4", "evaluation.every=12", "checkpoints.every=20")
    return folder, trained_in(folder, tiny_catalog, *settings, method=request.param)


@pytest.mark.slow
def test_every_step_has_one_row_and_the_first_the_nth_and_the_last_an_evaluation(thirty: tuple[Path, Finished]) -> None:
    folder, finished = thirty
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == list(range(31))
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 12, 24, 30]
    assert all({"eval_drop", "eval_drop_se", "eval_loss_at"} <= row.keys() for row in rows if "eval_loss" in row)
    assert all(math.isfinite(row["loss"]) and row["samples"] == 4 for row in rows[1:])
    first, last = rows[0], rows[-1]
    assert first["eval_drop"] == 0 and first["eval_loss"] - last["eval_loss"] == pytest.approx(last["eval_drop"])
    assert (finished.step, finished.stopped, finished.first["eval_loss"], finished.last["eval_drop"]) == (30, False, first["eval_loss"], last["eval_drop"])
    assert last["eval_drop"] > 3 * last["eval_drop_se"] > 0


@pytest.mark.slow
def test_every_field_of_a_row_is_explained(thirty: tuple[Path, Finished]) -> None:
    explained = (train.record.__doc__ or "").split()
    assert {name for row in read_metrics(thirty[0]) for name in row} <= {*explained}


@pytest.mark.slow
def test_the_rate_in_the_rows_is_the_schedules_and_epochs_are_counted(thirty: tuple[Path, Finished]) -> None:
    rows, config = read_metrics(thirty[0])[1:], json.loads((thirty[0] / "config.json").read_text())
    spec = run_of(thirty[0].name).optimizer
    assert [row["lr"] for row in rows] == [spec.rate(step, 30) for step in range(30)]
    assert [row["epoch"] for row in rows] == [step // config["steps_per_epoch"] for step in range(30)]


@pytest.mark.slow
def test_what_a_run_leaves_behind_opens_again_with_the_weights_of_its_last_checkpoint(thirty: tuple[Path, Finished]) -> None:
    folder, _ = thirty
    opened = open_run(folder, device=torch.device("cpu"), dtype=torch.float32)
    kept = {name: value for path in (folder / "checkpoints" / "step-00000030").glob("*.safetensors") for name, value in load_file(path).items()}
    module = opened.module if isinstance(opened.module, torch.nn.Module) else torch.nn.ModuleDict({"transformer": opened.backbone.transformer})
    assert opened.step == 30
    assert all(torch.equal(kept[f"model.{name}"], value) for name, value in module.state_dict().items())


@pytest.mark.slow
def test_the_card_says_what_was_trained_on_what(thirty: tuple[Path, Finished], tiny_catalog: Path) -> None:
    card = read_card(thirty[0] / "export")
    assert (card.method, card.backbone, card.catalog, card.step) == (thirty[0].name, BACKBONE, str(tiny_catalog), 30)
    assert card.config == json.loads(json.dumps(asdict(run_of(thirty[0].name).method)))


@pytest.mark.slow
def test_the_configuration_is_stored_whole_with_what_it_met(thirty: tuple[Path, Finished], tiny_catalog: Path) -> None:
    folder, _ = thirty
    config = json.loads((folder / "config.json").read_text())
    settings = ("run.steps=30", "run.global_batch=4", "run.micro_batch=4", "evaluation.every=12", "checkpoints.every=20")
    run = run_of(folder.name, *settings)
    assert Run.described(config, folder / "config.json") == run
    assert config.items() >= json.loads(json.dumps(run.describe())).items()
    index = Index.load(folder / "index")
    assert (config["catalog"], config["index"], config["train_samples"]) == (str(tiny_catalog), index.fingerprint, len(index.train))
    assert (config["processes"], config["resumed_from"]) == (1, [])
    assert 0 < config["trained_parameters"] <= read_card(folder / "export").parameters


# Killed, asked to stop, moved


@pytest.fixture(scope="module")
def lives(tiny_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """An undisturbed run, one killed three times, one that goes from one process to two and back, and others."""
    made = Lives(tmp_path_factory.mktemp("lives"), tiny_catalog)
    made.begin("whole", 12)
    made.begin("killed", 12, die_at=random.randint(1, 16))
    made.add("killed", "--resume", die_at=random.randint(1, 25))
    made.add("killed", "--resume", die_at=random.randint(1, 25))
    made.add("killed", "--resume")
    made.add("killed", "--resume")
    made.begin("moved", 12, stop_at=4)
    made.add("moved", "--resume", "--micro-batch", "1", ranks=2, stop_at=4)
    made.add("moved", "--resume", "--micro-batch", "3")
    made.begin("full", 3, method="full", ranks=2)
    made.add("nowhere", "--catalog", str(tiny_catalog / "nowhere"), "--backbone", BACKBONE, ranks=2)
    made.live()
    return made


@pytest.mark.slow
def test_a_run_killed_at_random_places_ends_as_the_undisturbed_one_bit_for_bit(lives: Lives) -> None:
    whole, killed = lives.folder / "whole", lives.folder / "killed"
    where = [life.get("die_at") for life in lives.listed]
    assert lives.of("whole") == [[0]] and lives.of("killed")[0] == [-9] and lives.of("killed")[-2:] == [[0], [0]], (where, lives.said("killed"))
    assert furthest(exported(whole), exported(killed)) == 0, where
    rows = [read_metrics(folder) for folder in (whole, killed)]
    assert [row["step"] for row in rows[1]] == list(range(13)), where
    told = ("step", "loss", "grad_norm", "lr", "epoch", "samples", "eval_loss", "eval_drop", "eval_drop_se", "eval_reference_gain", "reference_sensitivity")
    assert [[row.get(name) for name in told] for row in rows[0]] == [[row.get(name) for name in told] for row in rows[1]], where
    kept = [{path.name: load_file(path) for path in newest(folder).glob("*.safetensors")} for folder in (whole, killed)]  # type: ignore[union-attr]
    assert all(furthest(kept[0][name], kept[1][name]) == 0 for name in kept[0]), "optimiser state and moving average too"
    assert not [*killed.rglob(".*")]


@pytest.mark.slow
def test_a_finished_run_says_so_when_it_is_resumed(lives: Lives) -> None:
    assert lives.of("killed")[-1] == [0]
    assert "this run is finished: all of its 12 steps are taken" in lives.said("killed")


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_zero_and_resuming_goes_on_on_other_numbers_of_processes(lives: Lives) -> None:
    whole, moved = lives.folder / "whole", lives.folder / "moved"
    assert lives.of("moved") == [[0], [0, 0], [0]], lives.said("moved")
    stops = json.loads((moved / "config.json").read_text())["resumed_from"]
    assert stops == [4, 9] and all(f"stopped after step {stop}, checkpoint written; go on with --resume --out {moved}" in lives.said("moved") for stop in stops)
    assert furthest(exported(whole), exported(moved)) < 1e-5
    rows = [read_metrics(folder) for folder in (whole, moved)]
    assert [row["step"] for row in rows[1]] == list(range(13))
    sizes = [[row["samples"] for row in each[1:]] for each in rows]
    assert sizes[0] == sizes[1] and [sorted(sizes[0][epoch : epoch + 3]) for epoch in (0, 3, 6, 9)] == [[4, 6, 6]] * 4
    assert [row["loss"] for row in rows[1][1:]] == pytest.approx([row["loss"] for row in rows[0][1:]], abs=1e-5)


@pytest.mark.slow
def test_two_processes_train_a_whole_backbone_as_one_does(lives: Lives, tiny_catalog: Path, tmp_path: Path) -> None:
    assert lives.of("full") == [[0, 0]], lives.said("full")
    settings = ("run.steps=3", "run.global_batch=6", "run.micro_batch=6", "optimizer.ema=0.9")
    trained_in(tmp_path / "one", tiny_catalog, *settings, method="full")
    assert furthest(exported(tmp_path / "one"), exported(lives.folder / "full")) < 1e-5


@pytest.mark.slow
def test_what_one_process_finds_wrong_ends_the_others(lives: Lives) -> None:
    assert lives.of("nowhere") == [[2, 1]]
    said = lives.said("nowhere")
    assert "error: no catalog at" in said and "error: process 0 could not go on; its message stands above" in said and "Traceback" not in said


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tiny_catalog: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = ("run.steps=2", "run.global_batch=2", "run.micro_batch=2")
    trained_in(tmp_path / "whole", tiny_catalog, *settings)
    trained_in(tmp_path / "begun", tiny_catalog, *settings)
    for path in (tmp_path / "begun" / "checkpoints").rglob("*.*"):
        path.unlink()
    with caplog.at_level("INFO", "train"):
        trained_in(tmp_path / "begun", tiny_catalog, *settings, resume=True)
    assert "has no complete checkpoint yet: it begins at step 0" in caplog.text
    assert [row["step"] for row in read_metrics(tmp_path / "begun")] == [0, 1, 2]
    assert furthest(exported(tmp_path / "whole"), exported(tmp_path / "begun")) == 0


@pytest.mark.slow
def test_a_run_goes_on_for_more_steps_than_it_was_begun_with(tiny_catalog: Path, tmp_path: Path) -> None:
    settings = ("run.global_batch=2", "run.micro_batch=2", "optimizer.schedule=constant")
    trained_in(tmp_path / "run", tiny_catalog, "run.steps=2", *settings)
    finished = trained_in(tmp_path / "run", tiny_catalog, "run.steps=3", *settings, resume=True)
    trained_in(tmp_path / "whole", tiny_catalog, "run.steps=3", *settings)
    assert finished.step == 3 and furthest(exported(tmp_path / "run"), exported(tmp_path / "whole")) == 0


# Batches


@pytest.mark.slow
def test_micro_steps_of_any_size_give_the_same_parameters(tiny_catalog: Path, tmp_path: Path) -> None:
    for size in (8, 4, 1):
        trained_in(tmp_path / str(size), tiny_catalog, "run.steps=3", "run.global_batch=8", f"run.micro_batch={size}", "optimizer.lr=3e-5", "evaluation.batch=4")
    norms = {size: [row["grad_norm"] for row in read_metrics(tmp_path / size)[1:]] for size in "841"}  # a wrong scale would not show in AdamW's weights
    assert norms["8"] == pytest.approx(norms["4"], rel=1e-5) and norms["8"] == pytest.approx(norms["1"], rel=1e-5)
    whole = exported(tmp_path / "8")
    assert furthest(whole, exported(tmp_path / "4")) < 1e-6
    assert furthest(whole, exported(tmp_path / "1")) < 1e-6


@pytest.mark.parametrize("micro_batch", [6, 2])
@pytest.mark.slow
def test_a_short_last_batch_counts_each_of_its_samples_once(micro_batch: int, tiny_catalog: Path, tmp_path: Path) -> None:
    """16 samples in batches of 6: the third has 4. Its loss and gradient are those of the mean over these four, by hand."""
    settings = ("run.steps=3", "run.global_batch=6", f"run.micro_batch={micro_batch}", "optimizer.lr=1e-30", "optimizer.weight_decay=0", "optimizer.clip=0")
    trained_in(tmp_path / "run", tiny_catalog, *settings)
    rows = read_metrics(tmp_path / "run")[1:]
    assert [row["samples"] for row in rows] == [6, 6, 4]
    module, loader = beginning("vap", tmp_path / "run", global_batch=6, micro_batch=1)
    short = loader.step(2)
    each = torch.cat([module(batch) for batch in short.micro])
    assert (len(each), len({*short.clip_ids})) == (4, 4)
    gradients = torch.autograd.grad(each.mean(), [*trained(module).values()])
    assert rows[2]["loss"] == pytest.approx(each.mean().item(), rel=1e-5)
    assert rows[2]["grad_norm"] == pytest.approx(math.sqrt(sum(float(each.square().sum()) for each in gradients)), rel=1e-4)
    loader.close()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_with_the_clips_on_disk_and_the_last_checkpoint_kept(tiny_catalog: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ("run.steps=5", "run.global_batch=2", "run.micro_batch=1", "optimizer.lr=1e30", "optimizer.warmup=0", "checkpoints.every=1")
    with pytest.raises(RunError, match=r"step 2: the loss or its gradient is not finite .*the step was not taken\. The batch's clips stand in .*optimizer\.lr=") as raised:
        trained_in(folder, tiny_catalog, *settings)
    (path,) = folder.glob("nonfinite-*")
    assert path.name == "nonfinite-step-00000002-rank-0.json" and str(path) in str(raised.value)
    told = json.loads(path.read_text())
    _, loader = beginning("vap", folder, global_batch=2, micro_batch=1)
    step = loader.step(1)
    assert told["clips"] == list(step.clip_ids) == [row["target"] for row in told["samples"]]
    assert [row["references"] for row in told["samples"]] == [list(batch.references[0].clip_ids) for batch in step.micro]
    assert [row["step"] for row in read_metrics(folder)] == [0, 1]
    assert newest(folder) == folder / "checkpoints" / "step-00000001" and not (folder / "export").exists()
    loader.close()


@pytest.mark.slow
def test_the_moving_average_is_exported_and_is_the_one_computed_by_hand(tiny_catalog: Path, tmp_path: Path) -> None:
    settings = ("run.steps=2", "run.global_batch=2", "run.micro_batch=2", "optimizer.ema=0.75", "checkpoints.every=1")
    trained_in(tmp_path / "run", tiny_catalog, *settings)
    module, loader = beginning("vap", tmp_path / "run", global_batch=2, micro_batch=2)
    wanted = {name: value.detach().double() for name, value in module.state_dict().items()}
    for step in (1, 2):
        kept = {name: value for path in (tmp_path / "run" / "checkpoints" / f"step-{step:08d}").glob("*.safetensors") for name, value in load_file(path).items()}
        wanted = {name: 0.75 * value + 0.25 * kept[f"model.{name}"].double() for name, value in wanted.items()}
    assert read_card(tmp_path / "run" / "export").averaged
    got = exported(tmp_path / "run")
    assert all(torch.allclose(got[name].double(), wanted[name], atol=1e-7) for name in trained(module))
    loader.close()


@pytest.mark.parametrize("method", ["vap", "full"])
@pytest.mark.slow
def test_arithmetic_in_bf16_runs_on_a_cpu_and_what_is_trained_stays_float32(method: str, tiny_catalog: Path, tmp_path: Path) -> None:
    settings = ("run.steps=2", "run.global_batch=2", "run.micro_batch=1", "run.compute=bf16", "blocks.keep=attention")
    trained_in(tmp_path / "run", tiny_catalog, *settings, method=method)
    assert {value.dtype for value in exported(tmp_path / "run").values()} == {torch.float32}
    assert all(math.isfinite(row["loss"]) for row in read_metrics(tmp_path / "run")[1:])


@pytest.mark.slow
def test_a_backbone_of_train_full_is_trained_beside_by_the_name_of_its_run(tiny_catalog: Path, tmp_path: Path) -> None:
    sizes = ("run.steps=1", "run.global_batch=2", "run.micro_batch=2")
    trained_in(tmp_path / "full", tiny_catalog, *sizes, "optimizer.lr=0.1", method="full")
    trained_in(tmp_path / "vap", tiny_catalog, *sizes, weights=str(tmp_path / "full"))
    config = json.loads((tmp_path / "vap" / "config.json").read_text())
    assert config["weights"] == str(tmp_path / "full" / "export")
    assert config["backbone_weights"] == read_card(tmp_path / "full" / "export").weights == read_card(tmp_path / "vap" / "export").weights
    facts = backbones.backbone(BACKBONE)
    beside = load_backbone(facts, dtype=torch.float32, device=torch.device("cpu"), folder=config["weights"])
    assert load_export(tmp_path / "vap" / "export", beside)


@pytest.mark.slow
def test_samples_are_made_while_training_and_change_nothing(tiny_catalog: Path, tmp_path: Path) -> None:
    sizes = ("run.steps=2", "run.global_batch=2", "run.micro_batch=2")
    trained_in(tmp_path / "plain", tiny_catalog, *sizes)
    trained_in(tmp_path / "sampled", tiny_catalog, *sizes, "samples.every=1", "samples.count=1", "samples.steps=1")
    assert [path.name for path in sorted((tmp_path / "sampled" / "samples").iterdir())] == ["step-00000001", "step-00000002"]
    assert (tmp_path / "sampled" / "samples" / "step-00000002" / "sheet.png").is_file()
    assert furthest(exported(tmp_path / "plain"), exported(tmp_path / "sampled")) == 0


def test_tensorboard_gets_every_number(tiny_catalog: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained_in(tmp_path / "run", tiny_catalog, "run.steps=2", "run.global_batch=2", "run.micro_batch=2", "logging.tensorboard=true")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    wanted: Sequence[float] = [row["loss"] for row in read_metrics(tmp_path / "run")[1:]]
    assert [each.value for each in events.Scalars("loss")] == pytest.approx(wanted)
    assert [each.step for each in events.Scalars("eval_loss")] == [0, 2]
