"""The findings page, from result files alone: `python -m interpretgan.studies.findings DIR ...`.

A folder is a study's, or the run folder of one diagnosis, whose explanations are then shown and judged:

python -m interpretgan.studies.findings results/studies/* results/cifar10-vgg-small-max --out docs/findings.md
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cyclopts import App

from interpretgan.diagnosing import READABLE
from interpretgan.diagnosis import Diagnosis
from interpretgan.errors import InterpretGANError, RunFolderError
from interpretgan.files import atomic_write_bytes, atomic_write_text, read_json
from interpretgan.report.examples import load_examples
from interpretgan.report.figures import check_examples, explanation_sheet, grid
from interpretgan.studies.config import ACTIONS, UNTOUCHED
from interpretgan.studies.effects import profile
from interpretgan.studies.statistics import Profile, rank_correlation
from interpretgan.studies.study import SCHEMA, STUDY_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Study = Mapping[str, Any]

TITLES = {
    "information": "Information loss and vulnerability",
    "pooling": "Average against max pooling",
    "repair": "Does following the diagnosis pay?",
}
COLOURS = ("#1f5fb4", "#d9641a", "#2a8f5b", "#8a4fbf", "#777777", "#b8315a")
REPLICATES, LEVEL = 2000, 0.95
"""Of the bootstrap where a diagnosis stands alone, and level of its interval: the defaults of a study."""
SMALL = 0.05
"""Perturbations up to this size are told in steps of 1/255, as those of photographs are."""
SHOWN = 2
"""Examples in the picture of all cuts."""

app = App(name="findings", help=__doc__)


@app.default
def main(*folders: Path, out: Path = Path("docs/findings.md")) -> None:
    """Write the page, and its figures beside it.

    Args:
        folders: Of finished studies, and run folders of diagnoses.
        out: The page.
    """
    sys.stdout.write(f"{write_findings(folders, out)}\n")


def write_findings(folders: Sequence[Path], out: Path) -> Path:
    """Write the page and its figures.

    Args:
        folders: Each with a `study.json`, and for the pictures of all cuts also `runs/ID/explanations.npz`; or with a
            `diagnosis.json` and an `explanations.npz`.
        out: The page. Figures go to the folder `findings` beside it.

    Returns:
        The page.

    Raises:
        RunFolderError: There is no study, or one that cannot be read.
    """
    if not folders:
        raise RunFolderError(expected="folders of finished studies", got="none", do="name them, e.g. results/studies/*")
    names = [folder.name for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise RunFolderError(expected="folders of different names", got=f"{name} twice", do="rename one of them")
    alone = [folder for folder in folders if (folder / "diagnosis.json").exists()]
    studies = [(load_study(folder), folder) for folder in folders if folder not in alone]
    studies.sort(key=lambda one: (str(one[0]["kind"]), one[1].name))
    figures = out.parent / "findings"
    places = " ".join(folder.as_posix() for folder in [*(folder for _, folder in studies), *alone])
    lines = [
        "# Findings",
        "",
        "What the studies say of the paper's claims. Each verdict follows from a rule that was written into a study's",
        "configuration before its runs; [Studies](studies.md) says how. A claim is supported where the whole interval,",
        "corrected for the number of comparisons, is on the claimed side, and opposed where all of it is on the other.",
        "This page is generated:",
        "",
        f"    python -m interpretgan.studies.findings {places} --out {out.as_posix()}",
        "",
        "| claim | the paper | claimed | measured | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for study, _ in studies:
        lines += [
            f"| {row['claim']} | {row['paper']} | {row['claimed']} | {measured(row)} | **{row['verdict']}** |"
            for row in study["verdicts"]
        ]
    shown: set[bytes] = set()  # studies that share their networks would show the same pictures
    for study, folder in studies:
        lines += ["", *_section(study, folder, figures, shown)]
    for folder in alone:
        lines += ["", *_explained(folder, figures)]
    atomic_write_text(out, "\n".join(lines) + "\n")
    return out


def load_study(folder: Path) -> Study:
    """A finished study.

    Raises:
        RunFolderError: There is none in the folder, or one of another schema.
    """
    value = read_json(folder / STUDY_FILE)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise RunFolderError(
            expected=f"a study of schema {SCHEMA} in {folder / STUDY_FILE}",
            got="another file",
            do="run the study again",
        )
    return value


def measured(row: Mapping[str, Any]) -> str:
    """A number with its interval."""
    if row.get("measured") is None:
        return "–"
    return f"{row['measured']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _section(study: Study, folder: Path, figures: Path, shown: set[bytes]) -> Iterator[str]:
    kind, provenance = str(study["kind"]), study["provenance"]
    done = [run for run in study["runs"] if run["status"] == "done"]
    cases = dict.fromkeys(str(run["case"]) for run in study["runs"])
    yield f"## {TITLES[kind]}{'' if TITLES[kind].endswith('?') else ':'} {', '.join(cases)}"
    yield ""
    seeds, hours = ", ".join(map(str, provenance["seeds"])), sum(provenance["seconds"].values()) / 3600
    origins = {origin.rpartition("/")[0] for origin in provenance.get("reused", {}).values()}
    taken = f" ({len(provenance['reused'])} of them taken over from {', '.join(sorted(origins))})" if origins else ""
    yield (
        f"{len(done)} of {len(study['runs'])} runs{taken}, seeds {seeds}; {hours:.1f} hours of one process in all, on "
        f"{provenance['processor']}. Version {provenance['version']}, code `{provenance['code']['sha256'][:12]}`."
    )
    if cuts := [row for run in done for row in run["result"].get("layers", ())]:
        yield ""
        yield (
            f"The judge reads natural explanations right in {100 * min(row['natural'] for row in cuts):.1f} % of the "
            f"images or more, at each of the {len(cuts):,} cuts of all runs."
        )
    for row in study["verdicts"]:
        yield ""
        yield f"**{row['claim']}**: {row['verdict']}."
        if not row["conditions"]:
            continue
        yield ""
        yield f"| where | measured | p of zero | {row['claimed']} is |"
        yield "| --- | --- | --- | --- |"
        for one in row["conditions"]:
            where = " ".join(filter(None, (one["case"], one["arm"], one["against"] and f"− {one['against']}")))
            p = "–" if one["p"] is None else "< 0.001" if one["p"] < 0.001 else f"{one['p']:.3f}"
            yield f"| {where} | {measured({**one, 'measured': one['value']})} | {p} | {one['answer']} |"
    if kind == "repair":
        yield from _repairs(done)
    for name, title, figure in _figures(study):
        file = figures / f"{folder.name}-{name}.svg"
        atomic_write_bytes(file, _svg(figure))
        yield ""
        yield f"![{title}]({figures.name}/{file.name})"
        yield ""
        yield f"*{title}*"
    for run in _pictured(done, folder):
        file = figures / f"{folder.name}-{run}.png"
        arrays = load_examples(folder / "runs" / run / "explanations.npz", ())
        sheet = explanation_sheet(grid(check_examples(arrays))[:SHOWN])
        if sheet in shown:
            continue
        shown.add(sheet)
        atomic_write_bytes(file, sheet)
        yield ""
        yield f"![All cuts of {run}]({figures.name}/{file.name})"
        yield ""
        yield f"*What each cut of {run} holds of an image, of its adversarial version, and the difference.*"
    if study["flags"]:
        yield ""
        yield "Reasons to doubt:"
        yield ""
        yield from (f"- {flag}" for flag in study["flags"])


def _repairs(done: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What each repair changed, and the accuracy in the worst case that is left: a row for each seed."""
    arms = sorted({run["arm"] for run in done}, key=(UNTOUCHED, *ACTIONS).index)
    yield ""
    yield "What was changed, and the accuracy in the worst case after it:"
    yield ""
    yield f"| network | {' | '.join(arms)} |"
    yield f"| --- |{' --- |' * len(arms)}"
    for case, seed in sorted({(run["case"], run["seed"]) for run in done}):
        results = {run["arm"]: run["result"] for run in done if (run["case"], run["seed"]) == (case, seed)}
        cells = []
        for arm in arms:
            result = results.get(arm)
            changed = "" if result is None or arm.partition("-")[2] in ("", "all") else result["repaired"]["layers"]
            value = "–" if result is None else f"{100 * result['accuracy']['worst_case']['value']:.1f} %"
            cells.append(f"{', '.join(changed)}: {value}" if changed else value)
        yield f"| {case}, seed {seed} | {' | '.join(cells)} |"


