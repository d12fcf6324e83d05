"""The command line: every flag told, every mistake one sentence before time is spent, and `--resume` that goes on with what a run was begun with."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from catalogs.store import Catalog
from train import METHODS
from train.batch import Reads
from train.index import build_index
from train.launch import command
from train.record import read_metrics
from train.run import Run
from vapdata.backbones import backbone

pytestmark = pytest.mark.slow

BACKBONE = "tiny-cogvideox"
SMALL = ("--global-batch", "2", "--micro-batch", "2", "--device", "cpu", "--set", "evaluation.samples=1", "--set", "evaluation.timesteps=2")


def typed(method: str, *arguments: str | Path) -> Result:
    """What `python -m train.METHOD ...` answers."""
    return CliRunner().invoke(command(method), [str(each) for each in arguments])


def sentence(answer: Result, status: int = 2) -> str:
    """The one sentence of a call that was refused; the lines before it are the configuration's."""
    assert answer.exit_code == status and not isinstance(answer.exception, Exception), (answer.output, answer.exception)
    (said,) = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert answer.stderr.endswith(f"{said}\n"), "it is the last line"
    return said


@pytest.fixture(scope="module")
def runs(tiny_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs, `vap` and `full`, of two steps."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("vap", "full"):
        answer = typed(method, "--catalog", tiny_catalog, "--out", folder / method, "--steps", 2, "--seed", 5, *SMALL)
        assert answer.exit_code == 0, (answer.output, answer.exception)
    return folder


@pytest.fixture
def vap_run(runs: Path, tmp_path: Path) -> Path:
    """A copy of the run `vap`, to be changed."""
    return Path(shutil.copytree(runs / "vap", tmp_path / "vap"))


def taken(path: Path, table: str, gone: Callable[[dict[str, Any]], bool]) -> None:
    """Takes rows out of a table's files, as no command does."""
    for file in (path / table).glob("*.parquet"):
        rows = pq.read_table(file)
        pq.write_table(rows.filter(pa.array([not gone(row) for row in rows.to_pylist()], pa.bool_())), file)


# What is told


@pytest.mark.parametrize("method", [*METHODS])
def test_help_lists_every_flag_and_every_part(method: str) -> None:
    answer = typed(method, "--help")
    flags = ("catalog", "backbone", "recipe", "out", "resume", "steps", "global-batch", "micro-batch", "lr", "seed", "where", "product", "weights", "device", "set")
    flags += ("workers", "address", "restarts", "mirror")
    assert answer.exit_code == 0 and all(re.search(rf"^ +--{flag} .*\S", answer.output, re.MULTILINE) for flag in flags), answer.output
    assert {parameter.opts[0].removeprefix("--") for parameter in command(method).params} == {*flags}
    assert all(part in answer.output for part in (method, "draws", "optimizer", "blocks", "parallel", "evaluation", "checkpoints", "samples", "logging"))


def test_the_printed_configuration_is_complete_and_is_what_config_json_holds(tiny_catalog: Path, tmp_path: Path) -> None:
    answer = typed("vap", "--catalog", tiny_catalog, "--out", tmp_path / "run", "--steps", 1, "--lr", "3e-4", *SMALL)
    run = Run.described(json.loads((tmp_path / "run" / "config.json").read_text()), tmp_path)
    assert run.optimizer.lr == 3e-4 and run.steps == 1 and run.evaluation.timesteps == 2
    for part, value in run.parts().items():
        (line,) = [line for line in answer.stderr.splitlines() if line.startswith(f"  {part} ")]
        wanted = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        shown = {f"{name}={setting}" for name, setting in wanted.items() if not dataclasses.is_dataclass(setting) and name not in ("name", "backbone")}
        assert shown <= {*re.split(r"  +", line.strip())}
    assert f"recipe {run.name}  backbone {run.backbone}  catalog {tiny_catalog}  run {tmp_path / 'run'}" in answer.stderr
    before, after = read_metrics(tmp_path / "run")[0]["eval_loss"], read_metrics(tmp_path / "run")[-1]["eval_loss"]
    assert re.fullmatch(
        rf"eval_loss  {before:.4f} before, {after:.4f} after 1 steps \(paired drop -?\d\.\d{{4}}, standard error \d\.\d{{4}}\)\n"
        rf"weights    {re.escape(str(tmp_path / 'run' / 'export'))}\n",
        answer.stdout,
    ), answer.stdout


def test_the_defaults_are_the_folder_catalog_its_only_backbone_and_a_folder_by_the_time(tiny_catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "catalog").symlink_to(tiny_catalog)
    answer = typed("vap", "--steps", 1, *SMALL)
    assert answer.exit_code == 0, (answer.output, answer.exception)
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"vap-\d{8}-\d{6}", folder.name) and f"run runs/{folder.name}" in answer.stderr
    config = json.loads((folder / "config.json").read_text())
    assert (config["backbone"], config["name"], config["catalog"]) == (BACKBONE, "vap-tiny", str(tmp_path / "catalog"))


