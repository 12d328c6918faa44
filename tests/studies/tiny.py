"""Where the committed studies are, and executors that start no process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from interpretgan.studies import job
from interpretgan.studies.executors import Event
from interpretgan.studies.progress_table import DONE, FAILED, RUNNING

STUDIES = Path(__file__).parents[2] / "studies"


def inline(folders: Sequence[Path]) -> Iterator[Event]:
    """Makes the runs in this process."""
    for folder in folders:
        yield folder, RUNNING, ""
        yield folder, *((DONE, "") if job.main(folder) == 0 else (FAILED, "refused"))


def failing(folders: Sequence[Path]) -> Iterator[Event]:
    """Makes no run."""
    return iter([(folder, FAILED, "no time") for folder in folders])
