"""The command `interpretgan study`, and the words it prints. Heavy packages are imported when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from interpretgan.errors import RunFolderError
from interpretgan.terminal import table

study = App(
    name="study",
    help="Whole experiments: many trainings, their effects with intervals, and verdicts by rules set before the runs.",
)

Workers = Annotated[int | None, Parameter(group="Run")]
Address = Annotated[str | None, Parameter(group="Run")]
Reuse = Annotated[tuple[Path, ...], Parameter(group="Run", negative=(), show_default=False)]


@study.command
def information(*, config: Path, out: Path, workers: Workers = None, ray: Address = None, reuse: Reuse = ()) -> None:
    """Do layers that lose more information contribute more vulnerability?

    Writes study.json to the folder. Run the same command again to go on after an interruption.

    Args:
        config: The study's TOML file.
        out: Its folder.
        workers: Processes at a time on this machine [default: 1].
        ray: Address of a Ray cluster to run on instead (extra 'ray').
        reuse: Folder of another study, whose finished runs are taken over where they did the same; may be repeated.
    """
    _make("information", config, out, workers=workers, ray=ray, reuse=reuse)


@study.command
def pooling(*, config: Path, out: Path, workers: Workers = None, ray: Address = None, reuse: Reuse = ()) -> None:
    """Which pooling is more robust, under which training, and which layer pays?

    Writes study.json to the folder. Run the same command again to go on after an interruption.

    Args:
        config: The study's TOML file.
        out: Its folder.
        workers: Processes at a time on this machine [default: 1].
        ray: Address of a Ray cluster to run on instead (extra 'ray').
        reuse: Folder of another study, whose finished runs are taken over where they did the same; may be repeated.
    """
    _make("pooling", config, out, workers=workers, ray=ray, reuse=reuse)


@study.command
def repair(*, config: Path, out: Path, workers: Workers = None, ray: Address = None, reuse: Reuse = ()) -> None:
    """Does it pay to change the layers that a diagnosis blames, rather than those that it clears?

    Writes study.json to the folder. Run the same command again to go on after an interruption.

    Args:
        config: The study's TOML file.
        out: Its folder.
        workers: Processes at a time on this machine [default: 1].
        ray: Address of a Ray cluster to run on instead (extra 'ray').
        reuse: Folder of another study, whose finished runs are taken over where they did the same; may be repeated.
    """
    _make("repair", config, out, workers=workers, ray=ray, reuse=reuse)


def _make(kind: str, config: Path, out: Path, *, workers: int | None, ray: str | None, reuse: tuple[Path, ...]) -> None:
    from interpretgan.studies.study import STUDY_FILE
    from interpretgan.studies.study import study as make

    record = make(kind, config, out, workers=workers, ray=ray, reuse=reuse)
    rows = [("claim", "measured", "interval", "verdict")]
    for verdict in record["verdicts"]:
        known = verdict["measured"] is not None
        measured = f"{verdict['measured']:+.3f}" if known else "-"
        span = f"[{verdict['low']:+.3f}, {verdict['high']:+.3f}]" if known else "-"
        rows.append((verdict["claim"], measured, span, verdict["verdict"]))
    flags = "".join(f"\n! {flag}" for flag in record["flags"])
    print(f"{table(rows)}{flags}\n\nstudy: {out / STUDY_FILE}")
    if all(run["status"] != "done" for run in record["runs"]):
        raise RunFolderError(
            expected="at least one run that succeeds",
            got="none",
            do=f"read the log.txt of a run in {out / 'runs'}",
        )
