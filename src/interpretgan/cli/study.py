"""The command `interpretgan study`, and the words it prints. Heavy packages are imported when it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from interpretgan.cli.text import print_table
from interpretgan.errors import RunFolderError

study = App(name="study", help="Whole experiments, each one command: information, pooling, repair; and conclude.")


@study.default
def make(
    kind: Literal["information", "pooling", "repair"],
    /,
    *,
    config: Path,
    out: Path,
    workers: int | None = None,
    ray: str | None = None,
    reuse: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = (),
) -> None:
    """Many trainings, their effects with intervals, and verdicts by rules set before the runs.

    Writes study.json to the folder. Run the same command again to go on after an interruption.

    Args:
        kind: information: do layers that lose more information contribute more vulnerability? pooling: which pooling is
            more robust, under which training, and which layer pays? repair: does it pay to change the layers that a
            diagnosis blames, rather than those that it clears?
        config: The study's TOML file.
        out: Its folder.
        workers: Processes at a time on this machine [default: 1].
        ray: Address of a Ray cluster to run on instead (extra 'ray').
        reuse: Folder of another study, whose finished runs are taken over where they did the same; may be repeated.
    """
    from interpretgan.studies.config_file import load_config
    from interpretgan.studies.executors import executor_for
    from interpretgan.studies.study import run_study

    checked = load_config(config, kind)
    with executor_for(checked, workers, ray) as executor:
        record = run_study(checked, out, executor, reuse=reuse)
    _print(record, out)
    if all(run["status"] != "done" for run in record["runs"]):
        do = f"read the log.txt of a run in {out / 'runs'}"
        raise RunFolderError(expected="at least one run that succeeds", got="none", do=do)


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
        _print(again(folder), folder)


def _print(record: Mapping[str, Any], folder: Path) -> None:
    from interpretgan.studies.verdicts import STUDY_FILE

    rows = []
    for verdict in record["verdicts"]:
        known = verdict["measured"] is not None
        measured = f"{verdict['measured']:+.3f}" if known else "-"
        span = f"[{verdict['low']:+.3f}, {verdict['high']:+.3f}]" if known else "-"
        rows.append((verdict["claim"], measured, span, verdict["verdict"]))
    print_table(("claim", "measured", "interval", "verdict"), rows)
    for flag in record["flags"]:
        print(f"! {flag['message']}")
    print(f"\nstudy: {folder / STUDY_FILE}")
