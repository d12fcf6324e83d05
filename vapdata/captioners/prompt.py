"""What models are asked, as versioned files: `prompts/<role>-<number>.txt`, or a file of one's own.

A prompt that was used is never edited: a better one gets the next number, and captions say which they answered.
Exercised by `pytest tests/vapdata/captioners/test_prompt.py`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from vapdata.clip import Role
from vapdata.errors import CallError

FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One text that a model is asked with."""

    version: str
    """`long-1`; with a hash behind it for a file of one's own."""
    text: str

    @property
    def kind(self) -> str:
        """What comes before the number: the role of the captions that answer it."""
        return self.version.split("+")[0].rpartition("-")[0]


def versions() -> tuple[str, ...]:
    """The prompts that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))


def read(name: str) -> Prompt:
    """The prompt called `name`, or in the file of that name (`mine/long-7.txt`). Raises CallError."""
    own = name.endswith(".txt")
    path = Path(name) if own else FOLDER / f"{name}.txt"
    if own is False and name not in versions():
        raise CallError(f"{name!r} is no prompt. There are {', '.join(versions())}; or give a file of your own: folder/long-7.txt")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CallError(f"{name}: the prompt cannot be read ({error}); wanted a text file in UTF-8") from error
    if not text:
        raise CallError(f"{name}: got an empty prompt, wanted what the model is asked")
    mark = f"+{hashlib.sha256(text.encode()).hexdigest()[:8]}" if own else ""
    return Prompt(version=path.stem + mark, text=text)


def for_roles(names: tuple[str, ...]) -> dict[Role, Prompt]:
    """Role -> its prompt. Raises CallError for a prompt of no role, and for two of one: a clip has one caption of a role."""
    found: dict[Role, Prompt] = {}
    roles = get_args(Role)
    for name in names:
        prompt = read(name)
        role = next((role for role in roles if role == prompt.kind), None)
        if role is None:
            raise CallError(f"prompt {name!r}: its name must be a role, a hyphen and a number, e.g. long-1; roles are {', '.join(roles)}")
        if role in found:
            raise CallError(f"prompts {found[role].version} and {prompt.version} are both of role {role}: ask one of them")
        found[role] = prompt
    if not found:
        raise CallError(f"got no prompt; wanted one or more of {', '.join(versions())}")
    return found
