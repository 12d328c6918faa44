"""A progress line with rate and remaining time, and the seconds that each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text


class Progress:
    """How far a loop is, how fast, and how long it still takes, on stderr.

    On a terminal one line is rewritten in place; elsewhere, as in a log file, a line is printed every ten seconds. The
    last state is always printed.

    Args:
        total: How many units there are in all, at least 1.
        label: What is being done, e.g. `"training the judge"`.
        unit: Name of one unit, for the rate.
        start: Units done before this process began; they do not count in the rate.
        console: Where to write. `None`: stderr.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        unit: str = "step",
        start: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.label, self.unit, self.done = total, label, unit, start
        self._console = Console(stderr=True) if console is None else console
        rewrites = self._console.is_terminal and not self._console.is_dumb_terminal
        # What goes to stdout is a result, which must not be sent to stderr with the line.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False) if rewrites else None
        self._interval = 0.1 if rewrites else 10.0
        self._start, self._clock, self._began = start, clock, clock()
        self._due = self._began if rewrites else self._began + self._interval
        self._note, self._closed = "", False

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` units are complete in all; `note` says something about them, e.g. the loss."""
        self.done, self._note = done, note
        if self._clock() >= self._due:
            self._due = self._clock() + self._interval
            self._show()

    def close(self) -> None:
        """Print the last state and end the line. Further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._show()
            if self._live is not None:
                self._live.stop()

    def __enter__(self) -> Self:
        """The progress line itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the line, also after an error, so that its message starts on a line of its own."""
        self.close()

    def _show(self) -> None:
        line = Text(self._line(), no_wrap=True, overflow="ellipsis")
        if self._live is None:
            self._console.print(line, soft_wrap=True)
            return
        self._live.start()
        self._live.update(line, refresh=True)

    def _line(self) -> str:
        seconds, fresh = self._clock() - self._began, self.done - self._start
        parts = [f"{self.label}: {self.done}/{self.total}"]
        if fresh > 0 and seconds > 0:
            rate = fresh / seconds
            parts.append(f"{rate:.3g} {self.unit}/s")
            if not self._closed:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        if self._closed:
            parts.append(f"took {duration(seconds)}")
        return "  ".join(filter(None, [*parts, self._note]))


def duration(seconds: float) -> str:
    """Seconds as a person writes them: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 59.95:  # from here on one decimal would say 60.0 s
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def stage_seconds(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall-clock seconds of the block to `seconds[stage]`, also after an error."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
