"""How fast each procedural condition is rendered on one core.

    python -m benchmarks.render [HEIGHT WIDTH]

Renders 17 frames of every condition at 96 x 160 and at HEIGHT x WIDTH (480 x 720) from a drawn clip, in one thread; prints
frames per second of CPU time, condition by condition, and appends a dated row per category to `benchmarks/RESULTS.md`,
with what the four-member demo of all conditions costs. CPU seconds, so that other load on the machine matters less.
"""

import os
import sys
import time

import cv2
import numpy as np

from benchmarks.ledger import append_row
from vapdata.conditions.procedural import PROGRAMS
from vapdata.shapes import Shot, draw, mask

FRAMES = 17
SMALL = (96, 160)
LARGE = (480, 720)
MEMBERS = 4


def clip(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A shot of a circle over a textured ground, and the circle's mask."""
    shot = Shot(
        frames=FRAMES, height=height, width=width, shape="circle", colour="orange", ground="blue", direction=None, speed_px=0,
        camera="pan_left", pan_px=2, texture_seed=1,
    )  # fmt: skip
    return np.stack(list(draw(shot))), mask(shot, 0).astype(np.float32)


def speeds(height: int, width: int) -> dict[str, float]:
    """Frames per CPU second of each condition; the better of two renders, drawn alike."""
    frames, subject = clip(height, width)
    rates = {}
    for name, program in PROGRAMS.items():
        parameters, took = program.draw(0), []
        for _ in range(2):
            began = time.process_time()
            program.render(frames, subject, parameters, FRAMES)
            took.append(time.process_time() - began)
        rates[name] = FRAMES / max(1e-6, min(took))
    return rates


def main() -> None:
    """Measures, prints, appends."""
    cv2.setNumThreads(1)
    size = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) == 3 else LARGE
    small, large = speeds(*SMALL), speeds(*size)
    for name, program in PROGRAMS.items():
        print(f"{program.category:8} {name:26} {small[name]:8.0f} {large[name]:8.1f}")
    rows = []
    for category in ("camera", "style", "motion", "concept"):
        names = [name for name, program in PROGRAMS.items() if program.category == category]
        rates = ", ".join(f"{name} {small[name]:.0f} / {large[name]:.1f}" for name in names)
        rows.append((f"{category}, {len(names)} conditions, frames/s at {SMALL[0]} x {SMALL[1]} / {size[0]} x {size[1]}", rates))
    for shape, rates in ((SMALL, small), (size, large)):
        rows.append((f"median of {len(rates)} conditions at {shape[0]} x {shape[1]}", f"{np.median(list(rates.values())):.0f} frames/s/core"))
        whole = MEMBERS * sum(FRAMES / rate for rate in rates.values())
        rows.append((f"all of them, {MEMBERS} members of {FRAMES} frames each, at {shape[0]} x {shape[1]}", f"{whole:.1f} s of one core"))
    rows.append(("load average over the run", f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"))
    append_row("Rendering procedural conditions", f"python -m benchmarks.render {size[0]} {size[1]}", rows)


if __name__ == "__main__":
    main()
