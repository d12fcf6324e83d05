"""Makes the weights of tiny models that ship with the package again, from nothing: `make tiny-models`.

    python -m train.miniature.make [--work FOLDER] [--part NAME ...] [--seed N]

Each part is a command of this project in a process of its own, one thread each, two at a time: VAEs and CLIP learn straight from the
world's formulas; then `vapdata build --source miniature` makes a catalog with what was learned, and `train.full` trains the
transformers from it. A part's weights and its card go to vapdata/trained/. Exercised by `pytest tests/train/miniature/test_make.py`.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from train.miniature.commands import run
from train.miniature.studio import World
from vapdata import tiny_trained

log = logging.getLogger("train")

COUNTS = {"tiny-cogvideox": (2080, 780), "tiny-wan": (1040, 260)}
"""Backbone -> clips of one object and of two that its catalog lists. Wan's encoders take three times as long, its steps twice."""
WHERE = "split = 'train' or clip_id like '%7.mp4'"
"""Which of them are encoded: those that are trained on, and one in ten of the others to be judged on."""
TURN = 20.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of weights."""

    name: str
    """The tiny model."""
    part: str
    after: tuple[str, ...] = ()
    """Parts, as `model/part`, that it is made with."""

    @property
    def path(self) -> str:
        """`model/part`."""
        return f"{self.name}/{self.part}"


PARTS = (
    Part(name="tiny-cogvideox", part="vae"),
    Part(name="tiny-wan", part="vae"),
    Part(name="tiny-cogvideox", part="clip"),
    Part(name="tiny-cogvideox", part="transformer", after=("tiny-cogvideox/vae",)),
    Part(name="tiny-wan", part="transformer", after=("tiny-wan/vae",)),
)
"""In the order in which they are begun."""


def make(part: Part, work: Path, seed: int, *, steps: int | None = None) -> Path:
    """Trains one part in `work` and puts its weights among those that ship; the file's path."""
    began, folder = time.perf_counter(), work / part.name / part.part
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for suffix in ("safetensors", "json"):
        (tiny_trained.FOLDER / part.name / f"{part.part}.{suffix}").unlink(missing_ok=True)
    commands = _commands(part, folder, seed, steps)
    for command in commands:
        run(command, folder)
    trained, drawn, figures = _READERS[part.part](part, folder)
    minutes = (time.perf_counter() - began) / 60
    return tiny_trained.save(trained, drawn, part.name, part.part, told(part, commands, seed, minutes, trained, figures))


def told(part: Part, commands: Sequence[Sequence[str]], seed: int, minutes: float, trained: Any, figures: Mapping[str, Any]) -> Mapping[str, Any]:
    """The card of a part."""
    return {
        "model": part.name,
        "part": part.part,
        "class": type(trained).__name__,
        "made": ["python " + " ".join(each) for each in commands],
        "seed": seed,
        "minutes": round(minutes, 1),
        "figures": figures,
        "license": "Apache-2.0; trained on pictures drawn by vapdata/scenes.py alone",
    }


def _commands(part: Part, folder: Path, seed: int, steps: int | None) -> list[list[str]]:
    """What is typed to make a part, without the interpreter."""
    fewer = ("--steps", str(steps)) if steps else ()
    if part.part == "vae":
        return [["-m", "train.miniature.vae", part.name, "--out", str(folder), "--seed", str(seed), *fewer]]
    if part.part == "clip":
        return [["-m", "train.miniature.clip", "--out", str(folder), "--seed", str(seed), *fewer]]
    counts = [min(count, 26 * steps) if steps else count for count in COUNTS[part.name]]
    worlds = [World(folder=folder, backbone=part.name, clips=count, seed=seed, pairs=two, turn=TURN, where=WHERE) for count, two in zip(counts, (False, True), strict=True)]
    training = ["-m", "train.full", "--catalog", worlds[0].catalog, "--backbone", part.name, "--recipe", "full-miniature", "--where", WHERE, "--out", str(folder / "run")]
    return [*(each.building("full") for each in worlds), [*training, "--seed", str(seed), *fewer]]


def _vae(part: Part, folder: Path) -> tuple[Any, Any, Mapping[str, Any]]:
    import diffusers

    from train.miniature.vae import new

    drawn = new(part.name)
    trained = getattr(diffusers, type(drawn).__name__).from_pretrained(folder / "vae", local_files_only=True)
    return trained, drawn, json.loads((folder / "quality.json").read_text())


def _clip(part: Part, folder: Path) -> tuple[Any, Any, Mapping[str, Any]]:
    import open_clip
    from safetensors.torch import load_file

    from vapdata import tiny, tiny_draw

    drawn, trained = open_clip.CLIP(**tiny.CLIP), open_clip.CLIP(**tiny.CLIP)
    tiny_draw.fill(drawn, "clip")
    trained.load_state_dict(load_file(folder / "clip" / "open_clip_model.safetensors"))
    return trained, drawn, json.loads((folder / "quality.json").read_text())


def _transformer(part: Part, folder: Path) -> tuple[Any, Any, Mapping[str, Any]]:
    import diffusers

    from vapdata import tiny_transformer

    kind = getattr(diffusers, tiny_transformer.CLASSES[part.name][0])
    drawn = kind(**tiny_transformer.TRANSFORMERS[part.name])
    tiny_transformer.draw(drawn, "transformer")
    trained = kind.from_pretrained(folder / "run" / "export" / "transformer", local_files_only=True)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    asked = [row for row in rows if "eval_loss" in row]
    return trained, drawn, {"steps": asked[-1]["step"], "eval_loss_before": asked[0]["eval_loss"], "eval_loss": asked[-1]["eval_loss"]}


_READERS: Mapping[str, Callable[[Part, Path], tuple[Any, Any, Mapping[str, Any]]]] = {"vae": _vae, "clip": _clip, "transformer": _transformer}


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.option("--work", type=click.Path(path_type=Path), default=Path("tiny-models"), show_default=True, help="Folder for catalogs, runs and logs.")
@click.option("--part", "chosen", multiple=True, type=click.Choice([each.path for each in PARTS]), help="Make this part alone, with the others as they ship; may be repeated.")
@click.option("--seed", type=int, default=0, show_default=True)
def command(work: Path, chosen: Sequence[str], seed: int) -> None:
    """Makes the trained weights of tiny models from nothing; the minutes that each part took stand on its card."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    wanted = [each for each in PARTS if not chosen or each.path in chosen]
    begun: dict[str, Any] = {}
    with ThreadPoolExecutor(2) as pool:
        for part in wanted:
            begun[part.path] = pool.submit(_after, [begun[path] for path in part.after if path in begun], part, work, seed)
    for path, future in begun.items():
        log.info("%s  %s  %.2f MB", path, future.result(), future.result().stat().st_size / 1e6)


def _after(earlier: Sequence[Any], part: Part, work: Path, seed: int) -> Path:
    for each in earlier:
        each.result()
    return make(part, work, seed)


if __name__ == "__main__":
    command(prog_name="python -m train.miniature.make")
