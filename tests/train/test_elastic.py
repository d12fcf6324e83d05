"""A Ray cluster of two machines loses one: the run goes on with the worker that is left, on the same global batches."""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lived import Lives, exported, furthest

from train.record import read_metrics

STEPS = 6
PATIENCE_S = 900


@contextlib.contextmanager
def two_machines(log: Path) -> Iterator[subprocess.Popen[str]]:
    """The cluster of two_machines.py."""
    with log.open("w") as said:
        cluster = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("two_machines.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )
        try:
            yield cluster
        finally:
            cluster.communicate(timeout=PATIENCE_S)


@pytest.mark.slow
def test_a_run_that_loses_a_machine_goes_on_with_the_worker_that_is_left(tiny_catalog: Path, tmp_path: Path) -> None:
    made = Lives(tmp_path, tiny_catalog)
    made.begin("undisturbed", STEPS, "checkpoints.every=1")
    made.live()
    (life,) = made.listed
    folder, log = tmp_path / "lost", tmp_path / "lost.log"
    arguments = [each if each != str(tmp_path / "undisturbed") else str(folder) for each in life["arguments"]]
    with two_machines(tmp_path / "cluster.log") as cluster, log.open("w") as out:
        assert cluster.stdout is not None and cluster.stdin is not None
        address = next(line.strip() for line in cluster.stdout if re.fullmatch(r"\S+:\d+", line.strip()))
        run = subprocess.Popen([sys.executable, "-m", "train.vap", *arguments, "--workers", "1-2", "--address", address], stdout=out, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + PATIENCE_S
            while not [*folder.glob("checkpoints/step-*")]:
                assert run.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            cluster.stdin.write("lose\n")
            cluster.stdin.flush()
            assert run.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            run.kill()
            run.wait()
    assert re.findall(r"process \d of (\d) on", "".join(path.read_text() for path in (folder / "logs").glob("rank-*.log"))) == ["2", "2"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["processes"], len(config["resumed_from"])) == (1, 1), "a process alone went on"
    assert furthest(exported(tmp_path / "undisturbed"), exported(folder)) < 1e-5
    told = [[(row["step"], row.get("samples")) for row in read_metrics(tmp_path / name)] for name in ("undisturbed", "lost")]
    assert told[0] == told[1]
    losses = [[row["eval_loss"] for row in read_metrics(tmp_path / name) if "eval_loss" in row] for name in ("undisturbed", "lost")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
