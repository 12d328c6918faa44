"""The command `interpretgan study`, and the words it prints. Heavy packages are imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from interpretgan.cli.text import table
from interpretgan.errors import RunFolderError

study = App(
    name="study",
    help="Whole experiments: many trainings, their effects with intervals, and verdicts by rules set before the runs.",
)


@Parameter(name="*", group="Run")
@dataclass(frozen=True)
class StudyOptions:
    """Which study, where, and on what."""

    config: Path
    """The study's TOML file."""
    out: Path
    """Its folder."""
    workers: int | None = None
    """Processes at a time on this machine [default: 1]."""
    ray: str | None = None
    """Address of a Ray cluster to run on instead (extra 'ray')."""
    reuse: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = ()
    """Folder of another study, whose finished runs are taken over where they did the same; may be repeated."""


@study.command
def information(*, options: StudyOptions) -> None:
    """Do layers that lose more information contribute more vulnerability?

    Writes study.json to the folder. Run the same command again to go on after an interruption.
    """
    _make("information", options)


@study.command
def pooling(*, options: StudyOptions) -> None:
    """Which pooling is more robust, under which training, and which layer pays?

    Writes study.json to the folder. Run the same command again to go on after an interruption.
    """
    _make("pooling", options)


@study.command
def repair(*, options: StudyOptions) -> None:
    """Does it pay to change the layers that a diagnosis blames, rather than those that it clears?

    Writes study.json to the folder. Run the same command again to go on after an interruption.
    """
    _make("repair", options)


@study.command
def conclude(*folders: Path) -> None:
    """Draw the conclusions of finished studies again, by their own rules: effects, verdicts and flags from their runs.

    Nothing is trained. A verdict that other statistics change says what it was before.

    Args:
        folders: Each with a study.json, which is replaced.
    """
    from interpretgan.studies.verdicts import conclude as again

    if not folders:
        raise RunFolderError(expected="folders of finished studies", got="none", do="name them, e.g. results/studies/*")
    for folder in folders:
        _tell(again(folder), folder)


def _make(kind: str, options: StudyOptions) -> None:
    from interpretgan.studies.study import study as make

    record = make(kind, options.config, options.out, workers=options.workers, ray=options.ray, reuse=options.reuse)
    _tell(record, options.out)
    if all(run["status"] != "done" for run in record["runs"]):
        raise RunFolderError(
            expected="at least one run that succeeds",
            got="none",
            do=f"read the log.txt of a run in {options.out / 'runs'}",
        )


def _tell(record: Mapping[str, Any], folder: Path) -> None:
    from interpretgan.studies.verdicts import STUDY_FILE

    rows = [("claim", "measured", "interval", "verdict")]
    for verdict in record["verdicts"]:
        known = verdict["measured"] is not None
        measured = f"{verdict['measured']:+.3f}" if known else "-"
        span = f"[{verdict['low']:+.3f}, {verdict['high']:+.3f}]" if known else "-"
        rows.append((verdict["claim"], measured, span, verdict["verdict"]))
    flags = "".join(f"\n! {flag['message']}" for flag in record["flags"])
    print(f"{table(rows)}{flags}\n\nstudy: {folder / STUDY_FILE}")
