"""The progress of a study, as one table: a row per case and variant, a column per seed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from interpretgan.store.progress import duration
from interpretgan.studies.plan import Spec

WAITING, RUNNING, KEPT, DONE, FAILED = ".", "run", "kept", "done", "FAIL"


class Board:
    """A line for each run that ends, above a table that a terminal shows all the time, and a file at the end.

    Args:
        stream: Where to write. `None`: stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        width = None if stream.isatty() else 200  # lines of a log are not folded
        self._console = Console(file=stream, width=width, markup=False, highlight=False)
        self._specs: list[Spec] = []
        self._state: dict[str, str] = {}
        self._began = time.monotonic()
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=2)
        self._live.start()

    def add(self, specs: Sequence[Spec]) -> None:
        """More runs, all waiting."""
        self._state |= {spec["id"]: WAITING for spec in specs}
        self._specs.extend(specs)

    def set(self, run: str, state: str, note: str = "") -> None:
        """A run's new state."""
        self._state[run] = state
        if state != RUNNING or note:
            over = sum(one not in (WAITING, RUNNING) for one in self._state.values())
            said = note or duration(time.monotonic() - self._began)
            self._console.print(f"[{over}/{len(self._state)}] {run}: {state}  {said}", soft_wrap=True)

    def close(self) -> None:
        """Show the table a last time."""
        self._live.stop()
        self._console.print()

    def _table(self) -> Table:
        seeds = sorted({spec["seed"] for spec in self._specs})
        rows: dict[tuple[str, str], dict[int, str]] = {}
        for spec in self._specs:
            rows.setdefault((spec["case"], spec["variant"]), {})[spec["seed"]] = self._state[spec["id"]]
        table = Table(
            "case", "variant", *(f"s{seed}" for seed in seeds), box=None, pad_edge=False, padding=(0, 2, 0, 0)
        )
        for names, states in rows.items():
            table.add_row(*names, *(states.get(seed, "") for seed in seeds))
        return table