# Resuming


def test_resuming_takes_catalog_and_settings_from_the_run_and_the_call_changes_what_may_change(runs: Path, vap_run: Path) -> None:
    answer = typed("vap", "--resume", "--out", vap_run, "--steps", 3, "--set", "evaluation.every=1")
    assert answer.exit_code == 0, (answer.output, answer.exception)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (runs / "vap", vap_run))
    assert {name for name in before if before[name] != after[name]} == {"steps", "evaluation", "resumed_from"}
    assert (after["steps"], after["resumed_from"], after["seed"]) == (3, [2], 5)
    assert [row["step"] for row in read_metrics(vap_run)] == [0, 1, 2, 3]


def test_a_finished_run_says_so_and_is_left_alone(vap_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in vap_run.rglob("*")}
    answer = typed("vap", "--resume", "--out", vap_run)
    assert answer.exit_code == 0
    assert f"this run is finished: all of its 2 steps are taken. More of them: --resume --out {vap_run} --steps 4" in answer.stdout
    assert "eval_loss  " in answer.stdout
    assert before == {path: path.stat().st_mtime_ns for path in vap_run.rglob("*")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--seed", "6"), "was written with seed 5; this run has seed 6. Type --seed 5, or give another --out"),
        (("--global-batch", "4"), "was written with global_batch 2; this run has global_batch 4. Type --global-batch 2, or give another --out"),
        (("--set", "vap.caption_drop=0.5"), "was written with vap.caption_drop 0.02; this run has vap.caption_drop 0.5. Type --set vap.caption_drop=0.02"),
        (("--backbone", "tiny-wan"), "was written with backbone tiny-cogvideox; this run has backbone tiny-wan. Type --backbone tiny-cogvideox"),
        (("--steps", "1"), "is at step 2 already, 1 are wanted in all. Type --steps 2 or more"),
        (("--set", "evaluation.timesteps=3", "--steps", "3"), "holds another evaluation grid than this run's settings make"),
        (("--set", "optimizer.ema=0.9", "--steps", "3"), "holds no moving average, this run wants one. Type --set optimizer.ema=0"),
    ],
)
def test_resuming_with_another_setting_is_refused_in_one_sentence_and_changes_nothing(arguments: tuple[str, ...], says: str, runs: Path) -> None:
    before = {path: path.read_bytes() for path in (runs / "vap").rglob("*") if path.is_file()}
    assert says in sentence(typed("vap", "--resume", "--out", runs / "vap", *arguments))
    assert before == {path: path.read_bytes() for path in (runs / "vap").rglob("*") if path.is_file()}


def test_resuming_refuses_another_catalog_but_follows_one_that_has_moved(vap_run: Path, tiny_catalog: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(tiny_catalog, tmp_path / "there"))
    said = sentence(typed("vap", "--resume", "--out", vap_run, "--catalog", there))
    assert f"this run was trained on the catalog {tiny_catalog}, --catalog names {there}. Leave --catalog out" in said
    header = vap_run / "index" / "index.json"
    header.write_text(header.read_text().replace(str(tiny_catalog), str(tmp_path / "gone")))
    answer = typed("vap", "--resume", "--out", vap_run, "--catalog", there, "--steps", 3)
    assert answer.exit_code == 0, answer.output
    assert json.loads((vap_run / "config.json").read_text())["catalog"] == str(there)


