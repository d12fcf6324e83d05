import pytest

from train import METHODS
from train.recipes import DEFAULTS, RECIPES, recipe
from vapdata.backbones import BACKBONES
from vapdata.errors import CallError


@pytest.mark.parametrize("name", [*RECIPES])
def test_every_recipe_is_called_by_its_own_name_and_makes_a_run_of_a_known_method(name: str) -> None:
    run = RECIPES[name]("cogvideox-5b-i2v")
    assert run.name == name and name.startswith(f"{run.method.name}-") and run.method.name in METHODS
    assert RECIPES[name].__doc__


@pytest.mark.parametrize("method", [*DEFAULTS])
@pytest.mark.parametrize("backbone", [*BACKBONES])
def test_a_method_has_a_recipe_for_every_backbone_and_tiny_ones_have_their_own_rate(method: str, backbone: str) -> None:
    run = recipe(None, method, backbone)
    assert (run.method.name, run.backbone) == (method, backbone)
    assert (run.optimizer.lr >= 1e-4) == BACKBONES[backbone].tiny, "at the papers' rates a tiny model's loss does not move"


def test_the_papers_and_the_releases_numbers() -> None:
    """Video-As-Prompt: 1e-5 and about 20,000 steps in the paper, 5e-5 and 60,000 in the released scripts; 48 GPUs with one sample each."""
    paper, released = (recipe(name, "vap", "cogvideox-5b-i2v") for name in ("vap-paper", "vap-released"))
    assert (paper.optimizer.lr, paper.steps, released.optimizer.lr, released.steps) == (1e-5, 20_000, 5e-5, 60_000)
    for run in (paper, released):
        spec = run.optimizer
        assert (run.global_batch, run.micro_batch, spec.beta1, spec.beta2, spec.weight_decay, spec.clip, spec.warmup) == (48, 1, 0.9, 0.99, 1e-4, 1.0, 200)
    assert recipe("vap-paper", "vap", "wan2.1-i2v-14b-480p").optimizer.warmup == 500


def test_a_backbones_other_name_is_resolved() -> None:
    assert recipe(None, "vap", "tiny").backbone == "tiny-cogvideox"


def test_an_unknown_recipe_and_another_methods_are_refused_with_what_to_type() -> None:
    with pytest.raises(CallError, match=r"--recipe 'vap-papper': there is no such training recipe, did you mean 'vap-paper'\. Known: vap-tiny"):
        recipe("vap-papper", "vap", "tiny")
    with pytest.raises(CallError, match=r"trains full, this command is train\.vap\. Type one of vap-tiny, vap-paper, vap-released, or python -m train\.full"):
        recipe("full-tiny", "vap", "tiny")
