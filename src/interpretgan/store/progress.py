"""A progress line with rate and remaining time, and the seconds that each stage took."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TextIO


class Progress:
    """How far a loop is, how fast, and how long it still takes, on stderr.

    On a terminal one line is rewritten in place; elsewhere, as in a log file, a line is printed every ten
    seconds. The last state is always printed.

    Args:
        total: How many units there are in all, at least 1.
        label: What is being done, e.g. `"training the judge"`.
        unit: Name of one unit, for the rate.
        start: Units done before this process began; they do not count in the rate.
        stream: Where to write. `None`: stderr.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        unit: str = "step",
        start: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.label, self.unit, self.done = total, label, unit, start
        self._start, self._clock = start, clock
        self._stream = sys.stderr if stream is None else stream
        self._rewrites = self._stream.isatty()
        self._interval = 0.1 if self._rewrites else 10.0
        self._began = clock()
        self._shown_at = self._began if not self._rewrites else -math.inf
        self._note = ""
        self._closed = False

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` units are complete in all; `note` says something about them, e.g. the loss."""
        self.done, self._note = done, note
        now = self._clock()
        if now - self._shown_at >= self._interval:
            self._shown_at = now
            self._show(now)

    def close(self) -> None:
        """Print the last state and end the line. Further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._show(self._clock(), last=True)

    def __enter__(self) -> Self:
        """The progress line itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the line, also after an error, so that its message starts on a line of its own."""
        self.close()

    def _show(self, now: float, *, last: bool = False) -> None:
        seconds = now - self._began
        fresh = self.done - self._start
        parts = [f"{self.label}: {self.done}/{self.total}"]
        if fresh > 0 and seconds > 0:
            rate = fresh / seconds
            parts.append(f"{rate:.3g} {self.unit}/s")
            if not last:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        if last:
            parts.append(f"took {duration(seconds)}")
        if self._note:
            parts.append(self._note)
        line = "  ".join(parts)
        if self._rewrites:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{line[:width]}{chr(10) if last else ''}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()


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
