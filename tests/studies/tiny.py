"""Where the committed studies are, and an executor that makes their runs without a process for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from interpretgan.studies import worker
from interpretgan.studies.executors import OnStart, Outcome

STUDIES = Path(__file__).parents[2] / "studies"


def inline(folders: Sequence[Path], on_start: OnStart) -> Iterator[tuple[Path, Outcome]]:
    """An executor that stays in this process."""
    for folder in folders:
        on_start(folder.name)
        yield folder, Outcome(None if worker.main(folder) == 0 else "refused", 1)