def _explained(folder: Path, figures: Path) -> Iterator[str]:
    """One diagnosis: whether its explanations can be read, cut by cut, and what they look like."""
    diagnosis = Diagnosis.load(folder)
    image, *layers = diagnosis.layers
    floor = image.natural - READABLE
    expected = [one for one in layers if one.class_accuracy and one.class_accuracy.value >= image.natural]
    read = [one for one in expected if one.natural >= floor]
    yield f"## Can the explanations be read? {diagnosis.classifier['name']} on {diagnosis.data['name']}"
    yield ""
    yield (
        f"The judge reads the class of {100 * image.natural:.1f} % of the {diagnosis.data['examples']:,} natural "
        "images. Where a class probe of a cut is right as often, explanations of that cut should show the class as "
        f"well. There are {len(expected)} such cuts, and at {len(read)} of them the judge reads natural explanations "
        f"right as often as images, or at most {100 * READABLE:.0f} points less often. Of all cuts these are "
        f"{sum(one.natural >= floor for one in layers)} of {len(layers)}."
    )
    yield ""
    yield "| cut | class probe right | natural explanations read right | attacked ones | vulnerability (points) |"
    yield "| --- | --- | --- | --- | --- |"
    for one in layers:
        probe = "–" if one.class_accuracy is None else f"{100 * one.class_accuracy.value:.1f} %"
        mark = "" if one.natural >= floor else ", unreliable"
        yield (
            f"| {one.name} | {probe} | {100 * one.natural:.1f} %{mark} | {100 * one.adversarial:.1f} % "
            f"| {100 * one.vulnerability.value:+.1f} "
            f"[{100 * one.vulnerability.low:+.1f}, {100 * one.vulnerability.high:+.1f}] |"
        )
    lost = [one.information_loss.value if one.information_loss and one.natural >= floor else np.nan for one in layers]
    order = Profile("alone", "alone", np.array(lost), np.array([one.vulnerability.value for one in layers]))
    if (rho := rank_correlation([order], REPLICATES, seed=0)) is not None:
        low, high = rho.interval(LEVEL)
        yield ""
        yield (
            f"Over these layers information loss and vulnerability have a rank correlation of {rho.value:+.2f} "
            f"[{low:+.2f}, {high:+.2f}]: one network and one training, under no rule."
        )
    file = figures / f"{folder.name}.png"
    arrays = load_examples(folder / "explanations.npz", diagnosis.data["classes"])
    atomic_write_bytes(file, explanation_sheet(grid(check_examples(arrays))[:SHOWN]))
    yield ""
    yield f"![All cuts of {folder.name}]({figures.name}/{file.name})"
    yield ""
    yield f"*What each cut of {folder.name} holds of an image, of its adversarial version, and the difference.*"
    if diagnosis.flags:
        yield ""
        yield "Reasons to doubt:"
        yield ""
        yield from (f"- {flag}" for flag in diagnosis.flags)


