"""The miniature benchmark: what masks point at, what a caption does, what a reference does, in one table.

    python -m train.miniature --tier smoke|cpu|gpu [--out FOLDER] [--only PART ...] [--backbone NAME]      (`make miniature`: cpu)

Catalogs, methods and samples are made from nothing beside the tiny models that ship, and scored without a learned judge: each clip's
scene is known, so every condition is rendered for it and the nearest is taken. Writes table.md, each part's figures and a contact sheet a row.
Seeds, and parts that share no catalog, run side by side in processes of their own. Stopped, the same command goes on at the parts that
it was at; other tiny models begin anew.
Exit status: 0 every check of the tier holds, 1 one does not, 2 the call was wrong. Exercised by
`pytest tests/train/miniature/test_bench.py`.
"""

import json
import logging
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from train.miniature.commands import run
from train.miniature.tiers import CHECKS, LANES, TABLE, TIERS, Row, Tier
from vapdata import tiny
from vapdata.errors import CallError, VapdataError

COLUMNS = ("accuracy", "but_fade", "psnr_db", "clips", "pointing", "iou", "plain", "right", "shuffled", "truth", "stock")
"""Figures in the order of the table."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One seed of a call, and the folder where what is found of it lies."""

    tier: Tier
    seed: int
    out: Path
    backbone: str
    device: str

    @property
    def folder(self) -> Path:
        """Catalogs, runs, sheets and rows of this seed."""
        return self.out / f"{self.tier.name}-{self.backbone}-seed{self.seed}"

    def kept(self, part: str) -> Path:
        """Where the rows of a part are kept, for these tiny models."""
        return self.folder / f"{part}-{tiny.version(self.backbone)}.json"

    def lanes(self, parts: Collection[str]) -> list[list[str]]:
        """Of these parts those without rows yet; parts of one list share a catalog and follow each other."""
        left = [[part for part in lane if part in parts and not self.kept(part).is_file()] for lane in LANES]
        return [lane for lane in left if lane]


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.option("--tier", type=click.Choice(list(TIERS)), default="smoke", show_default=True, help=f"How large: {'; '.join(each.says for each in TIERS.values())}.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("miniature"), show_default=True, help="Folder for catalogs, runs, sheets and the table.")
@click.option("--only", multiple=True, type=click.Choice(TABLE), help="Only this part of the table; may be repeated.")
@click.option("--backbone", type=click.Choice(["tiny-cogvideox", "tiny-wan"]), default="tiny-cogvideox", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:0: where methods train and clips are made; catalogs are built on the CPU.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Instead of the tier's seeds; may be repeated.")
@click.option("--rows", is_flag=True, help="Work the rows out one after the other in this process, and print no table.")
def command(tier: str, out: Path, only: Sequence[str], backbone: str, device: str, seeds: Sequence[int], rows: bool) -> None:
    """Trains methods on the miniature world and prints what they learned as one table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    turns = [Turn(tier=TIERS[tier], seed=seed, out=out, backbone=backbone, device=device) for seed in seeds or TIERS[tier].seeds]
    parts = [part for part in TABLE if not only or part in only]
    try:
        if rows:
            for turn in turns:
                work_out(turn, [part for lane in turn.lanes(parts) for part in lane])
            return
        held = bench(turns, parts)
    except VapdataError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, CallError) else 1)
    sys.exit(0 if held else 1)


def bench(turns: Sequence[Turn], parts: Sequence[str]) -> bool:
    """Works out what has no rows yet, lanes side by side, then prints and writes the table; whether the tier's checks hold."""
    first, lanes = turns[0], [(turn, lane) for turn in turns for lane in turn.lanes(parts)]
    if len(lanes) == 1:
        work_out(*lanes[0])
    else:
        with ThreadPoolExecutor(first.tier.at_once) as pool:
            list(pool.map(lambda lane: _in_a_process(*lane), lanes))
    figures = averaged([[Row(name=name, figures=found) for part in parts for name, found in json.loads(turn.kept(part).read_text()).items()] for turn in turns])
    text = table(figures)
    (first.out / "table.md").write_text(text + "\n")
    click.echo(text)
    return checked(figures) if first.tier.checked else True


def _in_a_process(turn: Turn, parts: Sequence[str]) -> None:
    """`--rows` for one lane, its words in logs/ of the seed's folder."""
    words = ["--rows", "--tier", turn.tier.name, "--out", str(turn.out), "--backbone", turn.backbone, "--device", turn.device, "--seed", str(turn.seed)]
    run(["-m", "train.miniature", *words, *(word for part in parts for word in ("--only", part))], turn.folder / "logs" / parts[0])


def work_out(turn: Turn, parts: Sequence[str]) -> None:
    """Makes the rows of these parts, one after the other, and keeps each part's."""
    import torch

    from train.miniature.rows import TRIALS, Bench

    torch.set_num_threads(1)
    turn.folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        made = {row.name: row.figures for row in TRIALS[part](Bench(turn.tier, turn.seed, turn.folder, turn.backbone, turn.device))}
        turn.kept(part).write_text(json.dumps(made, indent=1))


def averaged(found: Sequence[Sequence[Row]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Row -> figure -> mean and standard deviation over seeds (0 for one)."""
    made: dict[str, dict[str, list[float]]] = {}
    for rows in found:
        for row in rows:
            for key, value in row.figures.items():
                made.setdefault(row.name, {}).setdefault(key, []).append(float(value))
    return {name: {key: (statistics.fmean(each), statistics.stdev(each) if len(each) > 1 else 0.0) for key, each in values.items()} for name, values in made.items()}


def table(figures: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """Markdown: one line a row, its figures by name, with their deviation where there are several seeds."""
    lines = ["| row | figures |", "|---|---|"]
    for name, values in figures.items():
        shown = [f"{key.replace('_', ' ')} {_number(key, *values[key])}" for key in COLUMNS if key in values]
        lines.append(f"| {name} | {' · '.join(shown)} |")
    return "\n".join(lines)


def checked(figures: Mapping[str, Mapping[str, tuple[float, float]]]) -> bool:
    """Prints every check of which the figures are there, and whether all of those hold."""
    flat = {f"{name}/{key}": value[0] for name, values in figures.items() for key, value in values.items()}
    held = []
    for check in CHECKS:
        try:
            value = check.value(flat)
        except KeyError:  # that part of the table was not asked for
            continue
        held.append(value >= check.least)
        click.echo(f"{'holds' if held[-1] else 'FAILS'}  {check.says}: {value:.3f}, wanted {check.least:g} or more")
    return all(held)


def _number(key: str, mean: float, deviation: float) -> str:
    if key == "clips":
        return f"{mean:.0f}"
    digits = 1 if key == "psnr_db" else 2
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation else "")


if __name__ == "__main__":
    command(prog_name="python -m train.miniature")
