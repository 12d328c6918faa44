"""The arithmetic of a benchmark, on records made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from interpretgan.cli import run_command
from interpretgan.errors import RunFolderError
from interpretgan.planted.benchmark import SCHEMA
from interpretgan.planted.page import RESULTS, insert, results, write_page
from interpretgan.planted.summary import difference, hit, most_blamed, near, summarise
from interpretgan.statistics import wilson
from interpretgan.store.files import write_json

LAYERS = ["conv", "relu", "pool", "fc"]


def column(*values: float | None, direction: str = "high", low: tuple[float, ...] = (), seconds: float | None = None,
           error: str | None = None) -> dict[str, Any]:  # fmt: skip
    return {"values": values, "low": low, "direction": direction, "seconds": seconds, "error": error}


def record(layers: list[str], v: dict[str, Any] | None, *, kind: str = "gate", turns: bool = True, **more: Any) -> Any:
    columns = {} if v is None else {"vulnerability": v}
    return {
        "key": "k", "network": "net", "data": "digits", "kind": kind, "seed": 0, "half": "table",
        "status": "diagnosed" if v else "collapsed", "reason": "" if v else "collapse", "layers": LAYERS,
        "truth": {"turns": layers if turns else None, "let in": layers}, "image": 0.98, "named": layers,
        "natural": [0.97, 0.94, 0.92, 0.5], "controls": {"noise": 0.01}, "verification": {"failed": ""},
        "seconds": {"make": 2.0, "fit": 10.0, "diagnose": 1.0},
        **more, "columns": columns | more.get("columns", {}),
    }  # fmt: skip


def test_the_layer_that_a_score_blames_most() -> None:
    assert most_blamed(column(0.1, 0.5, -0.2, 0.3), 1) == {1}
    assert most_blamed(column(0.1, 0.5, -0.2, 0.3, direction="low"), 1) == {2}
    assert most_blamed(column(0.1, 0.5, -0.2, 0.3), 2) == {1, 3}
    assert most_blamed(column(0.1, None, 0.0, None), 1) == {0}
    assert most_blamed(column(0.1, None, None, None), 2) is None
    assert most_blamed(column(0.5, 0.5, 0.0, 0.0), 1) is None  # a tie names nobody
    assert most_blamed(column(0.5, 0.5, 0.0, 0.0), 2) == {0, 1}  # but the two together
    assert most_blamed(column(0.5, 0.2, 0.2, 0.0), 2) is None
    assert most_blamed(column(0.0, 0.0, 0.0, 0.0), 1) is None
    assert most_blamed(column(), 1) is None


def test_a_hit_is_the_planted_layer_and_near_is_the_next_one() -> None:
    right, beside, far = (record(["pool"], column(*values)) for values in
                          [(0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0)])  # fmt: skip
    name = ("turns", "vulnerability")
    assert [hit(each, *name) for each in (right, beside, far)] == [True, False, False]
    assert [near(each, *name) for each in (right, beside, far)] == [True, True, False]
    two = record(["conv", "fc"], column(0.4, 0.1, 0.2, 0.5), kind="two")
    assert hit(two, *name)
    assert not hit(record(["conv", "fc"], column(0.4, 0.1, 0.45, 0.5), kind="two"), *name)
    assert not hit(record(["pool"], None), *name)


def test_two_ways_in_are_those_that_bring_back_most_together() -> None:
    scores = {"let_in": column(0.1, 0.5, 0.4, 0.0), "rival": column(0.9, 0.0, 0.0, 0.9)}
    two = record(["conv", "fc"], column(0, 0, 0, 0), kind="two", columns=scores)
    together = two | {"mended_together": {"layers": ["fc", "conv"]}}
    assert not hit(two, "let in", "let_in")  # a record of before, by its scores
    assert hit(together, "let in", "let_in")
    assert hit(together, "let in", "rival")
    assert not hit(together | {"mended_together": {"layers": ["fc", "relu"]}}, "let in", "let_in")
    assert hit(record(["relu"], None, columns=scores, mended_together={"layers": ["fc", "conv"]}), "let in", "let_in")


def test_a_summary_counts_what_it_says() -> None:
    rival = {"rival": column(0.3, 0.2, 0.1, 0.0, seconds=3.0)}
    broken = {"rival": column(error="no weights")}
    none = record([], column(0.2, 0.0, 0.0, 0.0, low=(0.06, 0.0, 0.0, 0.0)), kind="none")
    records = [
        record(["pool"], column(0, 0, 1, 0), columns=rival, verification={"natural": 0.9, "noise": 0.7}),
        record(["conv"], column(1, 0, 0, 0), columns=broken, half="held out"),
        record(["conv"], column(0, 0, 0, 1), columns=rival, kind="twin", turns=False),
        record(["fc"], None, columns=rival),
        record(["conv", "fc"], column(1, 0, 0, 1), kind="two", columns=rival),
        none, record([], column(0.2, 0, 0, 0, low=(0.04, 0, 0, 0)), kind="none"),
        {"key": "u", "status": "unverified", "reason": "r", "verification": {"failed": "mended"}, "seed": 1,
         "seconds": {"make": 4.0, "verify": 1.0}},
        {"key": "m", "status": "unmade", "reason": "r", "seed": 2},
    ]  # fmt: skip
    found = summarise(records, planned=11)
    counts = found["counts"]
    assert counts["planned"] == 11
    assert (counts["missing"], counts["unmade"], counts["verified"], counts["collapsed"]) == (2, 1, 7, 1)
    assert counts["unverified"] == {"mended": 1}
    assert counts["noise_alone"] == 1
    assert counts["unnamed"] == 2  # of the networks without a plant
    turns, let_in = found["questions"]["turns"], found["questions"]["let in"]
    ours = turns["scores"]["vulnerability"]
    # A twin's turn is not known; a collapse is our miss.
    assert (ours["top"]["right"], ours["top"]["networks"]) == (2, 3)
    interval = wilson(2, 3, 0.95)
    assert (ours["top"]["value"], ours["top"]["low"]) == (interval.value, interval.low)
    assert (ours["two"]["right"], ours["two"]["networks"]) == (1, 1)
    assert ours["by"]["half"]["held out"]["right"] == 1
    # The rival counts where it ran: wrong at pool, and at fc.
    assert (turns["scores"]["rival"]["top"]["right"], turns["scores"]["rival"]["top"]["networks"]) == (0, 2)
    assert turns["scores"]["rival"]["failed"] == 1
    assert turns["against"]["rival"] == pytest.approx(difference([1, 0], seed=0))
    assert let_in["column"] == "let_in"  # there is no such column: rivals alone
    assert set(let_in["scores"]) == {"rival"}
    assert (let_in["scores"]["rival"]["top"]["right"], let_in["networks"]) == (1, 4)
    assert (found["blamed"]["right"], found["blamed"]["networks"]) == (1, 2)
    assert (found["readable"]["all"]["right"], found["readable"]["all"]["layers"]) == (2 * 6, 4 * 6)
    assert found["controls"]["noise"]["networks"] == 7
    assert found["seconds"]["make"]["greatest"] == 4.0
    assert found["seconds"]["score: vulnerability"] == {
        "least": 11.0, "middle": 11.0, "greatest": 11.0, "total": 66.0, "networks": 6
    }  # fmt: skip
    assert found["seconds"]["score: rival"]["total"] == 12.0


def test_a_paired_difference_and_its_interval() -> None:
    even = difference([1, -1, 0, 0, 0, 0], seed=0)
    sure = difference([1] * 30, seed=0)
    ahead = difference([1] * 12 + [0] * 20, seed=0)
    assert even is not None
    assert sure is not None
    assert ahead is not None
    assert even["value"] == 0
    assert even["low"] < 0 < even["high"]
    assert (even["better"], even["worse"]) == (1, 1)
    assert (sure["low"], sure["high"]) == (1, 1)
    assert 0.2 < ahead["low"] < ahead["value"] == 0.375 < ahead["high"] < 0.56
    assert difference([], seed=0) is None
    few = difference([1] * 5, seed=0)
    assert few is not None
    assert (few["value"], few["low"], few["high"]) == (1, -1, 1)  # chance does that too often


def summary(**more: Any) -> dict[str, Any]:
    records = [
        record(["pool"], column(0, 0, 1, 0), columns={"last": column(0, 0, 0, 1, seconds=0.1)}),
        record(["fc"], column(0, 0, 1, 0), columns={"last": column(0, 0, 0, 1, seconds=0.1)}),
    ] + [record(["fc"], column(0, 0, 1, 0), columns={"last": column(0, 0, 0, 1, seconds=0.1)})] * 9
    settings = {"networks": ["net"], "kinds": ["gate"], "held_out": 1, "draw_seed": 7, "verified_on": 10, "examples": 5}
    machine = {"processor": "a processor", "cores": 2, "versions": {"torch": "2"}, "version": "0"}
    judges = {"digits": {"name": "judge", "natural": 0.9, "adversarial": 0.8, "seconds": 60.0}}
    return {**summarise(records, planned=12), "settings": settings, "machine": machine, "judges": judges, **more}


def test_the_page_says_where_a_rival_wins(tmp_path: Path) -> None:
    page = write_page(summary(), tmp_path).read_text()
    assert "Ahead of ours by an interval that excludes zero: last." in page
    assert "**ahead of us**" in page
    assert "| **V, ours** | 9.1 % [1.6, 37.7] (1 of 11) |" in page
    assert "drawn from the seed 7" in page
    assert "There is no column `let_in`" in page
    assert (tmp_path / "planted.svg").read_bytes().startswith(b"<?xml")


def test_results_go_into_a_page_and_replace_what_was_there(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "planted.md"
    page.parent.mkdir()
    page.write_text(f"# Title\n\nProse.\n\n{RESULTS}\n\nold\n")
    for _ in range(2):
        insert(summary(), page, page.with_name("planted.svg"))
    assert page.read_text() == "# Title\n\nProse.\n\n" + results(summary(), "planted.svg")
    assert "old" not in page.read_text()
    page.write_text("# Title\n")
    with pytest.raises(RunFolderError, match="the heading ## Results"):
        insert(summary(), page, page.with_name("planted.svg"))


def test_the_page_is_written_again_from_the_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["benchmark", "page", str(tmp_path)]) == 2
    assert "planted.json" in capsys.readouterr().err
    for other in ("{}", "[]"):
        (tmp_path / "planted.json").write_text(other)
        assert run_command(["benchmark", "page", str(tmp_path)]) == 2
    write_json(tmp_path / "planted.json", {"schema": SCHEMA, **summary()})
    assert run_command(["benchmark", "page", str(tmp_path)]) == 0
    assert (tmp_path / "planted.md").read_text() == "# Planted networks\n\n" + results(summary(), "planted.svg")
    (tmp_path / "page.md").write_text(f"{RESULTS}\n")
    assert run_command(["benchmark", "page", str(tmp_path), "--into", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == results(summary(), "planted.svg")