def _pictured(done: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """One run per case that has its pictures: the first arm and seed."""
    chosen: dict[str, str] = {}
    for run in sorted(done, key=lambda one: (one["seed"], one["arm"] not in ("max", "untouched"))):
        if (folder / "runs" / run["id"] / "explanations.npz").exists():
            chosen.setdefault(run["case"], run["id"])
    return sorted(chosen.values())


# --- figures -----------------------------------------------------------------------------------------------------


def _figures(study: Study) -> Iterator[tuple[str, str, Figure]]:
    kind = study["kind"]
    if kind == "information":
        yield "correlations", "Spearman's ρ of information loss and vulnerability, and of the definitions", _rho(study)
        yield "layers", "Information loss and vulnerability of each layer, a colour per seed", _scatter(study)
        return
    yield "gains", "Robust accuracy against the other arm, with corrected intervals", _gains(study)
    yield "curves", "Accuracy over ε under PGD, means over seeds and their range", _curves(study)
    if kind == "pooling" and any(run.get("result", {}).get("layers") for run in study["runs"]):
        yield "profiles", "Vulnerability of each layer, means over seeds and their range", _profiles(study)


def _panels(names: Sequence[str], height: float = 2.6) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(3, max(1, len(names)))
    rows = -(-max(1, len(names)) // columns)
    figure = Figure(figsize=(3.4 * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(len(names))]
    for panel, name in zip(axes, names, strict=True):
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _groups(study: Study) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Results by case and arm."""
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for run in study["runs"]:
        if run["status"] == "done":
            groups.setdefault(run["case"], {}).setdefault(run["arm"], []).append(run["result"])
    return groups


def _colours(study: Study) -> dict[str, str]:
    """One colour per arm, the same in every panel."""
    arms = dict.fromkeys(run["arm"] for run in study["runs"])
    return dict(zip(arms, _cycle(), strict=False))


def _curves(study: Study) -> Figure:
    groups, colours = _groups(study), _colours(study)
    figure, axes = _panels(list(groups))
    for panel, arms in zip(axes, groups.values(), strict=True):
        for arm, results in arms.items():
            at = np.array([point["at"] for point in results[0]["curve"]])
            values = 100 * np.array([[point["value"] for point in one["curve"]] for one in results])
            # An evaluation ends at half the range of the pixels, to see that nothing withstands that: far off, often.
            end = len(at) - 1 if len(at) > 2 and at[-1] > 3 * at[-2] else len(at)
            small = at[end - 1] < SMALL
            _band(panel, at[:end] * (255 if small else 1), values[:, :end], colours[arm], arm)
        panel.set_xlabel("ε × 255" if small else "ε", fontsize=8)
        panel.set_ylabel("accuracy %", fontsize=8)
        panel.set_ylim(0, 100)
        panel.legend(fontsize=7, frameon=False)
    return figure


def _profiles(study: Study) -> Figure:
    colours = _colours(study)
    diagnosed = {
        case: {arm: known for arm, results in arms.items() if (known := [one for one in results if one.get("layers")])}
        for case, arms in _groups(study).items()
    }
    groups = {case: arms for case, arms in diagnosed.items() if arms}
    figure, axes = _panels(list(groups), height=3.2)
    for panel, arms in zip(axes, groups.values(), strict=True):
        names = [row["name"] for row in next(iter(arms.values()))[0]["layers"]]
        for arm, results in arms.items():
            alike = [one for one in results if [row["name"] for row in one["layers"]] == names]
            values = 100 * np.array([profile(one)["vulnerability"] for one in alike]).reshape(-1, len(names))
            _band(panel, np.arange(len(names)), values, colours[arm], arm)
        panel.axhline(0, color="#bbbbbb", linewidth=0.6)
        panel.set_xticks(range(len(names)), names, rotation=90)
        panel.set_ylabel("V (points)", fontsize=8)
        panel.legend(fontsize=7, frameon=False)
    return figure


def _gains(study: Study) -> Figure:
    chosen = [one for one in study["effects"] if one["quantity"] == "worst_case" and one["layer"] is None]
    return _forest(
        [(f"{one['case']}\n{one['arm']} − {one['against']}", one) for one in chosen], "worst-case accuracy, difference"
    )


def _rho(study: Study) -> Figure:
    chosen = [
        one
        for one in study["effects"]
        if one["case"] == "all" or one["quantity"] == "spearman(information_loss, vulnerability)"
    ]
    return _forest(
        [(f"{' '.join(filter(None, (one['case'], one['arm'])))}\n{one['quantity']}", one) for one in chosen], "ρ"
    )


def _forest(rows: Sequence[tuple[str, Mapping[str, Any]]], label: str) -> Figure:
    """Estimates with their corrected intervals, one below the other."""
    figure, (panel,) = _panels([""], height=max(1.2, 0.42 * len(rows) + 0.6))
    figure.set_figwidth(7.5)
    for place, (_, one) in enumerate(rows):
        panel.plot([one["corrected_low"], one["corrected_high"]], [place, place], color=COLOURS[0], linewidth=1.2)
        panel.plot([one["value"]], [place], "o", color=COLOURS[0], markersize=4)
    panel.axvline(0, color="#999999", linewidth=0.8)
    panel.set_yticks(range(len(rows)), [name for name, _ in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlabel(label, fontsize=8)
    return figure


def _scatter(study: Study) -> Figure:
    groups = {
        f"{case} {arm}": [profile(one) for one in results]
        for case, arms in _groups(study).items()
        for arm, results in arms.items()
    }
    figure, axes = _panels(list(groups))
    for panel, tables in zip(axes, groups.values(), strict=True):
        for colour, table in zip(_cycle(), tables, strict=False):
            panel.plot(table["information_loss"], 100 * table["vulnerability"], "o", color=colour, markersize=3)
        panel.set_xlabel("information loss", fontsize=8)
        panel.set_ylabel("V (points)", fontsize=8)
    return figure


def _band(panel: Axes, at: Any, values: Any, colour: str, label: str) -> None:
    """The mean of the rows, and their range, where there are numbers."""
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    mean = np.where(counts > 0, np.where(known, values, 0).sum(axis=0) / counts.clip(1), np.nan)
    low = np.where(counts > 0, np.where(known, values, np.inf).min(axis=0), np.nan)
    high = np.where(counts > 0, np.where(known, values, -np.inf).max(axis=0), np.nan)
    panel.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    panel.plot(at, mean, color=colour, linewidth=1.2, marker="o", markersize=2.5, label=label)


def _cycle() -> Iterator[str]:
    while True:
        yield from COLOURS


def _svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same numbers."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "interpretgan"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


if __name__ == "__main__":
    try:
        app()
    except InterpretGANError as error:
        sys.stderr.write(f"findings: {' '.join(str(error).split())}\n")
        sys.exit(2)
