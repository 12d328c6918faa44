"""A progress line with rate and remaining time, and the seconds that each stage took."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text


@dataclass
class Progress(AbstractContextManager["Progress"]):
    """How far a loop is, how fast, and how long it still takes, on stderr.

    On a terminal one line is rewritten in place. Elsewhere, as in a log file, a line is printed every ten seconds, and
    the last state.
    """

    total: int  #: How many units there are in all, at least 1.
    label: str  #: What is being done, e.g. `"training the judge"`.
    _: KW_ONLY
    unit: str = "step"  #: Name of one unit, for the rate.
    start: int = 0  #: Units done before this process began; they do not count in the rate.
    console: Console = field(default_factory=lambda: Console(stderr=True))
    clock: Callable[[], float] = time.monotonic  #: Seconds that never run backwards.

    def __post_init__(self) -> None:
        rewrites = self.console.is_terminal and not self.console.is_dumb_terminal
        # What goes to stdout is a result, which must not be sent to stderr with the line.
        self._live = Live(console=self.console, auto_refresh=False, redirect_stdout=False) if rewrites else None
        self.done, self._note, self._closed = self.start, "", False
        self._began, self._interval = self.clock(), 0.1 if rewrites else 10.0
        self._due = self._began if rewrites else self._began + self._interval

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` units are complete in all; `note` says something about them, e.g. the loss."""
        self.done, self._note = done, note
        if self.clock() >= self._due:
            self._due = self.clock() + self._interval
            self._show()

    def close(self) -> None:
        """Print the last state and end the line. Further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._show()
            if self._live is not None:
                self._live.stop()

    def __exit__(self, *_: object) -> None:
        self.close()  # also after an error, so that its message starts on a line of its own

    def _show(self) -> None:
        seconds, done_here = self.clock() - self._began, self.done - self.start
        rate = done_here / seconds if seconds > 0 else 0.0
        left = f"{duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        parts = [
            f"{self.label}: {self.done}/{self.total}",
            f"{rate:.3g} {self.unit}/s" if rate > 0 else "",
            f"took {duration(seconds)}" if self._closed else left,
            self._note,
        ]
        line = Text("  ".join(filter(None, parts)), no_wrap=True, overflow="ellipsis")
        if self._live is None:
            self.console.print(line, soft_wrap=True)
        else:
            self._live.start()
            self._live.update(line, refresh=True)


class ProgressOfStages(ExitStack):
    """A `Progress` for each of several stages in turn, whose totals are known when they begin."""

    def __init__(self, label: str, unit: str = "step") -> None:
        super().__init__()
        self.label, self.unit = label, unit
        self._line: Progress | None = None

    def update(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of the `total` units of a stage are complete; with the last one its line ends."""
        self._line = self._line or self.enter_context(Progress(total, f"{self.label} {stage}", unit=self.unit))
        self._line.update(done)
        if done == total:
            self.close()
            self._line = None


def duration(seconds: float) -> str:
    """Seconds as a person writes them: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 59.95:  # from here on one decimal would say 60.0 s
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def stage_seconds(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall-clock seconds of the block to `seconds[stage]`, also after an error."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
