"""The progress of a study, as one table: a row per case and variant, a column per seed."""

import time
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from interpretgan.store.progress import duration

WAITING, RUNNING, KEPT, DONE, FAILED = ".", "run", "kept", "done", "FAIL"


class Board:
    """A line for each run that ends, above a table that a terminal shows all the time, and a file at the end.

    The stream is where it writes; `None`: stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream, stderr=True, markup=False, highlight=False)
        self._rows: dict[tuple[str, str], dict[int, list[str]]] = {}  # ids by case and variant, then by seed
        self._state: dict[str, str] = {}
        self._began = time.monotonic()
        if not self._console.is_terminal:
            self._console.width = 200  # nothing in a log is folded
        self._live = Live(console=self._console, get_renderable=self._table, auto_refresh=False)
        self._live.start()

    def add(self, specs: Sequence[dict[str, Any]]) -> None:
        """More runs, all waiting."""
        for spec in specs:
            self._state[spec["id"]] = WAITING
            of_seed = self._rows.setdefault((spec["case"], spec["variant"]), {}).setdefault(spec["seed"], [])
            if spec["id"] not in of_seed:
                of_seed.append(spec["id"])

    def set(self, run: str, state: str, note: str = "") -> None:
        """A run's new state."""
        self._state[run] = state
        if state != RUNNING or note:
            over = sum(known not in (WAITING, RUNNING) for known in self._state.values())
            note = note or duration(time.monotonic() - self._began)
            self._console.print(f"[{over}/{len(self._state)}] {run}: {state}  {note}", soft_wrap=True)
        self._live.refresh()

    def close(self) -> None:
        """Show the table a last time."""
        self._live.stop()
        self._console.print()

    def _table(self) -> Table:
        seeds = sorted({seed for runs in self._rows.values() for seed in runs})
        table = Table("case", "variant", *(f"s{seed}" for seed in seeds), box=None, pad_edge=False)
        for names, runs in self._rows.items():
            states = [dict.fromkeys(self._state[run] for run in runs.get(seed, ())) for seed in seeds]
            table.add_row(*names, *map(" ".join, states))
        return table
