"""The findings page, from result files alone: `python -m interpretgan.studies.findings DIR ...`.

A folder is a study's, or the run folder of one diagnosis, whose explanations are then shown and judged:

python -m interpretgan.studies.findings results/studies/* results/cifar10-vgg-small-max --out docs/findings.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import App

from interpretgan.diagnosing import READABLE
from interpretgan.diagnosis import Diagnosis
from interpretgan.errors import InterpretGANError, RunFolderError
from interpretgan.files import atomic_write_bytes, atomic_write_text, read_json
from interpretgan.report.examples import load_examples
from interpretgan.report.figures import check_examples, explanation_sheet, grid
from interpretgan.studies import plots
from interpretgan.studies.claims import Claim, Study, claims_of, setting_of
from interpretgan.studies.config import ACTIONS, UNTOUCHED
from interpretgan.studies.statistics import Profile, rank_correlation
from interpretgan.studies.study import SCHEMA, STUDY_FILE

TITLES = {
    "information": "Information loss and vulnerability",
    "pooling": "Average against max pooling",
    "repair": "Does following the diagnosis pay?",
}
REPLICATES, LEVEL = 2000, 0.95
"""Of the bootstrap where a diagnosis stands alone, and level of its interval: the defaults of a study."""
SHOWN = 2
"""Examples in the picture of all cuts."""
PICTURED = "What each cut of {} holds of an image, of its adversarial version, and the difference"

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
        "First all claims, with a column for each setting that they were tested in; then each study by itself.",
        "This page is generated:",
        "",
        f"    python -m interpretgan.studies.findings {places} --out {out.as_posix()}",
    ]
    claims = claims_of({folder.name: study for study, folder in studies})
    if (figure := plots.claims([claim for claim in claims if claim.of_the_paper])) is not None:
        atomic_write_bytes(figures / "claims.svg", plots.svg(figure))
        lines += ["", *_figure("What the paper claims, as measured in each setting", f"{figures.name}/claims.svg")]
    for kind in dict.fromkeys(claim.kind for claim in claims):
        lines += ["", *_overview([claim for claim in claims if claim.kind == kind])]
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


def _overview(claims: Sequence[Claim]) -> Iterator[str]:
    """Claims of one kind of study: a row each, and a column for each study that asked."""
    settings = list(dict.fromkeys(setting for claim in claims for setting in claim.verdicts))
    yield f"## {TITLES[claims[0].kind]}"
    yield ""
    yield f"| claim | the paper | claimed | {' | '.join(settings)} |"
    yield f"| --- | --- | --- |{' --- |' * len(settings)}"
    for claim in claims:
        cells = []
        for setting in settings:
            row = claim.verdicts.get(setting)
            cells.append("" if row is None else f"**{row['verdict']}**: {measured(row)}")
        yield f"| {claim.text} | {claim.paper} | {claim.claimed} | {' | '.join(cells)} |"


def _figure(title: str, place: str) -> Iterator[str]:
    yield f"![{title}]({place})"
    yield ""
    yield f"*{title}*"


def _section(study: Study, folder: Path, figures: Path, shown: set[bytes]) -> Iterator[str]:
    kind, provenance = str(study["kind"]), study["provenance"]
    done = [run for run in study["runs"] if run["status"] == "done"]
    yield f"## {TITLES[kind]}{'' if TITLES[kind].endswith('?') else ':'} {setting_of(study)}"
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
    for name, title, figure in plots.figures_of(study):
        file = figures / f"{folder.name}-{name}.svg"
        atomic_write_bytes(file, plots.svg(figure))
        yield ""
        yield from _figure(title, f"{figures.name}/{file.name}")
    for run in _pictured(done, folder):
        file = figures / f"{folder.name}-{run}.png"
        arrays = load_examples(folder / "runs" / run / "explanations.npz", ())
        sheet = explanation_sheet(grid(check_examples(arrays))[:SHOWN])
        if sheet in shown:
            continue
        shown.add(sheet)
        atomic_write_bytes(file, sheet)
        yield ""
        yield from _figure(PICTURED.format(run), f"{figures.name}/{file.name}")
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
    yield from _figure(PICTURED.format(folder.name), f"{figures.name}/{file.name}")
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


if __name__ == "__main__":
    try:
        app()
    except InterpretGANError as error:
        sys.stderr.write(f"findings: {' '.join(str(error).split())}\n")
        sys.exit(2)
