"""The command line: what is printed, where, and with which exit status. Builds themselves are tested beside pipelines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catalogs.store import Catalog
from vapdata import cli


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A catalog of three clips with scores, and one failure."""
    path = tmp_path / "catalog"
    made = Catalog.open(str(path), create=True)
    names = ["one", "two", "three"]
    common = {"source": "folder", "shard": "folder-000000", "split": "train"}
    rows = {
        "videos": [{**common, "video_id": f"folder/{n}", "dataset": "folder", "name": n, "uri": n, "split_group": "."} for n in names],
        "clips": [
            {
                **common,
                "clip_id": f"folder/{n}",
                "video_id": f"folder/{n}",
                "start_s": 0.0,
                "end_s": 2.0,
                "frames": 16,
                "fps": 8.0,
                "width": 160,
                "height": 96,
                "codec": "h264",
                "whole": True,
                "truncated": False,
            }
            for n in names
        ],
        "scores": [{"clip_id": f"folder/{n}", "shard": "folder-000000", "filter": "motion", "value": i * 2.0, "by": "motion"} for i, n in enumerate(names)],
        "failures": [
            {"video_id": "folder/two", "clip_id": "folder/two", "step": "vae", "error": "Unreadable", "message": "m", "attempts": 1, "permanent": True}
        ],
    }
    with made.lock("test"):
        made.recover()
        made.append(rows, run_id="run-1")
    return path


