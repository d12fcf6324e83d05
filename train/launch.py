"""The command line of every trainer: one process, as many as torchrun or SLURM started, or workers that Ray Train starts.

    python -m train.vap --catalog C --backbone tiny-cogvideox --out RUN
    python -m train.vap --resume --out RUN
    torchrun --nproc-per-node 8 -m train.vap --catalog C --backbone cogvideox-5b-i2v --out RUN
    python -m train.vap --catalog C --backbone cogvideox-5b-i2v --out RUN --workers 48 --address auto

Exit status as for vapdata: 0 done (also after SIGTERM, with a checkpoint), 1 the run could not go on, 2 the call was
wrong. Exercised by `pytest tests/train/test_launch.py`.
"""

import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vapdata.errors import CallError, VapdataError

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from train.loop import Finished
    from train.run import Run

CATALOG = "catalog"
"""Where the catalog is looked for when the call does not say."""


def main(method: str) -> None:
    """Parses the command line for `python -m train.<method>` and trains."""
    command(method)(prog_name=f"python -m train.{method}")


def command(method: str) -> click.Command:
    """The command of one method."""
    options = [
        click.Option(["--catalog"], help=f"The catalog to train from.  [default: {CATALOG}; with --resume the run's]"),
        click.Option(["--backbone"], help="Backbone whose latents are trained on; left out: the only one the catalog has latents of."),
        click.Option(["--recipe"], help="A named run of train/recipes.py; left out: the method's for this backbone, with --resume the run's own settings."),
        click.Option(["--out"], help=f"The run's folder.  [default: runs/{method}-<time>]"),
        click.Option(["--mirror"], metavar="ADDRESS", help="s3://bucket/run or the like: gets a copy of every checkpoint; --resume fetches from it what --out lacks."),
        click.Option(["--resume"], is_flag=True, help="Go on from the newest complete checkpoint in --out, with the settings it was begun with."),
        click.Option(["--steps"], type=click.IntRange(1), help="Optimiser steps in all."),
        click.Option(["--global-batch"], type=click.IntRange(1), help="Samples per optimiser step, over all processes."),
        click.Option(["--micro-batch"], type=click.IntRange(1), help="Samples per process and forward pass, at most."),
        click.Option(["--lr"], type=float, help="Peak learning rate."),
        click.Option(["--seed"], type=int, help="Decides order, noise, timesteps, references and dropout."),
        click.Option(["--where"], help="Which clips: SQL over clips_wide, as for vapdata build."),
        click.Option(["--product"], help="The latents to train on, when the catalog has several grids of the backbone's."),
        click.Option(["--weights"], help="A diffusers folder (or a finished run of train.full) whose transformer replaces the backbone's."),
        click.Option(["--device"], help="cpu, cuda or cuda:N; left out: the GPU when there is one."),
        click.Option(["--workers"], metavar="N|LEAST-MOST", help="Train in so many Ray Train workers, started anew from the newest checkpoint when one is lost."),
        click.Option(["--address"], help="With --workers: the Ray cluster, auto or host:port; left out: a private Ray on this machine."),
        click.Option(["--restarts"], type=click.IntRange(0), default=3, show_default=True, help="With --workers: how often lost workers are replaced."),
        click.Option(["--set", "settings"], multiple=True, metavar="PART.FIELD=VALUE", help="Any other field, e.g. optimizer.warmup=100 or evaluation.every=50."),
    ]

    def run(**given: Any) -> None:
        sys.exit(guarded(lambda: _train(method, given)))

    parts = f"run, {method}, draws, optimizer, blocks, parallel, evaluation, checkpoints, samples, logging"
    told = f"Trains {method} from a catalog. Every field of a run can be set: --set part.field=value with the parts {parts}."
    return click.Command(f"train.{method}", params=options, callback=run, help=told, context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})


def guarded(call: Callable[[], int]) -> int:
    """What `call` returns, or the exit status of what it raises: a user's mistake is one sentence, never a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "urllib3", "filelock", "torch.distributed", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return call()
    except CallError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except VapdataError as error:
        click.echo(f"error: {error}", err=True)
        return 1


def _train(method: str, given: dict[str, Any]) -> int:
    if given["address"] and not given["workers"]:
        raise CallError(f"--address {given['address']}: how many workers of that cluster? Type --workers 8")
    return _in_workers(method, given) if given["workers"] else _in_this_process(method, given)


def _in_workers(method: str, given: dict[str, Any]) -> int:
    from train.workers import Workers, fit_on_workers

    workers = Workers.of(given["workers"], given["address"], given["restarts"])
    folder = _folder(method, given, time.time())
    _fetch(given, folder)
    run, weights = _resumed(method, given, folder) if given["resume"] else _begun(method, given)
    _show(run, given, folder, weights)
    finished = fit_on_workers(run, workers, catalog=given["catalog"], folder=folder, resume=given["resume"], weights=weights, device=given["device"])
    _tell(finished, folder)
    return 0


def _in_this_process(method: str, given: dict[str, Any]) -> int:
    from train.loop import fit
    from train.world import world

    with world(given["device"]) as here:
        if not here.is_first:
            logging.getLogger().setLevel(logging.WARNING)
        (seconds,) = here.total([time.time() if here.is_first else 0.0])
        folder = _folder(method, given, seconds)
        here.first_alone(lambda: _fetch(given, folder))
        run, weights = _resumed(method, given, folder) if given["resume"] else _begun(method, given)
        if here.is_first:
            _show(run, given, folder, weights)
        finished = fit(run, catalog=given["catalog"], folder=folder, world=here, resume=given["resume"], weights=weights)
        if here.is_first:
            _tell(finished, folder)
    return 0


def _folder(method: str, given: dict[str, Any], seconds: float) -> Path:
    """The run's folder; every process of a run gives the same, for `seconds` is the first one's clock."""
    if given["out"] and "://" in given["out"]:
        why = "a run lies in a folder that all its machines share, for files there are renamed and appended to"
        raise CallError(f"--out {given['out']}: {why}. Type --out RUN --mirror {given['out']} for a copy there")
    if given["out"]:
        return Path(given["out"])
    if given["resume"]:
        raise CallError(f"--resume: of which run? Give its folder: python -m train.{method} --resume --out RUN")
    return Path("runs") / f"{method}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(seconds))}"


def _fetch(given: dict[str, Any], folder: Path) -> None:
    """Brings a run that is gone from this machine back from its mirror."""
    if given["resume"] and given["mirror"]:
        from train.mirror import Mirror

        Mirror(given["mirror"]).fetch(folder)


def _begun(method: str, given: dict[str, Any]) -> tuple["Run", str | None]:
    """A new run: its recipe, changed by the call; and the weights that replace the backbone's."""
    from train.recipes import recipe

    backbone = given["backbone"] or only_backbone(given["catalog"] or CATALOG, method)
    return _changed(recipe(given["recipe"], method, backbone), given), given["weights"]


