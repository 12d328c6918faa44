from __future__ import annotations

import io

import pytest

from interpretgan.store.progress import Progress, duration, stage_seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_every_ten_seconds_and_the_last_state() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(100, "training", stream=stream, clock=clock) as progress:
        for done in range(1, 26):
            clock.now += 1
            progress.update(done, f"loss {done}")
    assert stream.getvalue().splitlines() == [
        "training: 10/100  1 step/s  1 min 30 s left  loss 10",
        "training: 20/100  1 step/s  1 min 20 s left  loss 20",
        "training: 25/100  1 step/s  took 25.0 s  loss 25",
    ]


def test_a_terminal_gets_one_line_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream, clock = Terminal(), Clock()
    with Progress(8, "training", stream=stream, clock=clock) as progress:
        progress.update(1, "x" * 100)
        clock.now += 0.01
        progress.update(2)  # too soon to show
        clock.now += 1
        progress.update(3)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    shown = [part.removeprefix("\x1b[K") for part in text.split("\r")[1:]]
    assert [part.split("  ")[0].strip() for part in shown] == ["training: 1/8", "training: 3/8", "training: 3/8"]
    assert all(len(part.rstrip("\n")) < 40 for part in shown)


def test_the_rate_counts_only_this_process() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(100, "training", unit="image", start=90, stream=stream, clock=clock)
    clock.now += 10
    progress.update(95)
    assert stream.getvalue() == "training: 95/100  0.5 image/s  10.0 s left\n"


def test_an_error_still_ends_the_line() -> None:
    stream = Terminal()
    with pytest.raises(ZeroDivisionError), Progress(3, "training", stream=stream):
        raise ZeroDivisionError
    assert "0/3" in stream.getvalue()
    assert stream.getvalue().endswith("\n")


def test_closing_twice_prints_once() -> None:
    stream = io.StringIO()
    progress = Progress(1, "x", stream=stream)
    progress.close()
    progress.close()
    assert stream.getvalue().count("\n") == 1


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
