"""Appends dated rows to benchmarks/RESULTS.md: commit, hardware, versions, command, figures."""

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("av", "decord", "duckdb", "pyarrow", "ray", "torch")


def append_row(title: str, command: str, rows: Sequence[tuple[str, str]]) -> None:
    """Appends a section `title` with one table row per (what, figure)."""
    lines = [
        f"\n## {title}, {datetime.date.today().isoformat()}\n",
        f"`{command}` at commit {_commit()}; {os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        + ".\n",
        "| what | figure |",
        "|---|---|",
        *(f"| {what} | {figure} |" for what, figure in rows),
    ]
    with RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent, check=False)
    return done.stdout.strip() or "none"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
