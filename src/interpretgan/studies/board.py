"""The progress of a study, as one table: a row per case and variant, a column per seed."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

from interpretgan.store.progress import duration
from interpretgan.studies.plan import Spec

WAITING, RUNNING, KEPT, DONE, FAILED = ".", "run", "kept", "done", "FAIL"


class Board:
    """On a terminal the table is drawn again in place; elsewhere a line says what changed, and it is drawn at the end.

    Args:
        stream: Where to write. `None`: stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._specs: list[Spec] = []
        self._state: dict[str, str] = {}
        self._began = time.monotonic()
        self._drawn = 0
        self._lock = threading.Lock()  # runs begin in the threads that start their processes

    def add(self, specs: Sequence[Spec]) -> None:
        """More runs, all waiting."""
        self._specs.extend(specs)
        self._state |= {spec["id"]: WAITING for spec in specs}

    def set(self, run: str, state: str, note: str = "") -> None:
        """A run's new state."""
        with self._lock:
            self._state[run] = state
            if self._live:
                self._draw()
            elif state != RUNNING:
                over = sum(one not in (WAITING, RUNNING) for one in self._state.values())
                seconds = duration(time.monotonic() - self._began)
                line = f"[{over}/{len(self._state)}] {run}: {state}  {note or seconds}"
                self._stream.write(f"{line.rstrip()}\n")
                self._stream.flush()

    def close(self) -> None:
        """Draw the table a last time."""
        if not self._live:
            self._stream.write("\n".join(self.lines()) + "\n")
        self._stream.flush()

    def lines(self) -> list[str]:
        """The table."""
        seeds = sorted({spec["seed"] for spec in self._specs})
        rows: dict[tuple[str, str], dict[int, str]] = {}
        for spec in self._specs:
            rows.setdefault((spec["case"], spec["variant"]), {})[spec["seed"]] = self._state[spec["id"]]
        cells = [("case", "variant", *(f"s{seed}" for seed in seeds))]
        cells += [(case, variant, *(row.get(seed, "") for seed in seeds)) for (case, variant), row in rows.items()]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]

    def _draw(self) -> None:
        size = shutil.get_terminal_size()
        lines = [line[: size.columns - 1] for line in self.lines()][-(size.lines - 2) :]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._stream.write(up + "".join(f"\r\x1b[K{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)