def _outside(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it: another process, from another folder."""
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent), **environment}
    return subprocess.run([sys.executable, "-m", "vapdata.cli", *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_help_loads_click_and_a_few_of_our_own_files(tmp_path: Path) -> None:
    """It answers in under 0.3 s on an idle machine; what that hangs on is what it imports, which load does not change."""
    code = "import sys\nbefore = set(sys.modules)\nfrom vapdata import cli\ncli.run(['--help'])\nprint(*sorted(set(sys.modules) - before), file=sys.stderr)"
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    loaded = done.stderr.split()
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"click", "vapdata"}
    assert len([name for name in loaded if name.startswith("vapdata")]) < 20


@pytest.mark.parametrize("name", sorted(cli.commands.commands))
def test_every_command_and_every_option_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: vapdata {name}")
    command = cli.commands.commands[name]
    assert command.help
    assert [option.name for option in command.params if option.param_type_name == "option" and not option.help] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "--source", "opnvid"], "did you mean 'openvid'"),
        (["build", "--source", "synthetic", "--recipe", "tinny"], "did you mean 'tiny'"),
        (["build", "--source", "synthetic", "--set", "motoin.fps=4"], "did you mean 'motion'"),
        (["build", "--source", "synthetic", "--set", "motion.fps=fast"], "wanted a number"),
        (["build", "--source", "synthetic", "--set", "motion"], "type --set step.field=value"),
        (["build", "--source", "synthetic", "--limit", "0"], "--limit"),
        (["build", "--source", "folder", "--root", "nowhere"], "nowhere"),
        (["build"], "--source"),
        (["query", "--catalog", "nowhere", "select 1"], "no catalog at nowhere"),
        (["status", "--catalog", "nowhere"], "no catalog at nowhere"),
        (["verify", "--catalog", "nowhere"], "no catalog at nowhere"),
        (["explain", "motoin"], "did you mean 'motion'"),
        (["models", "--recipe", "file.py:none"], "file.py"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_exit_status_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err + shown.out
    assert shown.out == ""
    assert not (tmp_path / "catalog").exists(), "a wrong call makes nothing"


def test_what_was_taken_by_default_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    cli.run(["build", "--source", "folder"])
    said = capsys.readouterr().err
    assert f"--root {os.path.join('data', 'folder')} (default)" in said
    assert "--recipe tiny (default)" in said


def test_a_place_that_cannot_be_written_ends_the_run_with_one_sentence(catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "nowhere" / "answer.csv"
    assert cli.run(["query", "--catalog", str(catalog), "--format", "csv", "--output", str(output), "select 1"]) == 1
    assert "name a file that can be written" in capsys.readouterr().err


def test_a_query_prints_a_table(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["query", "--catalog", str(catalog), "select source, count(*) as clips, avg(motion) as motion from clips_wide group by 1"]) == 0
    shown = capsys.readouterr().out
    assert "folder" in shown
    assert "1 row" in shown


def test_csv_and_json_go_to_the_screen_or_to_a_file(catalog: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sql = "select clip_id, motion from clips_wide order by motion"
    assert cli.run(["query", "--catalog", str(catalog), "--format", "csv", sql]) == 0
    assert capfdbinary.readouterr().out == b"clip_id,motion\nfolder/one,0.0\nfolder/two,2.0\nfolder/three,4.0\n"
    output = tmp_path / "answer.json"
    assert cli.run(["query", "--catalog", str(catalog), "--format", "json", "--output", str(output), sql]) == 0
    assert [row["motion"] for row in json.loads(output.read_text())] == [0.0, 2.0, 4.0]


def test_parquet_goes_to_a_file_and_never_into_the_catalog(catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "answer.parquet"
    assert cli.run(["query", "--catalog", str(catalog), "--format", "parquet", "--output", str(output), "select * from clips"]) == 0
    assert pq.read_table(output).num_rows == 3
    inside = catalog / "clips" / "mine.parquet"
    assert cli.run(["query", "--catalog", str(catalog), "--format", "parquet", "--output", str(inside), "select 1"]) == 2
    assert "name a file elsewhere" in capsys.readouterr().err
    assert not inside.exists()


@pytest.mark.parametrize("sql", ["copy clips to 'x.csv'", "attach 'x.db'", "install httpfs", "select * from read_csv('/etc/passwd')", "select 1; select 2", "selec 1"])
def test_a_query_that_is_more_than_a_question_is_refused(sql: str, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["query", "--catalog", str(catalog), sql]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"catalog"}


def test_status_counts_clips(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status", "--catalog", str(catalog)]) == 0
    assert "scan" in capsys.readouterr().out


def test_verify_exits_with_1_and_a_list_when_the_catalog_is_damaged(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (catalog / "tensors" / "stray").mkdir(parents=True)
    (catalog / "tensors" / "stray" / "folder-000000.0.parquet").write_bytes(b"no parquet")
    assert cli.run(["verify", "--catalog", str(catalog)]) == 1
    assert "folder-000000.0.parquet" in capsys.readouterr().out


def test_retry_makes_a_permanent_failure_due_again(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["retry", "--catalog", str(catalog), "--step", "vae"]) == 0
    assert "1 failure will be tried again" in capsys.readouterr().out
    row = Catalog.open(str(catalog)).read("failures").to_pylist()[0]
    assert (row["permanent"], row["attempts"], row["error"]) == (False, 0, "Unreadable")
    assert cli.run(["retry", "--catalog", str(catalog), "--step", "vae"]) == 0
    assert "0 failures will be tried again" in capsys.readouterr().out


def test_models_says_that_the_tiny_recipe_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", "--recipe", "tiny"]) == 0
    assert "made here on first use" in capsys.readouterr().out


@pytest.mark.slow
def test_plan_says_what_a_build_would_do_and_writes_no_catalog(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["build", "--source", "synthetic", "--root", str(tmp_path / "videos"), "--catalog", str(tmp_path / "catalog"), "--recipe", "tiny"]
    assert cli.run([*arguments, "--set", "synthetic.count=3", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "videos   3 listed, 0 without file, 0 unusable rows; 3 to scan" in shown
    assert "tiny-cogvideox-vae-9x96x160-16fps" in shown
    assert not (tmp_path / "catalog").exists()


def test_models_names_each_missing_file_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert cli.run(["models", "--recipe", "cogvideox-2b"]) == 1
    shown = capsys.readouterr().out
    assert "hf download" in shown
    assert "vae/diffusion_pytorch_model.safetensors" in shown
    assert "text_encoder/model-00002-of-00002.safetensors" in shown
    assert "about 4.76 GB" in shown


@pytest.mark.parametrize(("name", "words"), [("motion", "Writes:"), ("openvid", "Reads:"), ("tiny", "Products:"), ("clips", "clip_id")])
def test_explain_says_what_a_thing_is(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", name]) == 0
    assert words in capsys.readouterr().out


def test_explain_without_a_name_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain"]) == 0
    shown = capsys.readouterr().out
    assert "openvid" in shown
    assert "clip_mask" in shown
    assert "captions" in shown


@pytest.mark.slow
def test_a_reader_that_stops_early_gets_its_lines_and_no_complaint(catalog: Path, tmp_path: Path) -> None:
    sql = "select * from range(200000)"
    command = f'"{sys.executable}" -m vapdata.cli query --catalog "{catalog}" --format csv "{sql}" | head -n 1'
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["range"]
    assert done.stderr == ""
