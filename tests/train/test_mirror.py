"""A run's copy in a real S3 server: a run whose folder is lost goes on from it as if nothing had happened."""

import logging
import shutil
from pathlib import Path

import pytest
import tenacity
from click.testing import CliRunner, Result
from lived import exported, furthest

from catalogs.files import files_at
from train.launch import command
from train.mirror import Mirror
from train.record import read_metrics
from vapdata.errors import CallError, RunError

SMALL = ["--global-batch", "6", "--micro-batch", "3", "--device", "cpu", "--set", "evaluation.samples=2", "--set", "evaluation.timesteps=2", "--set", "checkpoints.every=1"]


def trained(out: Path, *arguments: str) -> Result:
    """One call of train.vap."""
    answer = CliRunner().invoke(command("vap"), ["--out", str(out), *arguments])
    assert answer.exit_code == 0, answer.output
    return answer


def kept(bucket: str) -> list[str]:
    """What lies in the copy."""
    return files_at(bucket)[0].walk("")


@pytest.fixture
def place(bucket: str, tmp_path: Path) -> str:
    """An address of this test's own: the server's buckets outlive it."""
    return bucket.replace("s3://bucket/c?", f"s3://bucket/{tmp_path.name}?")


@pytest.mark.slow
def test_a_run_whose_folder_is_lost_goes_on_from_its_copy_bit_for_bit(tiny_catalog: Path, place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun = ["--catalog", str(tiny_catalog), *SMALL]
    trained(tmp_path / "undisturbed", *begun, "--steps", "4")
    trained(tmp_path / "lost", *begun, "--steps", "2", "--set", "checkpoints.keep=1", "--mirror", place)
    assert {name.split("/")[1] for name in kept(place) if name.startswith("checkpoints/")} == {"step-00000002"}, "what went on disk went there"
    assert {"config.json", "metrics.jsonl", "evaluation.json", "index/index.json", "export/card.json"} <= {*kept(place)}
    shutil.rmtree(tmp_path / "lost")
    with caplog.at_level(logging.INFO, "train"):
        trained(tmp_path / "found", "--resume", "--mirror", place, "--steps", "4", "--device", "cpu")
    assert "fetched checkpoints/step-00000002 from s3://bucket/" in caplog.text and "resumed_from" in caplog.text
    assert furthest(exported(tmp_path / "undisturbed"), exported(tmp_path / "found")) == 0
    losses = [[(row["step"], row.get("loss")) for row in read_metrics(tmp_path / run)] for run in ("undisturbed", "found")]
    assert losses[0] == losses[1]
    assert "checkpoints/step-00000004/stamp.json" in kept(place), "the address stands in the run's settings"
    again = CliRunner().invoke(command("vap"), [*begun, "--out", str(tmp_path / "new"), "--mirror", place])
    assert again.exit_code == 2 and "holds a run already. Go on with it: --resume --mirror s3://bucket/" in again.stderr


def run_in(folder: Path, step: int) -> Path:
    """A run's folder as far as a copy looks at it; its one checkpoint."""
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    for path in (folder / "config.json", folder / "metrics.jsonl", checkpoint / "stamp.json", checkpoint / "model.safetensors"):
        path.write_text(f"{path.name} of {step}")
    for left_out in ("logs/rank-00000.log", ".metrics.jsonl.partial", "samples/a.mp4"):
        (folder / left_out).parent.mkdir(exist_ok=True)
        (folder / left_out).write_text("-")
    return checkpoint


def test_half_a_checkpoint_in_the_store_is_not_fetched(place: str, tmp_path: Path) -> None:
    mirror = Mirror(place)
    mirror.keep(run_in(tmp_path / "run", 3))
    assert kept(place) == ["checkpoints/step-00000003/model.safetensors", "checkpoints/step-00000003/stamp.json", "config.json", "metrics.jsonl"]
    files_at(place)[0].write_bytes("checkpoints/step-00000009/model.safetensors", b"cut off before its stamp")
    mirror.fetch(tmp_path / "other")
    assert sorted(path.relative_to(tmp_path / "other").as_posix() for path in (tmp_path / "other").rglob("*") if path.is_file()) == [
        "checkpoints/step-00000003/model.safetensors",
        "checkpoints/step-00000003/stamp.json",
        "config.json",
        "metrics.jsonl",
    ]
    (tmp_path / "other" / "config.json").write_text("of another run")
    mirror.fetch(tmp_path / "other")
    assert (tmp_path / "other" / "config.json").read_text() == "of another run", "a folder that holds a run is left as it is"


def test_a_copy_that_fails_is_said_and_made_up_for_and_at_the_end_it_is_an_error(place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mirror = Mirror(place.replace("s3://bucket/", "s3://absent/"))
    mirror._wait = tenacity.wait_none()
    checkpoint = run_in(tmp_path / "run", 1)
    with caplog.at_level(logging.WARNING, "train"):
        mirror.keep(checkpoint)
    assert "step-00000001 is not in s3://absent/" in caplog.text and "the next checkpoint is tried again" in caplog.text
    with pytest.raises(RunError, match=r"the run is whole in .*/run, but not in s3://absent/.* the same command with --resume"):
        mirror.finish(tmp_path / "run")
    with pytest.raises(RunError, match=r"--mirror s3://absent/.*: cannot be written to"):
        mirror.begin(tmp_path / "run")


def test_wrong_addresses_are_one_sentence(place: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="the address has a key in it, which would stand in config.json"):
        Mirror("s3://key:secret@bucket/run")
    with pytest.raises(CallError, match=r"there is no run in .*/run, and none in s3://bucket/.*\. Give the --out or the --mirror"):
        Mirror(place).fetch(tmp_path / "run")
