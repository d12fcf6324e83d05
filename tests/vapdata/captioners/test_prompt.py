"""Prompts are versioned files of the package: roles, categories, and what becomes of one's own."""

import tomllib
from pathlib import Path
from typing import get_args

import pytest

from vapdata.captioners import prompt
from vapdata.clip import Role
from vapdata.errors import CallError


def test_the_prompts_that_come_with_the_package_are_of_roles_or_rubrics() -> None:
    assert prompt.versions() == ("alignment-1", "instruction-1", "long-1", "short-1", "vap-1")
    assert {prompt.read(name).kind for name in prompt.versions()} - set(get_args(Role)) == {"alignment"}


def test_the_prompt_files_are_packaged(repository: Path) -> None:
    listed = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert listed["vapdata.captioners"] == ["prompts/*.txt"]
    assert repository / "vapdata/captioners/prompts" == prompt.FOLDER


def test_the_long_and_the_paired_prompt_ask_for_what_trainers_read() -> None:
    for name in ("long-1", "vap-1"):
        text = prompt.read(name).text
        assert "80 to 150 words" in text
        assert "step by step" in text
        assert "stays unchanged" in text
        assert "camera" in text
    assert prompt.read("instruction-1").text.endswith("Follow the style of the reference.")


def test_a_file_of_ones_own_has_its_contents_in_its_version(tmp_path: Path) -> None:
    path = tmp_path / "vap-9.txt"
    path.write_text("What melts?\n")
    first = prompt.read(str(path))
    assert (first.kind, first.text) == ("vap", "What melts?")
    path.write_text("What floats?")
    assert first.version.startswith("vap-9+")
    assert prompt.read(str(path)).version != first.version


def test_roles_have_one_prompt_each() -> None:
    assert list(prompt.for_roles(("long-1", "vap-1"))) == ["long", "vap"]
    with pytest.raises(CallError, match=r"prompts long-1 and long-1 are both of role long: ask one of them"):
        prompt.for_roles(("long-1", "long-1"))
    with pytest.raises(CallError, match=r"prompt 'alignment-1': its name must be a role, a hyphen and a number, e\.g\. long-1; roles are source"):
        prompt.for_roles(("alignment-1",))
    with pytest.raises(CallError, match=r"got no prompt; wanted one or more of alignment-1, instruction-1, long-1"):
        prompt.for_roles(())


def test_a_prompt_that_is_not_there_or_empty_is_said(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"'long-77' is no prompt\. There are alignment-1, .*; or give a file of your own: folder/long-7\.txt"):
        prompt.read("long-77")
    with pytest.raises(CallError, match=r"long-3\.txt: the prompt cannot be read \(.*No such file.*\); wanted a text file in UTF-8"):
        prompt.read(str(tmp_path / "long-3.txt"))
    (tmp_path / "long-4.txt").write_text(" \n")
    with pytest.raises(CallError, match=r"long-4\.txt: got an empty prompt"):
        prompt.read(str(tmp_path / "long-4.txt"))
