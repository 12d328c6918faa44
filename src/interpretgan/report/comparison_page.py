"""The page that puts runs side by side: what it shows is computed here; how it looks stands in the template."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

from interpretgan.diagnosis.reliability import is_unreliable
from interpretgan.errors import ConfigError, RunFolderError, kind_of
from interpretgan.report import wording
from interpretgan.report.comparison import Comparison, Run, said
from interpretgan.report.page import attack_words, csv_address, script, templates
from interpretgan.report.vulnerability_chart import Panel, panel
from interpretgan.statistics import Interval
from interpretgan.store.files import atomic_write_text, read_json

PAGE = "comparison.html"
HASH = 64  #: Digits of a hash,
SHOWN = 8  #: of which so many tell it from another one.
NOT_CHOSEN = ("schema", "version", "model: answers")  #: Parts of a config.json that are no settings.


@dataclass(frozen=True)
class Bar:
    """One bar: whose it is, its control, whether it is set off, and whether it cannot be read."""

    name: str
    value: Interval
    noise: Interval | None = None
    top: bool = False
    unreliable: bool = False


@dataclass(frozen=True)
class Group:
    """The bars of one layer, on an axis that those of other layers share."""

    bars: Sequence[Bar]
    panel: Panel


def write_comparison(found: Comparison, table: str | Path) -> Path:
    """Write a comparison as a table, and as a page that needs no other file and no network.

    Args:
        found: What `compare_runs` found.
        table: File for the table as CSV; its folder is made if missing.

    Returns:
        The path of comparison.html. It lies beside the table, and links to the reports of the runs that have one.

    Raises:
        ConfigError: The table has the page's name, lies in a run's folder, or there is a folder in the place of one of
            them.
        RunFolderError: A file cannot be written, or a run's config.json is damaged.
    """
    table = Path(table)
    page = table.parent / PAGE
    for file in (table, page):  # before either is written
        if file.is_dir():
            expected, do = "a table and a page that can be written", "name another file for the table"
            raise ConfigError(expected=expected, got=f"the folder {file}", do=do)
    if table == page:
        expected, do = f"another file for the table than {PAGE}", "name it e.g. comparison.csv"
        raise ConfigError(expected=expected, got=str(table), do=do)
    if any(table.resolve().is_relative_to(run.folder.resolve()) for run in found.runs):
        expected, do = "a table outside the folders of the runs, whose files it may replace", "name another file"
        raise ConfigError(expected=expected, got=str(table), do=do)
    first, *others = found.runs
    answers = [wording.answer(run.diagnosis) for run in found.runs]
    flags = [(run.name, flag) for run in found.runs for flag in wording.all_flags(run.diagnosis)]
    axis, groups = _vulnerability(found, answers)
    confidence = first.diagnosis.provenance.get("confidence", 0.95)
    context = {
        "found": found, "first": first.name, "others": len(others),
        "names": [run.name for run in found.runs], "level": wording.level(first.diagnosis), "threat": attack_words,
        "answers": answers, "reports": [_report(run, page.parent) for run in found.runs],
        "claims": [_claim(found, place) for place in range(len(others))],
        "axis": axis, "groups": groups, "let_in": _let_in(found), "chance": f"{100 * (1 - confidence):g}",
        "few": any(run.few for run in found.runs), "settings": _settings(found.runs),
        "flags": sorted(flags, key=lambda one: wording.severity(one[1])),
        "csv": csv_address(found.frame), **script(),
    }  # fmt: skip
    content = templates().get_template("comparison.html.j2").render(context)
    atomic_write_text(table, found.frame.to_csv(index=False))
    atomic_write_text(page, content)
    return page


def _report(run: Run, page: Path) -> str:
    """The address of a run's report, seen from the folder of the page; empty where it has none."""
    file = run.folder / "report.html"
    return quote(Path(os.path.relpath(file.resolve(), page.resolve())).as_posix()) if file.exists() else ""


