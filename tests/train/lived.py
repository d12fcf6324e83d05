"""Runs that are lived in processes of their own, by lives.py, and what they leave behind."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


@dataclass
class Lives:
    """Several lives, to be lived one after another in one process that has imported everything; see lives.py."""

    folder: Path
    catalog: Path
    listed: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[list[int]] = field(default_factory=list)

    def add(self, run: str, *arguments: str, method: str = "vap", **more: Any) -> None:
        """One life of the run called `run`."""
        self.listed.append({"method": method, "arguments": [*arguments, "--device", "cpu", "--out", str(self.folder / run)], "log": str(self.folder / f"{run}.log"), **more})

    def begin(self, run: str, steps: int, *settings: str, **more: Any) -> None:
        """A life that begins a run."""
        small = ["evaluation.every=5", "checkpoints.every=3", "optimizer.warmup=2", "optimizer.ema=0.9", "evaluation.samples=2", "evaluation.timesteps=2", *settings]
        sizes = ("--steps", str(steps), "--global-batch", "6", "--micro-batch", "3")
        self.add(run, "--catalog", str(self.catalog), *sizes, *(part for each in small for part in ("--set", each)), **more)

    def live(self) -> None:
        """All of them."""
        (self.folder / "lives.json").write_text(json.dumps(self.listed))
        made = subprocess.run([sys.executable, str(Path(__file__).with_name("lives.py")), str(self.folder / "lives.json")], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        self.statuses = json.loads(made.stdout)

    def of(self, run: str) -> list[list[int]]:
        """Exit statuses of the lives of one run."""
        return [status for status, life in zip(self.statuses, self.listed, strict=True) if life["log"].endswith(f"/{run}.log")]

    def said(self, run: str) -> str:
        """Everything that the lives of one run wrote."""
        return (self.folder / f"{run}.log").read_text()


def exported(folder: Path) -> dict[str, Tensor]:
    """Every tensor that a run has exported."""
    (path,) = (folder / "export").rglob("*.safetensors")
    return load_file(path)


def furthest(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest difference between two runs' weights."""
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)
