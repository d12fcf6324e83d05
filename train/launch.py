"""The command line of every trainer: one process, or as many as torchrun started.

    python -m train.vap --catalog C --backbone tiny-cogvideox --out RUN
    torchrun --nproc-per-node 8 -m train.vap --catalog C --backbone cogvideox-5b-i2v --out RUN

Exit status as for vapdata: 0 done (also after SIGTERM, with a checkpoint), 1 the run could not go on, 2 the call was
wrong. Exercised by `pytest tests/train/test_launch.py`.
"""

import dataclasses
import logging
import sys
import time
from pathlib import Path
from typing import Any

import click

from vapdata.errors import CallError, VapdataError

log = logging.getLogger("train")


def main(method: str) -> None:
    """Parses the command line for `python -m train.<method>` and trains."""
    _command(method)(prog_name=f"python -m train.{method}")


def _command(method: str) -> click.Command:
    options = [
        click.Option(["--catalog"], default="catalog", show_default=True, help="The catalog to train from."),
        click.Option(["--backbone"], help="Backbone whose latents are trained on; left out: the only one the catalog has latents of."),
        click.Option(["--recipe"], help="A named run of train/recipes.py; left out: the method's for this backbone."),
        click.Option(["--out"], help="The run's folder.  [default: runs/<method>-<time>]"),
        click.Option(["--resume"], is_flag=True, help="Go on from the newest complete checkpoint in --out."),
        click.Option(["--steps"], type=click.IntRange(1), help="Optimiser steps in all."),
        click.Option(["--global-batch"], type=click.IntRange(1), help="Samples per optimiser step, over all processes."),
        click.Option(["--micro-batch"], type=click.IntRange(1), help="Samples per process and forward pass, at most."),
        click.Option(["--lr"], type=float, help="Peak learning rate."),
        click.Option(["--seed"], type=int, help="Decides order, noise, timesteps, references and dropout."),
        click.Option(["--where"], help="Which clips: SQL over clips_wide, as for vapdata build."),
        click.Option(["--product"], help="The latents to train on, when the catalog has several grids of the backbone's."),
        click.Option(["--weights"], help="A diffusers folder (or a run of train.full) whose transformer replaces the backbone's."),
        click.Option(["--device"], help="cpu, cuda or cuda:N; left out: the GPU when there is one."),
        click.Option(["--set", "settings"], multiple=True, metavar="PART.FIELD=VALUE", help="Any other field, e.g. optimizer.warmup=100 or evaluation.every=50."),
    ]

    def run(**given: Any) -> None:
        sys.exit(_guarded(method, given))

    return click.Command(f"train.{method}", params=options, callback=run, help=_help(method), context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})


def _help(method: str) -> str:
    return f"Trains {method} from a catalog. Every field of a run can be set: --set part.field=value with the parts run, {method}, optimizer, blocks, evaluation, checkpoints, samples, logging."


def _guarded(method: str, given: dict[str, Any]) -> int:
    """The exit status; a user's mistake is one sentence, never a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "urllib3", "filelock", "torch.distributed", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return _train(method, given)
    except CallError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except VapdataError as error:
        click.echo(f"error: {error}", err=True)
        return 1


def _train(method: str, given: dict[str, Any]) -> int:
    from catalogs.store import Catalog
    from train.loop import Finished, fit
    from train.recipes import recipe
    from train.world import world

    with world(given["device"]) as here:
        catalog = given["catalog"]
        backbone = given["backbone"] or _only_backbone(Catalog.open(catalog), method)
        made = recipe(given["recipe"], method, backbone)
        changes = {name: given[name] for name in ("steps", "global_batch", "micro_batch", "seed", "where", "product") if given[name] is not None}
        made = dataclasses.replace(made, **changes).changed([*([f"optimizer.lr={given['lr']}"] if given["lr"] is not None else []), *given["settings"]])
        folder = Path(given["out"] or f"runs/{method}-{time.strftime('%Y%m%d-%H%M%S')}")
        if here.is_first:
            _show(made, catalog, folder)
        finished: Finished = fit(made, catalog=catalog, folder=folder, world=here, resume=given["resume"], weights=given["weights"])
        if here.is_first:
            _tell(finished, folder)
    return 0


def _only_backbone(catalog: Any, method: str) -> str:
    """The backbone of the catalog's video latents, when it is one."""
    from train.index import backbones_in

    found = backbones_in(catalog)
    if len(found) == 1:
        return found[0]
    if not found:
        raise CallError(f"the catalog {catalog.shown} has no video latents of a known backbone. Encode some: vapdata build --source ... --catalog {catalog.shown} --recipe tiny")
    raise CallError(f"the catalog {catalog.shown} has latents of {', '.join(found)}; say which: python -m train.{method} --catalog {catalog.shown} --backbone {found[0]}")


def _show(run: Any, catalog: str, folder: Path) -> None:
    """The effective configuration, on the screen."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    console.print(f"recipe [bold]{run.name}[/bold]  backbone [bold]{run.backbone}[/bold]  catalog {catalog}  run {folder}")
    for part, value in run.parts().items():
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        shown = "  ".join(f"{name}={setting}" for name, setting in fields.items() if not dataclasses.is_dataclass(setting) and name not in ("name", "backbone"))
        console.print(f"  {part:12s} {shown}", markup=False, soft_wrap=True)


def _tell(finished: Any, folder: Path) -> None:
    """What came out, in two lines."""
    if finished.stopped:
        click.echo(f"stopped after step {finished.step}, checkpoint written; go on with --resume --out {folder}", err=True)
        return
    first, last = finished.first["eval_loss"], finished.last["eval_loss"]
    drop, error = finished.last["eval_drop"], finished.last["eval_drop_se"]
    click.echo(f"eval_loss {first:.4f} before, {last:.4f} after {finished.step} steps (paired drop {drop:.4f}, standard error {error:.4f})")
    click.echo(f"weights   {finished.export}")