def _claim(found: Comparison, place: int) -> tuple[wording.Claim, str]:
    """Where another run differs most from the first, by its place among the others, and the numbers behind that."""
    first, other = found.runs[0].name, found.runs[1 + place].name
    shared = [layer for layer, gaps in found.gaps.items() if gaps[place] is not None]
    sure, passed = found.sure_gaps(place), sum(found.unreliable(layer, place) for layer in shared)
    if not shared:
        none = "Layers are compared by name, where the layer before is the same too."
        return ((f"{other} and {first} have no layer in common after the same one", False),), none
    known = sum(all(found.runs[at].row(layer) for at in (0, 1 + place)) for layer in found.layers)
    both = "both explain" if len(shared) == known else "both explain after the same one"
    among = f"Of the {len(shared)} layers that {both}" if len(shared) > 1 else f"Of the one layer that {both}"
    among += f", {passed} cannot be read" if passed else ""
    if not sure:
        none = f"{among}, {'and no interval of the others' if passed else 'no interval'} leaves out zero."
        none = f"No layer that {both} can be read in both." if passed == len(shared) else none
        return ((f"No layer of {other} surely differs from that of {first}", False),), none
    layer, gap = next(iter(sure.items()))
    base, value = (wording.number(each.value, 100) for run in (found.runs[0], found.runs[1 + place])
                   if (each := run.vulnerability(layer)))  # fmt: skip
    words = f" loses {'more' if gap.value > 0 else 'less'} in {other} than in {first}"
    size = f"{wording.number(gap.value, 100, sign=True)} points {wording.span(gap)}"
    differ = f"{'and ' if passed else ''}{len(sure)} surely differ{'s' if len(sure) == 1 else ''}"
    return ((layer, True), (words, False)), f"{size}: {value} in {other}, {base} in {first}. {among}, {differ}."


def _drawn(groups: Sequence[Sequence[Bar]], unit: str, *, signed: bool = True) -> tuple[Panel, list[Group]]:
    """The axis that holds all bars, and each group on it."""
    bars = list(chain(*groups))
    axis = panel([bar.value for bar in bars], [bar.noise for bar in bars], unit, signed=signed)
    marks, controls = iter(axis.marks), iter(axis.controls)
    return axis, [
        Group(group, replace(axis, marks=[next(marks) for _ in group], controls=[next(controls) for _ in group]))
        for group in groups
    ]


def _vulnerability(found: Comparison, answers: Sequence[wording.Answer]) -> tuple[Panel, list[tuple[Group, Group]]]:
    """The axis of vulnerabilities and differences; by layer the bars of the runs, and those of their differences."""
    first, *others = found.runs
    sure = [found.sure_gaps(place) for place in range(len(others))]
    profiles, gaps = [], []
    for layer in found.layers:
        rows = [(run, row, answer) for run, answer in zip(found.runs, answers, strict=True) if (row := run.row(layer))]
        profiles.append([
            Bar(run.name, row.vulnerability, row.vulnerability_noise, layer in answer.layers, is_unreliable(row))
            for run, row, answer in rows
        ])  # fmt: skip
        gaps.append([
            Bar(f"{run.name} − {first.name}", gap, None, layer in sure[place], found.unreliable(layer, place))
            for place, (run, gap) in enumerate(zip(others, found.gaps[layer], strict=True)) if gap is not None
        ])  # fmt: skip
    axis, groups = _drawn([*profiles, *gaps], "points")
    return axis, list(zip(groups[: len(profiles)], groups[len(profiles) :], strict=True))


def _let_in(found: Comparison) -> tuple[Panel, list[tuple[str, Group]]] | None:
    """What comes back where each layer is mended alone, by its name in the runs that measured it; `None`: in no run."""
    named = [() if (mended := run.diagnosis.let_in) is None else mended.named for run in found.runs]
    groups = [
        [
            Bar(run.name, row.let_in, top=layer in its)
            for run, its in zip(found.runs, named, strict=True) if (row := run.row(layer)) and row.let_in
        ]
        for layer in found.layers
    ]  # fmt: skip
    if not any(groups):
        return None
    axis, drawn = _drawn(groups, "% of what the attack takes", signed=False)
    return axis, [(layer, group) for layer, group in zip(found.layers, drawn, strict=True) if group.bars]


def _settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings that differ, each with its value in every run; `None` where there is none."""
    flat = [dict(_flat(_config(run.folder / "config.json"))) for run in runs]
    names = dict.fromkeys(chain(*flat))
    values = {name: [settings.get(name) for settings in flat] for name in names if name not in NOT_CHOSEN}
    different = {name: each for name, each in values.items() if any(value != each[0] for value in each)}
    return {name: [said(name, value) for value in each] for name, each in different.items()}


def _config(file: Path) -> dict[str, Any]:
    """The settings of a run, none where it has no such file; a `RunFolderError` where it is something else."""
    found = read_json(file) if file.exists() else {}
    if not isinstance(found, dict):
        do = "restore it, or run the diagnosis again"
        raise RunFolderError(expected=f"settings in {file}", got=kind_of(found), do=do)
    return found


def _flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Settings of all depths by their names, `generator: steps`, hashes as their first digits."""
    if isinstance(settings, Mapping):
        return [one for key, value in settings.items() for one in _flat(value, f"{prefix}: {key}" if prefix else key)]
    is_hash = isinstance(settings, str) and len(settings) == HASH and prefix.endswith("sha256")
    return [(prefix, f"{settings[:SHOWN]}…" if is_hash else settings)]
