"""Making the weights that ship: the commands are ones that this project understands, and one that fails says why."""

from pathlib import Path

import pytest

from train.launch import command as trainer
from train.miniature import clip, make, vae
from train.miniature.commands import run
from vapdata.cli import commands
from vapdata.errors import RunError


def _understands(words: list[str]) -> bool:
    """Parses what is typed as its command would; click raises for what it does not know."""
    module, rest = words[1], words[2:]
    if module == "vapdata.cli":
        return commands.commands[rest[0]].make_context(rest[0], list(rest[1:])) is not None
    known = {"train.miniature.vae": vae.command, "train.miniature.clip": clip.command, "train.full": trainer("full")}
    return known[module].make_context(module, list(rest)) is not None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("part", make.PARTS, ids=lambda part: part.path)
def test_every_part_is_made_by_commands_of_this_project(part: make.Part, device: str, tmp_path: Path) -> None:
    (tmp_path / "stage1" / "export").mkdir(parents=True)
    typed = make._commands(part, tmp_path, 3, None, device)
    assert all(words[0] == "-m" and _understands(words) for words in typed)
    assert all({"3", "4", "miniature.seed=3"} & set(words) for words in typed)
    trained = [words for words in typed if words[1] != "vapdata.cli"]
    assert all(device in words and ("--steps" in words) == (part.path in make.BUDGETS[device].more) for words in trained)
    assert len(typed) - len(trained) == (2 if part.part == "transformer" else 0)
    outs = [words[words.index("--out") + 1] for words in trained]
    assert outs[-1] == str(tmp_path / "run" if part.part == "transformer" else tmp_path)
    goes_on = [words[words.index(option) + 1].removesuffix("/export") for words in trained for option in ("--start", "--weights") if option in words]
    assert goes_on == outs[:-1], "each goes on from the one before"


def test_parts_come_after_what_they_are_made_with() -> None:
    paths = [each.path for each in make.PARTS]
    assert all(paths.index(before) < place for place, each in enumerate(make.PARTS) for before in each.after)


@pytest.mark.slow
def test_a_command_that_fails_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"train\.miniature\.vae tiny-nothing .* ended with status 2[\s\S]*tiny-nothing"):
        run(["-m", "train.miniature.vae", "tiny-nothing", "--out", str(tmp_path)], tmp_path)
