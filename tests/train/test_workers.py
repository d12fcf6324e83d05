"""Ray Train workers: one is killed on the way and the run ends as an undisturbed one; wrong calls are one sentence."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from lived import Lives, exported, furthest

from train.launch import command
from train.record import read_metrics
from train.workers import Workers
from vapdata.errors import CallError

STEPS = 6
PATIENCE_S = 900
"""A machine that does other work may take minutes to start two workers, twice."""


def killed_on_its_way(arguments: list[str], folder: Path, log: Path) -> tuple[int, str]:
    """Exit status of a run on workers of which one is killed once a checkpoint is there, and what it said."""
    with log.open("w") as out:
        run = subprocess.Popen([sys.executable, "-m", "train.vap", *arguments], stdout=out, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + PATIENCE_S
            while not [*folder.glob("checkpoints/step-*")]:
                assert run.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            (pid,) = re.findall(r"process 1 of 2 on \S+, pid (\d+)", (folder / "logs" / "rank-00001.log").read_text())
            os.kill(int(pid), signal.SIGKILL)
            return run.wait(PATIENCE_S), log.read_text()
        finally:
            run.kill()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_the_run_ends_as_the_undisturbed_one_bit_for_bit(tiny_catalog: Path, tmp_path: Path) -> None:
    made = Lives(tmp_path, tiny_catalog)
    made.begin("undisturbed", STEPS, "checkpoints.every=1", ranks=2)
    made.live()
    (life,) = made.listed
    arguments = [each if each != str(tmp_path / "undisturbed") else str(tmp_path / "killed") for each in life["arguments"]]
    status, said = killed_on_its_way([*arguments, "--workers", "2"], tmp_path / "killed", tmp_path / "killed.log")
    assert status == 0 and "Traceback" not in said, said
    logs = tmp_path / "killed" / "logs"
    assert len(re.findall(r"process 1 of 2 on", (logs / "rank-00001.log").read_text())) == 2, "it was started twice"
    assert len(json.loads((tmp_path / "killed" / "config.json").read_text())["resumed_from"]) == 1
    assert furthest(exported(tmp_path / "undisturbed"), exported(tmp_path / "killed")) == 0
    rows = [read_metrics(tmp_path / run) for run in ("undisturbed", "killed")]
    told = ("step", "loss", "grad_norm", "samples", "eval_loss", "eval_drop")
    assert [[row.get(name) for name in told] for row in rows[0]] == [[row.get(name) for name in told] for row in rows[1]]
    again = CliRunner().invoke(command("vap"), [*arguments, "--workers", "2"])
    assert again.exit_code == 2 and "holds a run already. Go on with it: --resume" in again.stderr


@pytest.mark.parametrize(("asked", "least", "most"), [("8", 8, 8), ("4-8", 4, 8), (" 1-1 ", 1, 1)])
def test_workers_are_a_number_or_a_range(asked: str, least: int, most: int) -> None:
    made = Workers.of(asked, None, 3)
    assert (made.least, made.most) == (least, most)


@pytest.mark.parametrize("asked", ["0", "8-4", "all", "4,8"])
def test_other_numbers_of_workers_are_refused(asked: str) -> None:
    with pytest.raises(CallError, match=r"got neither a number nor a range of them\. Type --workers 8, or --workers 4-8"):
        Workers.of(asked, None, 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--address", "auto"), "--address auto: how many workers of that cluster? Type --workers 8"),
        (("--workers", "many"), "--workers many: got neither a number"),
        (("--workers", "2", "--out", "s3://bucket/run"), "--out s3://bucket/run: a run lies in a folder that all its machines share"),
        (("--out", "gs://bucket/run"), "--out gs://bucket/run: a run lies in a folder"),
    ],
)
def test_a_wrong_call_is_one_sentence_before_anything_is_started(arguments: tuple[str, ...], says: str, tiny_catalog: Path, tmp_path: Path) -> None:
    defaults = [] if "--out" in arguments else ["--out", str(tmp_path / "run")]
    answer = CliRunner().invoke(command("vap"), ["--catalog", str(tiny_catalog), *defaults, *arguments])
    assert answer.exit_code == 2 and f"error: {says}" in answer.stderr, answer.output
    assert not (tmp_path / "run").exists()
