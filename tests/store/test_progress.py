from __future__ import annotations

import io

import pytest
from rich.console import Console

from interpretgan.store.progress import Job, Progress, ProgressLine, duration, reporting, stage_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=40, color_system=None)


def text_of(stream: Console) -> str:
    assert isinstance(stream.file, io.StringIO)
    return stream.file.getvalue()


def test_a_log_gets_a_line_every_ten_seconds_and_the_last_state() -> None:
    log, clock = console(), Clock()
    with ProgressLine(100, "training [1/2]", console=log, clock=clock) as progress:
        for done in range(1, 26):
            clock.now += 1
            progress.update(done, f"loss {done}")
    assert text_of(log).splitlines() == [
        "training [1/2]: 10/100  1 step/s  1 min 30 s left  loss 10",
        "training [1/2]: 20/100  1 step/s  1 min 20 s left  loss 20",
        "training [1/2]: 25/100  1 step/s  took 25.0 s  loss 25",
    ]


def test_a_terminal_gets_one_line_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal, clock = console(terminal=True), Clock()
    with ProgressLine(8, "training", console=terminal, clock=clock) as progress:
        progress.update(1, "x" * 100)
        clock.now += 0.01
        progress.update(2)  # too soon to show
        clock.now += 1
        progress.update(3)
    text = text_of(terminal)
    assert [f"{n}/8" in text for n in (1, 2, 3)] == [True, False, True]
    assert text.count("\n") == 1
    assert "x" * 30 not in text


def test_the_rate_counts_only_this_process() -> None:
    log, clock = console(), Clock()
    progress = ProgressLine(100, "training", unit="image", start=90, console=log, clock=clock)
    clock.now += 1
    progress.update(91)
    clock.now += 10
    progress.update(96)
    assert text_of(log) == "training: 96/100  0.5 image/s  8.0 s left\n"


def test_what_comes_before_the_first_step_is_no_time_of_a_step() -> None:
    log, clock = console(), Clock()
    progress = ProgressLine(1000, "generator", console=log, clock=clock)
    clock.now += 45  # until a start is fitted
    for step in range(1, 12):
        progress.update(step)
        clock.now += 1
    progress.close()
    assert text_of(log).splitlines() == [
        "generator: 1/1000",
        "generator: 11/1000  1 step/s  16 min 29 s left",
        "generator: 11/1000  1 step/s  took 56.0 s",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_an_error_still_ends_the_line_once(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = console(terminal=terminal)
    with pytest.raises(ZeroDivisionError), ProgressLine(3, "training", console=stream) as progress:
        raise ZeroDivisionError
    progress.close()
    assert "0/3" in text_of(stream)
    assert text_of(stream).count("\n") == 1


def test_every_stage_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(True, "attack") as report:
        report(Progress("first", 3, 7, "image"))
        report(Progress("first", 7, 7, "image"))
        report(Progress("second", 1, 2, "image", worst_read=("fc1", 0.912)))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("attack first: 7/7  ")
    assert "took" in first
    assert second.startswith("attack second: 1/2  ")
    assert second.endswith("worst read: fc1, 91.2% right")
    with reporting(False) as report:
        report(Progress("first", 3, 7))
    assert capsys.readouterr() == ("", "")


def test_a_job_knows_the_time_until_all_its_stages_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = Clock(), list[Progress]()
    monkeypatch.setattr("interpretgan.store.progress.time.monotonic", clock)
    job = Job(told.append)
    job.plan({"judge": 30.0, "generator-0": 100.0, "diagnosis": 20.0})
    with job.stage("judge") as report:
        clock.now += 10
        report(Progress("training", 1, 4))  # what a step takes is not known yet: as it was planned
        clock.now += 2
        report(Progress("training", 2, 4))
    with job.stage("generator-0") as report:
        clock.now += 30  # until a start is fitted
        report(Progress("generator", 60, 100, start=50))
        clock.now += 5
        report(Progress("generator", 70, 100, start=50))
    with job.stage("unplanned") as report:
        report(Progress("unplanned", 1, 2))
    assert [(at.stage, at.left) for at in told] == [
        ("judge", 3 * 7.5 + 120.0), ("judge", 2 * 2.0 + 120.0),
        ("generator-0", 40.0 + 20.0), ("generator-0", 30 * 0.5 + 20.0), ("unplanned", None),
    ]  # fmt: skip
    assert list(job.seconds) == ["judge", "generator-0", "unplanned"]


def test_what_is_still_to_come_does_not_depend_on_the_order_of_a_plan() -> None:
    told = list[Progress]()
    job = Job(told.append)
    job.plan({"information": 8.0, "generator-0": 100.0, "let in": 3.0})
    for stage in ("information", "generator-0", "information", "let in"):  # trained, and used later
        with job.stage(stage) as report:
            report(Progress(stage, 4, 4))
    assert [at.left for at in told] == [103.0, 3.0, 3.0, 0.0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_stages_add_up_also_after_an_error() -> None:
    seconds: dict[str, float] = {"fit": 1.0}
    with stage_seconds(seconds, "fit"):
        pass
    with pytest.raises(ZeroDivisionError), stage_seconds(seconds, "report"):
        raise ZeroDivisionError
    assert seconds["fit"] > 1
    assert seconds["report"] > 0
