"""Ablation tables: the papers' rows and numbers, their settings, and one run end to end that is gone on with."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from train import METHODS
from train.ablate import OURS, changed, command, table_of
from train.ablations import TABLES
from train.ablations.fca import FVD
from train.ablations.table import Row, Table
from train.ablations.vap import ALIGNMENT
from train.recipes import recipe
from vapdata.errors import CallError

FEW = ("--steps", "2", "--set", "evaluation.samples=2", "--set", "evaluation.timesteps=2", "--set", "run.global_batch=2", "--set", "run.micro_batch=2")


@pytest.mark.parametrize("method", TABLES)
def test_every_row_of_every_table_can_be_set_on_the_methods_tiny_run_and_differs_from_the_others(method: str) -> None:
    assert method in METHODS
    base = recipe(None, method, "tiny-cogvideox" if method in ("fca", "vap") else "tiny-wan")
    made = [changed(base, row).method for row in table_of(method).rows if row.settings is not None]
    assert len({repr(each) for each in made}) == len(made)


def test_fcas_rows_are_in_the_papers_order_with_its_numbers() -> None:
    rows = table_of("fca").rows
    assert [row.paper[FVD] for row in rows[:7]] == [354.9, 152.3, 157.2, 155.2, 117.6, 94.1, 105.4]
    assert changed(recipe(None, "fca", "tiny-cogvideox"), rows[5]).method == recipe(None, "fca", "tiny-cogvideox").method, "FCA as it is"


def test_video_as_prompts_rows_vary_its_structure_and_the_last_is_the_method_as_it_is() -> None:
    rows, base = table_of("vap").rows, recipe(None, "vap", "tiny-cogvideox")
    assert [row.paper[ALIGNMENT] for row in rows] == [69.08, 67.16, 55.99, 68.98, 69.05, 70.44]
    assert changed(base, rows[-1]).method == base.method


def test_a_table_that_cannot_be_is_refused() -> None:
    with pytest.raises(CallError, match="two rows have one folder: a-b"):
        Table(title="t", columns=(), rows=(Row(name="a b"), Row(name="A, b")))
    with pytest.raises(CallError, match="no column FVD"):
        Table(title="t", columns=("KVD",), rows=(Row(name="a", paper={"FVD": 1.0}),))
    with pytest.raises(CallError, match="Say in `note` why it is not run here"):
        Row(name="a", settings=None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fac",), "train.ablate fac: there is no table of it, did you mean 'fca'"),
        (("fca", "--row", "LoRa"), "there is no such row"),
        (("fca", "--set", "fca.ftc=some", "--backbone", "tiny"), "--set fca.ftc=some: got 'some', wanted one of none, uniform"),
    ],
)
def test_a_call_that_cannot_be_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    made = CliRunner().invoke(command, [*arguments, "--catalog", str(tmp_path), "--out", str(tmp_path / "o")])
    assert (made.exit_code, "Traceback" in made.output) == (2, False)
    assert words in made.output


@pytest.mark.slow
def test_rows_are_run_once_and_printed_in_order_beside_the_papers_numbers(tiny_catalog: Path, tmp_path: Path) -> None:
    def run(*more: str) -> str:
        made = CliRunner().invoke(command, ["fca", "--catalog", str(tiny_catalog), "--out", str(tmp_path), *FEW, *more])
        assert made.exit_code == 0, made.output
        return made.output

    run("--row", "LoRA")
    written = (tmp_path / "lora" / "metrics.jsonl").stat().st_mtime_ns
    said = run("--row", "LoRA", "--row", "layer-wise + mask")
    assert (tmp_path / "lora" / "metrics.jsonl").stat().st_mtime_ns == written, "a finished row is not run again"
    assert "ANOTHER SCALE" in said and said.index("| LoRA") < said.index("| layer-wise + mask ")
    rows = {row["name"]: row for row in json.loads((tmp_path / "table.json").read_text())["rows"]}
    assert rows["LoRA"]["paper"] == {FVD: 354.9}
    assert set(rows["LoRA"]["here"]) == set(rows["layer-wise + mask"]["here"]) == set(OURS)
    assert rows["uniform"]["here"] is None and "not run" in said
    last = json.loads((tmp_path / "lora" / "metrics.jsonl").read_text().splitlines()[-1])
    assert rows["LoRA"]["here"]["eval_loss"] == last["eval_loss"]
    refused = CliRunner().invoke(command, ["fca", "--catalog", str(tiny_catalog), "--out", str(tmp_path), *FEW, "--seed", "5", "--row", "LoRA"])
    assert refused.exit_code == 2 and "holds this row with another seed" in refused.output