def test_resuming_refuses_other_pairs_and_a_checkpoint_of_another_method(runs: Path, vap_run: Path, fresh_catalog: Path, change: Callable[..., int]) -> None:
    pairs = {row["pair_id"]: row for row in Catalog.open(fresh_catalog).read("pairs").to_pylist()}
    first = min(pairs)
    taken(fresh_catalog, "pairs", lambda row: row["pair_id"] == first)
    change(fresh_catalog, "pairs", lambda row: row | {"generation": "g2"})
    facts = backbone(BACKBONE)
    build_index(Catalog.open(fresh_catalog), facts, Reads(first=1, references=1), method="vap").save(vap_run / "index")
    said = sentence(typed("vap", "--resume", "--out", vap_run))
    assert "pairs (generation) g1" in said and "pairs (generation) g2" in said and said.endswith("Give another --out")
    shutil.rmtree(vap_run / "index")
    shutil.copytree(runs / "vap" / "index", vap_run / "index")
    shutil.copytree(runs / "full" / "checkpoints" / "step-00000002", vap_run / "checkpoints" / "step-00000003")
    said = sentence(typed("vap", "--resume", "--out", vap_run))
    assert "was written with method full" in said and "this run has method vap" in said


def test_resuming_by_another_methods_command_or_of_no_run_is_refused(runs: Path, tmp_path: Path) -> None:
    assert f"is a run of train.vap. Type python -m train.vap --resume --out {runs / 'vap'}" in sentence(typed("full", "--resume", "--out", runs / "vap"))
    assert "there is no run in" in sentence(typed("vap", "--resume", "--out", tmp_path / "nowhere"))
    assert "of which run? Give its folder: python -m train.vap --resume --out RUN" in sentence(typed("vap", "--resume"))
    (tmp_path / "config.json").write_text("{}")
    assert "is no run of this version of the program" in sentence(typed("vap", "--resume", "--out", tmp_path))


# Wrong calls


