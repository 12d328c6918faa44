from __future__ import annotations

import resource
from pathlib import Path

import pytest

from interpretgan.errors import RunFolderError
from interpretgan.store.metrics import MetricsLog, read_metrics


def log_steps(path: Path, start: int, stop: int) -> None:
    with MetricsLog(path, from_step=start) as log:
        for step in range(start, stop):
            log.write(step, loss=1 / (step + 1), phase="D")


def test_metrics_come_back_as_written(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "deep" / "metrics.jsonl") as log:
        log.write(0, loss=0.5, bad=float("nan"))
        assert read_metrics(log.path) == [{"step": 0, "loss": 0.5, "bad": None}]  # on disk at once


@pytest.mark.parametrize("torn", ["", '{"step": 7, "lo', '{"step": 7}'])
def test_a_resumed_log_equals_an_unbroken_one(tmp_path: Path, torn: str) -> None:
    log_steps(tmp_path / "unbroken", 0, 9)
    log_steps(tmp_path / "broken", 0, 7)
    with (tmp_path / "broken").open("a") as file:
        file.write(torn)
    assert len(read_metrics(tmp_path / "broken")) == 7
    log_steps(tmp_path / "broken", 5, 9)  # the last checkpoint was after step 4
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "unbroken").read_bytes()


def test_a_fresh_log_replaces_an_old_one(tmp_path: Path) -> None:
    log_steps(tmp_path / "metrics", 0, 3)
    log_steps(tmp_path / "metrics", 0, 1)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics")] == [0]


@pytest.mark.parametrize("damage", ["rubbish", '{"loss": 1}', "[1]"])
def test_damage_in_the_middle_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics"
    path.write_text(f'{{"step": 0}}\n{damage}\n{{"step": 2}}\n')
    with pytest.raises(RunFolderError, match="damaged line 2"):
        MetricsLog(path, from_step=3)
    with pytest.raises(RunFolderError, match="no such file"):
        read_metrics(tmp_path / "none")


def test_a_record_that_does_not_fit_is_not_half_written(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics") as log:
        log.write(0, loss=1.0)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 5, limit[1]))
        try:
            with pytest.raises(RunFolderError, match="got file too large"):
                log.write(1, loss=2.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        log.write(2, loss=3.0)
    assert [record["step"] for record in read_metrics(log.path)] == [0, 2]
