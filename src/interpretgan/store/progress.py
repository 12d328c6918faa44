"""How far work is: one record that every `on_progress` is called with, and the line that shows it."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from importlib.util import find_spec

from rich.console import Console
from rich.live import Live
from rich.text import Text

SHOWN = ("loss", "accuracy", "loss_d", "information", "latent")  # of the numbers about a stage, in its line


@dataclass(frozen=True)
class Progress:
    """How far a stage of some work is: what every `on_progress` of this package is called with."""

    stage: str  #: What is being done, e.g. `judge`.
    done: int  #: Units that are complete, those before a resume included.
    total: int  #: How many there are in all, at least 1.
    unit: str = "step"  #: Name of one unit.
    start: int = 0  #: Units that were complete before this process began.
    values: Mapping[str, float] = field(default_factory=dict)  #: Numbers about it, e.g. losses.
    #: The layer that is worst read so far, and the share of its natural explanations that the judge predicts right.
    worst_read: tuple[str, float] | None = None
    left: float | None = None  #: Seconds until the whole job ends. `None`: not known.

    @property
    def note(self) -> str:
        """What a line says of it: the numbers that tell most, and the layer that is worst read."""
        shown = [f"{name} {value:.3g}" for name, value in self.values.items() if name in SHOWN]
        worst = [] if self.worst_read is None else [f"worst read: {self.worst_read[0]}, {self.worst_read[1]:.1%} right"]
        return "  ".join(shown + worst)


OnProgress = Callable[[Progress], None]
"""Told how far work is. In its place `True` shows a line on stderr, and `False` shows nothing."""


@dataclass
class Pace:
    """How fast a stage is, from its first report on: what comes before, as a start that is fitted, is no unit of it."""

    first: tuple[int, float] | None = None  #: What was done at the first report, and when.

    def units_per_second(self, done: int, now: float) -> float:
        """After a report that so much is done; 0 where it is not known yet."""
        self.first = self.first or (done, now)
        before, then = self.first
        return (done - before) / (now - then) if done > before and now > then else 0.0


@dataclass
class ProgressLine(AbstractContextManager["ProgressLine"]):
    """A stage as a line on stderr: how far it is, how fast, and how long it still takes.

    On a terminal, and in a notebook that has ipywidgets, one line is rewritten in place. Elsewhere, as in a log file, a
    line is printed every ten seconds. What stays is the last state, with the seconds that the stage took.
    """

    total: int  #: How many units there are in all, at least 1.
    label: str  #: What is being done, e.g. `judge`.
    _: KW_ONLY
    unit: str = "step"  #: Name of one unit, for the rate.
    start: int = 0  #: Units done before this process began; they do not count in the rate.
    console: Console = field(default_factory=lambda: Console(stderr=True))
    clock: Callable[[], float] = time.monotonic  #: Seconds that never run backwards.
    began: float | None = None  #: When the stage began, by the clock. `None`: now.

    def __post_init__(self) -> None:
        notebook = self.console.is_jupyter and find_spec("ipywidgets") is not None
        rewrites = notebook or (self.console.is_terminal and not self.console.is_dumb_terminal)
        # What goes to stdout is a result, which must not be sent to stderr with the line.
        self._live = Live(console=self.console, auto_refresh=False, redirect_stdout=False) if rewrites else None
        self.done, self._note, self._closed, self._left = self.start, "", False, ""
        self._began = self.clock() if self.began is None else self.began
        self._pace, self._rate = Pace(), 0.0
        self._interval = 0.1 if rewrites else 10.0
        self._due = self._began if rewrites else self._began + self._interval

    def update(self, done: int, note: str = "", *, job_left: float | None = None) -> None:
        """Report that `done` units are complete in all.

        `note` says something about them, e.g. the loss; `job_left` is the time until the whole job ends, in seconds.
        """
        self.done, self._note = done, note
        self._rate = self._pace.units_per_second(done, self.clock())
        self._left = "" if job_left is None else f"(all: {duration(job_left)})"
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
        seconds, rate = self.clock() - self._began, self._rate
        time_left = f"{duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        parts = [
            f"{self.label}: {self.done}/{self.total}",
            f"{rate:.3g} {self.unit}/s" if rate > 0 else "",
            f"took {duration(seconds)}" if self._closed else f"{time_left} {self._left}".strip(),
            self._note,
        ]
        line = Text("  ".join(filter(None, parts)), no_wrap=True, overflow="ellipsis")
        if self._live is None:
            self.console.print(line, soft_wrap=True)
        else:
            self._live.start()
            self._live.update(line, refresh=True)


@contextmanager
def reporting(on_progress: OnProgress | bool, label: str = "") -> Iterator[OnProgress]:
    """What to call with the progress of a stage, or of several in turn; what is shown of it ends with the block.

    `label` stands before the name of each stage.
    """
    if not isinstance(on_progress, bool):
        yield on_progress
        return
    line: ProgressLine | None = None
    stage, began = "", time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal line, stage, began
        if line is not None and progress.stage != stage:
            line.close()
            line, began = None, time.monotonic()
        if line is None:
            name, stage = f"{label} {progress.stage}".strip(), progress.stage
            line = ProgressLine(progress.total, name, unit=progress.unit, start=progress.start, began=began)
        line.update(progress.done, progress.note, job_left=progress.left)

    try:
        yield show if on_progress else lambda _: None
    finally:
        if line is not None:
            line.close()


class Job:
    """A job of several stages: what each took, and how long the whole still takes where that was estimated before.

    Args:
        on_progress: Told how far the job is.
    """

    def __init__(self, on_progress: OnProgress | bool = True) -> None:
        self.on_progress = on_progress
        self.seconds = dict[str, float]()  #: That each stage took.
        self._planned = dict[str, float]()

    def plan(self, seconds: Mapping[str, float]) -> None:
        """Say which stages are to come, in their order, and how long each will take."""
        self._planned = dict(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[OnProgress]:
        """A stage, timed; to be called with its progress, under this name."""
        planned = name in self._planned
        place = list(self._planned).index(name) + 1 if planned else 0
        to_come = (took for other, took in self._planned.items() if other != name and other not in self.seconds)
        later = sum(to_come) if planned else None
        pace, label = Pace(), f"[{place}/{len(self._planned)}]" if planned else ""
        with reporting(self.on_progress, label) as report, stage_seconds(self.seconds, name):

            def relay(progress: Progress) -> None:
                rate, left = pace.units_per_second(progress.done, time.monotonic()), None
                if later is not None:
                    of_unit = 1 / rate if rate else self._planned[name] / progress.total
                    left = later + (progress.total - progress.done) * of_unit
                report(replace(progress, stage=name, left=left))

            yield relay


def duration(seconds: float) -> str:
    """Seconds as a person writes them: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 59.95:  # from here on one decimal would say 60.0 s
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def seconds_of(text: str) -> float:
    """The seconds of a time like `90`, `90s`, `3m` or `1h30m`; a `ValueError` for anything else."""
    whole = f"{text}s" if re.fullmatch(r"\d*\.?\d+", text) else text
    found = re.fullmatch(r"(?:(\d*\.?\d+)h)?(?:(\d*\.?\d+)m)?(?:(\d*\.?\d+)s)?", whole)
    parts = zip(found.groups("0") if found else (), (3600, 60, 1), strict=False)
    seconds = sum(float(part) * unit for part, unit in parts)
    if seconds <= 0:
        raise ValueError(f"expected a time like 90s, 3m or 1h30m, got '{text}'")
    return seconds


@contextmanager
def stage_seconds(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall-clock seconds of the block to `seconds[stage]`, also after an error."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
