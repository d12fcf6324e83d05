import json
from pathlib import Path

import pytest

from train.recipes import RECIPES, vap_tiny
from train.run import Run, Samples
from vapdata.errors import CallError

BACKBONE = "tiny-cogvideox"


def test_a_setting_changes_its_field_alone_and_in_its_own_type() -> None:
    run = vap_tiny(BACKBONE)
    changed = run.changed(["optimizer.lr=3e-4", "vap.caption_drop=0.5", "run.product=none", "evaluation.every=7", "blocks.keep=attention"])
    assert (changed.optimizer.lr, changed.method.caption_drop, changed.product, changed.evaluation.every, changed.blocks.keep) == (3e-4, 0.5, None, 7, "attention")
    assert run == vap_tiny(BACKBONE), "the run itself stays"
    before = [f"optimizer.lr={run.optimizer.lr}", f"vap.caption_drop={run.method.caption_drop}", f"evaluation.every={run.evaluation.every}"]
    assert changed.changed([*before, "blocks.keep=everything"]) == run


def test_the_last_of_two_settings_of_one_field_holds() -> None:
    assert vap_tiny(BACKBONE).changed(["run.steps=5", "run.steps=6"]).steps == 6


@pytest.mark.parametrize("name", [*RECIPES])
def test_a_run_is_the_same_after_it_was_written_down_and_read(name: str) -> None:
    run = RECIPES[name](BACKBONE)
    told = json.loads(json.dumps(run.describe()))
    assert Run.described(told, Path("config.json")) == run
    assert Run.described({**told, "catalog": "c", "resumed_from": []}, Path("config.json")) == run


def test_a_run_of_another_version_is_refused_with_its_place() -> None:
    told = vap_tiny(BACKBONE).describe()
    for wrong in ({**told, "optimizer": {"speed": 1}}, {name: told[name] for name in told if name != "steps"}, {**told, "method": {"name": "vap", "speed": 1}}):
        with pytest.raises(CallError, match=r"^RUN/config\.json: .*[Uu]se the version"):
            Run.described(wrong, Path("RUN/config.json"))


@pytest.mark.parametrize("field", ["steps", "global_batch", "micro_batch"])
def test_sizes_below_one_are_refused(field: str) -> None:
    with pytest.raises(CallError, match=rf"{field}=0.*each is 1 or more"):
        vap_tiny(BACKBONE).changed([f"run.{field}=0"])


def test_a_part_that_is_no_single_value_and_an_unknown_one_are_refused() -> None:
    run = vap_tiny(BACKBONE)
    with pytest.raises(CallError, match=r"there is no part 'sample', did you mean 'samples'\. Known: .*optimizer.*vap"):
        run.changed(["sample.every=1"])
    with pytest.raises(CallError, match="this field holds no single value"):
        run.changed(["run.optimizer=fast"])
    with pytest.raises(CallError, match=r"Type e\.g\. --set samples\.every=500"):
        Samples(every=-1)
