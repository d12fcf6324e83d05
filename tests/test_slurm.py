"""slurm.sh does what it says: starts, goes on, and asks a run to end before its time is up. SLURM's own commands are played by scripts that write down how they were called."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from train.launch import command

NODES = "#!/bin/bash\nif [ $1 = show ]; then echo first; echo second; else echo \"$@\" >> \"$CALLS/scontrol\"; fi\n"
SRUN = "#!/bin/bash\necho \"$@\" >> \"$CALLS/srun\"\n"
SRUN_UNTIL_STOPPED = SRUN + 'while [ ! -f "$RUN/stop" ]; do sleep 0.05; done\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "run").mkdir()
    return tmp_path


def started(place: Path, script: Path, srun: str) -> subprocess.Popen[str]:
    for name, text in (("scontrol", NODES), ("srun", srun)):
        (place / "bin" / name).write_text(text)
        (place / "bin" / name).chmod(0o755)
    told = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "CALLS": str(place), "RUN": str(place / "run"), "CATALOG": "s3://bucket/catalog"}
    slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    return subprocess.Popen(["bash", str(script)], env=told | slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_it_starts_a_run_and_goes_on_with_one_and_every_flag_is_known(place: Path, repository: Path) -> None:
    for begun in (False, True):
        if begun:
            (place / "run" / "config.json").write_text("{}")
        run = started(place, repository / "slurm.sh", SRUN)
        said, _ = run.communicate(timeout=60)
        assert run.returncode == 0, said
    first, second = ((place / "srun").read_text()).splitlines()
    assert second == first.replace(f"--out {place / 'run'}", f"--out {place / 'run'} --resume")
    assert first.startswith("torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-id 7.0 --rdzv-endpoint first:29500 -m train.vap ")
    typed = second.partition("-m train.vap ")[2].split()
    given = command("vap").make_context("train.vap", typed).params
    assert (given["catalog"], given["resume"], given["settings"]) == ("s3://bucket/catalog", True, ("parallel.shard=8",))


def test_before_its_time_is_up_it_asks_the_run_to_end_and_is_queued_again(place: Path, repository: Path) -> None:
    run = started(place, repository / "slurm.sh", SRUN_UNTIL_STOPPED)
    while not (place / "srun").exists():
        time.sleep(0.05)
    run.send_signal(signal.SIGUSR1)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 0 and (place / "run" / "stop").exists(), said
    assert (place / "scontrol").read_text() == "requeue 7\n"
