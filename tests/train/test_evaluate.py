import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from catalogs.store import Catalog
from train.backbones import load_backbone
from train.data import Loader
from train.evaluate import Entry, Evaluation, Evaluator, grid, load_baseline, losses, paired, reference_sensitivity, save_baseline, summary
from train.index import build_index
from train.method import Backbone, unwrapped
from train.parallel import Parallel
from train.vap import Vap
from train.world import World, world
from vapdata import backbones
from vapdata.errors import CallError

FACTS = backbones.backbone("tiny-cogvideox")
CPU = torch.device("cpu")
SMALL = Evaluation(samples=3, timesteps=2)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(FACTS, dtype=torch.float32, device=CPU)


@pytest.fixture(scope="module")
def module(backbone: Backbone) -> torch.nn.Module:
    return Vap().attach(backbone, unwrapped)


@pytest.fixture(scope="module")
def loader(tiny_catalog: Path, backbone: Backbone) -> Iterator[Loader]:
    method = Vap(caption_drop=1.0)
    index = build_index(Catalog.open(tiny_catalog), FACTS, method.reads(FACTS) | backbone.reads(), method="vap")
    made = Loader(index, FACTS, backbone.objective, seed=0, global_batch=2, micro_batch=2, caption_drop=method.caption_drop)
    yield made
    made.close()


@pytest.fixture(scope="module")
def entries(loader: Loader) -> list[Entry]:
    return grid(SMALL, loader.index.validation, [loader.index.samples[each].target for each in loader.index.validation], loader.objective, 0)


def test_a_paired_mean_has_the_hand_computed_standard_error() -> None:
    """1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7, error sqrt(7 / 3)."""
    assert paired(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)) == (3.0, pytest.approx(math.sqrt(7 / 3)))
    assert paired(torch.tensor([2.5], dtype=torch.float64)) == (2.5, 0.0)


def test_the_summary_pairs_each_entry_with_itself_and_groups_by_timestep() -> None:
    entries = [Entry(sample=sample, timestep=timestep, seed=0) for sample in (0, 1) for timestep in (100.0, 900.0)]
    first, now = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64), torch.tensor([3.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    said = summary(now, first, entries)
    assert (said["eval_loss"], said["eval_drop"], said["eval_loss_at"]) == (1.5, 1.0, {"100": 2.0, "900": 1.0})
    assert said["eval_drop_se"] == pytest.approx(math.sqrt((0 + 1 + 0 + 1) / 3 / 4))


def test_the_grid_spreads_over_the_samples_and_the_timesteps_and_each_entry_has_its_own_noise(backbone: Backbone) -> None:
    targets = [f"clip-{number}" for number in range(10)]
    made = grid(Evaluation(samples=4, timesteps=2), [*range(100, 110)], targets, backbone.objective, 7)
    assert [each.sample for each in made] == [100, 100, 103, 103, 106, 106, 109, 109]
    assert [each.timestep for each in made[:2]] == backbone.objective.grid(2).tolist()
    assert len({each.seed for each in made}) == 8
    assert made == grid(Evaluation(samples=4, timesteps=2), [*range(100, 110)], targets, backbone.objective, 7)
    assert {each.seed for each in made}.isdisjoint(each.seed for each in grid(Evaluation(samples=4, timesteps=2), [*range(100, 110)], targets, backbone.objective, 8))
    assert len(grid(Evaluation(samples=16, timesteps=1), [5], ["clip"], backbone.objective, 0)) == 1


def test_losses_do_not_depend_on_batches_or_processes(module: torch.nn.Module, loader: Loader, entries: list[Entry]) -> None:
    bucket = loader.index.samples.bucket
    whole = losses(entries, module, loader, device=CPU, batch=6, bucket=bucket)
    shared = sum(losses(entries, module, loader, device=CPU, batch=2, bucket=bucket, rank=rank, ranks=2) for rank in range(2))
    assert torch.allclose(whole, torch.as_tensor(shared), rtol=1e-5, atol=0)
    one = loader.grid([entries[3].sample], torch.tensor([entries[3].timestep]), [entries[3].seed])
    with torch.no_grad():
        assert module(one).item() == pytest.approx(whole[3].item(), rel=1e-5)


def test_captions_are_not_dropped_on_the_grid(loader: Loader, entries: list[Entry]) -> None:
    sample, entry = loader.index.samples[entries[0].sample], entries[0]
    made = loader.grid([entry.sample], torch.tensor([entry.timestep]), [entry.seed])
    assert torch.equal(made.target.text, loader.side([sample.target]).text)  # type: ignore[arg-type]


def test_exchanged_references_are_told_from_right_ones_by_a_method_that_looks_at_them(module: torch.nn.Module, loader: Loader, entries: list[Entry]) -> None:
    right, wrong = (losses(entries, module, loader, device=CPU, batch=6, bucket=loader.index.samples.bucket, shuffled=shuffled) for shuffled in (False, True))
    assert (right != wrong).all()
    assert 0 < reference_sensitivity(entries, module, loader, loader.objective, device=CPU, batch=2) < 2


def test_the_baseline_is_kept_to_full_precision_and_another_grid_is_refused(entries: list[Entry], tmp_path: Path) -> None:
    first = torch.rand(len(entries), dtype=torch.float64) / 3
    save_baseline(tmp_path, entries, first)
    assert torch.equal(load_baseline(tmp_path, entries), first)
    with pytest.raises(CallError, match=r"holds another evaluation grid than this run's settings make\. Leave evaluation\.\* and --seed as they were"):
        load_baseline(tmp_path, entries[1:])
    (tmp_path / "evaluation.json").unlink()
    with pytest.raises(CallError, match="this run's first evaluation is lost"):
        load_baseline(tmp_path, entries)


def test_an_evaluator_asks_in_eval_mode_and_goes_on_from_the_baseline_that_it_kept(module: torch.nn.Module, loader: Loader, tmp_path: Path) -> None:
    def made(here: World) -> Evaluator:
        return Evaluator(SMALL, module, loader, loader.objective, Parallel().over(here), seed=0, folder=tmp_path)

    module.train()
    with world("cpu") as here:
        begun = made(here)
        first = begun.begin()
        again = made(here)
        again.go_on()
        assert (first["eval_drop"], first["eval_drop_se"]) == (0.0, 0.0)
        assert again.now() == first == {**begun.first, **{name: first[name] for name in first if name not in begun.first}}
        weights = next(each for each in module.parameters() if each.requires_grad and each.dim() > 1)
        with torch.no_grad():
            kept = weights.clone()
            weights.add_(0.5)
            assert again.now()["eval_drop"] != 0
            weights.copy_(kept)
    assert module.training


@pytest.mark.parametrize("wrong", [{"every": -1}, {"samples": 0}, {"timesteps": 0}, {"batch": -1}])
def test_a_grid_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(CallError, match=r"Type e\.g\. --set evaluation\.samples=16"):
        Evaluation(**wrong)