def _resumed(method: str, given: dict[str, Any], folder: Path) -> tuple["Run", str | None]:
    """The run that `folder` was begun with, changed by the call; a checkpoint refuses what may not change."""
    from train.begin import stored_config
    from train.recipes import recipe
    from train.run import Run
    from train.trained_run import CONFIG
    from vapdata import backbones

    config = stored_config(folder)
    begun = Run.described(config, folder / CONFIG)
    if begun.method.name != method:
        raise CallError(f"--resume: {folder} is a run of train.{begun.method.name}. Type python -m train.{begun.method.name} --resume --out {folder}, or give another --out")
    backbone = backbones.backbone(given["backbone"] or begun.backbone).name
    run = recipe(given["recipe"], method, backbone) if given["recipe"] else dataclasses.replace(begun, backbone=backbone)
    return _changed(run, given), given["weights"] or config.get("weights")


def _changed(run: "Run", given: dict[str, Any]) -> "Run":
    """The run with what the call says about it."""
    changes = {name: given[name] for name in ("steps", "global_batch", "micro_batch", "seed", "where", "product") if given[name] is not None}
    rate = [f"optimizer.lr={given['lr']}"] if given["lr"] is not None else []
    if given["mirror"]:
        changes["checkpoints"] = dataclasses.replace(run.checkpoints, mirror=given["mirror"])
    return dataclasses.replace(run, **changes).changed([*rate, *given["settings"]])


def only_backbone(address: str, method: str) -> str:
    """The backbone of the catalog's video latents, when it is one; of those with the same VAE, the one it was built for."""
    from catalogs.queries import answer
    from catalogs.store import Catalog
    from train.products import is_video_of
    from vapdata.backbones import BACKBONES

    catalog = Catalog.open(address)
    products = answer(catalog, "select distinct product from latents where kind = 'video'").column("product").to_pylist()
    found = [name for name, facts in BACKBONES.items() if any(is_video_of(product, facts) for product in products)]
    if len(found) > 1:
        built = answer(catalog, "select distinct json_extract_string(recipe, '$.backbone') as backbone from runs where recipe is not null").column("backbone").to_pylist()
        found = [name for name in found if name in built] or found
    if not found:
        raise CallError(f"{catalog.shown} has no video latents of a known backbone. Make them: vapdata build --source SOURCE --catalog {catalog.shown} --recipe tiny")
    if len(found) > 1:
        raise CallError(f"{catalog.shown} has latents for {', '.join(found)}; say which: python -m train.{method} --catalog {catalog.shown} --backbone {found[0]}")
    return found[0]


def _show(run: "Run", given: dict[str, Any], folder: Path, weights: str | None) -> None:
    """The effective configuration, on the screen."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    catalog = given["catalog"] or ("the run's" if given["resume"] else CATALOG)
    heads = {"recipe": run.name, "backbone": run.backbone, **({"weights": weights} if weights else {}), "catalog": catalog, "run": str(folder)}
    console.print(Text("  ").join(Text(f"{name} ") + Text(value, style="bold") for name, value in heads.items()), soft_wrap=True)
    for part, value in run.parts().items():
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        shown = "  ".join(f"{name}={setting}" for name, setting in fields.items() if not dataclasses.is_dataclass(setting) and name not in ("name", "backbone"))
        console.print(f"  {part:12s} {shown}", markup=False, soft_wrap=True)


def _tell(finished: "Finished", folder: Path) -> None:
    """What came out, in two or three lines."""
    if finished.stopped:
        click.echo(f"stopped after step {finished.step}, checkpoint written; go on with --resume --out {folder}", err=True)
        return
    if finished.already:
        click.echo(f"this run is finished: all of its {finished.step} steps are taken. More of them: --resume --out {folder} --steps {2 * finished.step}")
    first, last = finished.first["eval_loss"], finished.last["eval_loss"]
    drop, error = finished.last["eval_drop"], finished.last["eval_drop_se"]
    click.echo(f"eval_loss  {first:.4f} before, {last:.4f} after {finished.step} steps (paired drop {drop:.4f}, standard error {error:.4f})")
    click.echo(f"weights    {finished.export}")