@pytest.mark.parametrize(
    ("method", "arguments", "says"),
    [
        ("vap", ("--backbone", "tiny-wan"), "has no video latents of tiny-wan, only of tiny-cogvideox. Type --backbone tiny-cogvideox"),
        ("vap", ("--backbone", "tiny-cogvideo"), "no backbone is called 'tiny-cogvideo'"),
        ("vap", ("--backbone", "tiny-cogvideo"), "Did you mean tiny-cogvideox?"),
        ("vap", ("--recipe", "vap-tyni"), "--recipe 'vap-tyni': there is no such training recipe, did you mean 'vap-tiny'. Known: vap-tiny, "),
        ("vap", ("--recipe", "full-tiny"), "--recipe full-tiny: trains full, this command is train.vap. Type one of vap-tiny, "),
        ("vap", ("--set", "optimzer.lr=1"), "--set optimzer.lr=1: there is no part 'optimzer', did you mean 'optimizer'. Known"),
        ("vap", ("--set", "optimizer.lrr=1"), "--set optimizer.lrr=1: optimizer has no field 'lrr', did you mean 'lr'. Known"),
        ("vap", ("--set", "optimizer.lr=fast"), "--set optimizer.lr=fast: got 'fast', wanted a number"),
        ("vap", ("--set", "steps"), "type --set part.field=value, e.g. --set optimizer.lr=1e-4"),
        ("vap", ("--lr", "-1"), "optimizer"),
        ("vap", ("--device", "warp"), "--device warp: torch knows no such device. Type cpu, cuda or cuda:0"),
        ("vap", ("--device", "meta"), "--device meta: training runs on cpu or cuda"),
        ("vap", ("--where", "clip_id = 'nobody'"), "selects none of the 28 clips"),
        ("vap", ("--where", "motoin > 3"), "motoin"),
        ("vap", ("--product", "none"), "--product none: "),
        ("vap", ("--weights", "NOWHERE"), "there is no folder transformer/ in it. Name a folder in diffusers' layout, or a finished run of train.full"),
        ("vap", ("--weights", "VAP"), "this run has exported no backbone"),
        ("vap", ("--catalog", "NOWHERE"), "no catalog at"),
        ("vap", ("--out", "VAP"), "holds a run already. Go on with it: --resume; or give another --out"),
        ("full", ("--set", "full.caption_drop=2"), "full: caption_drop is a share, 0 to 1; got 2"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_leaves_nothing_behind(
    method: str, arguments: tuple[str, ...], says: str, runs: Path, tiny_catalog: Path, tmp_path: Path
) -> None:
    named = {"NOWHERE": str(tmp_path / "nowhere"), "VAP": str(runs / "vap")}
    given = [named.get(each, each) for each in arguments]
    defaults = {"--catalog": str(tiny_catalog), "--out": str(tmp_path / "run"), "--backbone": BACKBONE, "--device": "cpu"}
    missing = [part for name, value in defaults.items() if name not in given for part in (name, value)]
    assert says in sentence(typed(method, *given, *missing))
    assert not (tmp_path / "run").exists()


# Catalogs that do not fit


@pytest.fixture
def bad(fresh_catalog: Path, tmp_path: Path) -> Callable[..., Result]:
    """Trains on `fresh_catalog`."""
    return lambda *more: typed("vap", "--catalog", fresh_catalog, "--out", tmp_path / "run", "--steps", "1", *SMALL, *more)


def test_missing_first_frame_latents_are_counted_and_the_build_is_named(fresh_catalog: Path, bad: Callable[..., Result]) -> None:
    taken(fresh_catalog, "latents", lambda row: row["kind"] != "video")
    said = sentence(bad())
    assert re.search(r"20 of 20 clips have no tiny-cogvideox-vae-first1-32x32 \(first: .*Make it: vapdata build", said)


def test_a_caption_that_has_changed_since_its_embedding_is_stale(fresh_catalog: Path, change: Callable[..., int], bad: Callable[..., Result]) -> None:
    text = "another caption"
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert change(fresh_catalog, "captions", lambda row: row | {"text": text, "text_sha256": digest}) > 0
    assert "of a caption that has changed since" in sentence(bad())


def test_a_catalog_without_pairs_says_how_to_make_them(fresh_catalog: Path, bad: Callable[..., Result]) -> None:
    taken(fresh_catalog, "pairs", lambda row: True)
    assert f"train.vap learns from pairs, and {fresh_catalog} has none. Make them: vapdata pairs --catalog {fresh_catalog}" in sentence(bad())


def test_a_catalog_without_latents_says_how_to_make_them(fresh_catalog: Path, bad: Callable[..., Result]) -> None:
    taken(fresh_catalog, "latents", lambda row: True)
    assert "has no video latents of a known backbone. Make them: vapdata build" in sentence(bad())


def test_a_tensor_that_is_not_finite_is_found_before_the_first_step(fresh_catalog: Path, bad: Callable[..., Result], tmp_path: Path) -> None:
    index = build_index(Catalog.open(fresh_catalog), backbone(BACKBONE), Reads(first=1, references=1), method="vap")
    place = index.place("video", 7)
    with (fresh_catalog / place.file).open("r+b") as file:
        file.seek(place.start + 2 * 100)
        file.write(b"\xc0\x7f")  # NaN in bf16
    said = sentence(bad(), 1)
    assert index.clip_ids[7] in said and "1 of 768 numbers are NaN or infinite" in said and f"--where \"clip_id <> '{index.clip_ids[7]}'\"" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_tensor_file_that_was_cut_short_is_named(fresh_catalog: Path, bad: Callable[..., Result]) -> None:
    (file, *_) = sorted(fresh_catalog.glob("tensors/tiny-cogvideox-vae-9x32x32-8fps/*.parquet"))
    os.truncate(file, file.stat().st_size // 2)
    assert f"{file.relative_to(fresh_catalog)} in {fresh_catalog} cannot be read" in sentence(bad(), 1)
