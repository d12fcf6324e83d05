"""How fast clips of the miniature world are drawn on one core, before they are encoded.

    python -m benchmarks.miniature

Draws scene and frames of 1,040 clips, 40 of every condition, in one thread, three times at each size; appends the median rate in CPU
time to `benchmarks/RESULTS.md`.
"""

import os
import statistics
import time

from benchmarks.ledger import append_row
from vapdata.scenes import CONDITIONS, draw_made

CLIPS = 40 * len(CONDITIONS)
SIZES = ((5, 32), (9, 32), (9, 64))
"""Frames and side."""


def rate(frames: int, side: int) -> float:
    """Clips a CPU second: what happens, where, and every frame."""
    began = time.process_time()
    for index in range(CLIPS):
        draw_made(0, index, conditions=tuple(CONDITIONS), two=False, turn=20.0, events=1).rendered(frames=frames, height=side, width=side)
    return CLIPS / (time.process_time() - began)


def main() -> None:
    """Measures, prints, appends."""
    rows = []
    for frames, side in SIZES:
        rates = [rate(frames, side) for _ in range(3)]
        rows.append((f"clips of {frames} frames of {side} x {side}", f"{statistics.median(rates):.0f} clips/s/core ({min(rates):.0f} to {max(rates):.0f})"))
        print(*rows[-1], sep=": ")
    rows.append(("load average over the run", f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"))
    append_row("Drawing the miniature world", "python -m benchmarks.miniature", rows)


if __name__ == "__main__":
    main()
