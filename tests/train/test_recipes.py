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
    assert run.name.endswith("-tiny") == BACKBONES[backbone].tiny
    assert run.optimizer.lr > 1e-4 or not BACKBONES[backbone].tiny, "at most papers' rates a tiny model's loss does not move"


def test_the_papers_and_the_releases_numbers() -> None:
    """Video-As-Prompt: 1e-5 and about 20,000 steps in the paper, 5e-5 and 60,000 in the released scripts; 48 GPUs with one sample each."""
    paper, released = (recipe(name, "vap", "cogvideox-5b-i2v") for name in ("vap-paper", "vap-released"))
    assert (paper.optimizer.lr, paper.steps, released.optimizer.lr, released.steps) == (1e-5, 20_000, 5e-5, 60_000)
    for run in (paper, released):
        spec = run.optimizer
        assert (run.global_batch, run.micro_batch, spec.beta1, spec.beta2, spec.weight_decay, spec.clip, spec.warmup) == (48, 1, 0.9, 0.99, 1e-4, 1.0, 200)
    assert recipe("vap-paper", "vap", "wan2.1-i2v-14b-480p").optimizer.warmup == 500


def test_fcas_table_of_settings() -> None:
    """Table 5: steps by dataset, 8 samples a step, AdamW (0.9, 0.95) at 1e-3, one cosine cycle after 200 steps; 2 initial frames for SSv2 alone."""
    runs = {name: recipe(f"fca-{name}", "fca", "cogvideox-2b") for name in ("ssv2", "bridge", "epic")}
    assert {name: (run.steps, run.method.n_init) for name, run in runs.items()} == {"ssv2": (100_000, 2), "bridge": (25_000, 1), "epic": (50_000, 1)}
    for run in runs.values():
        spec, method = run.optimizer, run.method
        assert (run.global_batch, spec.lr, spec.beta1, spec.beta2, spec.clip, spec.warmup, spec.schedule, spec.cycles) == (8, 1e-3, 0.9, 0.95, 1.0, 200, "cosine_restarts", 1)
        assert (method.scale_init, method.scale_learnable, method.latent_frames, method.caption_drop) == (0.1, True, 4, 0.0)
        assert (run.samples.guidance, run.samples.steps) == (6.0, 50)


def test_a_backbones_other_name_is_resolved() -> None:
    assert recipe(None, "vap", "tiny").backbone == "tiny-cogvideox"


def test_an_unknown_recipe_and_another_methods_are_refused_with_what_to_type() -> None:
    with pytest.raises(CallError, match=r"--recipe 'vap-papper': there is no such training recipe, did you mean 'vap-paper'\. Known: vap-tiny"):
        recipe("vap-papper", "vap", "tiny")
    with pytest.raises(CallError, match=r"trains full, this command is train\.vap\. Type one of vap-tiny, vap-paper, vap-released, vap-miniature, or python -m train\.full"):
        recipe("full-tiny", "vap", "tiny")
