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


@pytest.mark.parametrize("part", make.PARTS, ids=lambda part: part.path)
def test_every_part_is_made_by_commands_of_this_project(part: make.Part, tmp_path: Path) -> None:
    typed = make._commands(part, tmp_path, 3, None)
    assert all(words[0] == "-m" and _understands(words) for words in typed)
    assert all("3" in words or "miniature.seed=3" in words for words in typed)
    assert all("--steps" not in words for words in typed)
    assert len(typed) == (3 if part.part == "transformer" else 1)


def test_parts_come_after_what_they_are_made_with() -> None:
    paths = [each.path for each in make.PARTS]
    assert all(paths.index(before) < place for place, each in enumerate(make.PARTS) for before in each.after)


@pytest.mark.slow
def test_a_command_that_fails_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"train\.miniature\.vae tiny-nothing .* ended with status 2[\s\S]*tiny-nothing"):
        run(["-m", "train.miniature.vae", "tiny-nothing", "--out", str(tmp_path)], tmp_path)
