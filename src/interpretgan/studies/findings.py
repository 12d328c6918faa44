r"""The findings, a page of all and one of each study, from result files alone.

A folder is a study's, or the run folder of one diagnosis, whose explanations are then shown and judged. The record of
an ablation may follow:

python -m interpretgan.studies.findings results/studies/* results/cifar10-vgg-small-max \
    results/benchmarks/deep_layers.json
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App

from interpretgan.errors import InterpretGANError, RunFolderError
from interpretgan.store.files import atomic_write_bytes, atomic_write_text
from interpretgan.studies import plots
from interpretgan.studies.claims import ERRATUM, HISTORY, Claim, Study, claims_of, setting_of
from interpretgan.studies.conclusions import load_study
from interpretgan.studies.readable import ablation, explained
from interpretgan.studies.sections import TITLES, notes_of, picture, study_page, told, verdict

BESIDE = {ERRATUM: "erratum.md", HISTORY: "history.md"}
"""Files in a study's folder that the pages say beside all that they say of it."""

ROUTINE = re.compile(
    r"only [\d,]+ examples|twice the (restarts|steps) still|the iterative attack is no better|[\w, ]+ only: no black"
)
"""Reasons to doubt that nearly every attack on a budget gives."""

app = App(name="findings", help=__doc__)


@app.default
def main(*folders: Path, out: Path = Path("docs/findings.md")) -> None:
    """Write the page, and beside it a folder with a page of each study and all figures.

    Args:
        folders: Of finished studies, run folders of diagnoses, and files of `python -m benchmarks.deep_layers`.
        out: The page.
    """
    sys.stdout.write(f"{write_findings(folders, out)}\n")


def write_findings(folders: Sequence[Path], out: Path) -> Path:
    """Write the page, a page of each study, and all figures.

    Args:
        folders: Each with a `study.json`, where something was wrong with it an `erratum.md`, where it was run before a
            `history.md`, and for the pictures of all layers `runs/ID/explanations.npz`; or with a `diagnosis.json` and
            an             `explanations.npz`; or the file of an ablation, with its picture beside it.
        out: The page of all. The others go to the folder `findings` beside it, and so do the figures.

    Returns:
        The page of all.

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
    tried = [file for file in folders if file.suffix == ".json"]
    studies = [(_with_notes(folder), folder) for folder in folders if folder not in [*alone, *tried]]
    studies.sort(key=lambda one: (str(one[0]["kind"]), one[1].name))
    figures = out.parent / "findings"
    places = " ".join(folder.as_posix() for folder in [*(folder for _, folder in studies), *alone, *tried])
    lines = [
        "# Findings",
        "",
        "What the studies say of the paper's claims. Each verdict follows from a rule that was written into a study's",
        "configuration before its runs; [Studies](studies.md) says how. A claim is supported where the whole interval",
        "is on the claimed side, and opposed where all of it is on the other. Intervals are corrected for how often a",
        "study asks the same of its variants and cases, not for the number of claims or of studies. What is said of",
        "layers is Spearman's ρ over them; the rest are differences of accuracy (0.01 is one point). Each study",
        "has a page of its own, with its settings, runs that it took over from another, all it measured beside its rules,",
        "figures, and every reason to doubt.",
    ]
    claims = claims_of({folder.name: study for study, folder in studies})
    if (figure := plots.claims([claim for claim in claims if claim.of_the_paper])) is not None:
        atomic_write_bytes(figures / "claims.svg", plots.svg(figure))
        lines += ["", *picture("What the paper claims, as measured in each setting", f"{figures.name}/claims.svg")]
    for kind in dict.fromkeys(claim.kind for claim in claims):
        lines += ["", *_overview([claim for claim in claims if claim.kind == kind])]
        lines += ["", *_pages([(study, folder) for study, folder in studies if study["kind"] == kind], figures)]
    shown: set[bytes] = set()  # studies that share their networks would show the same pictures
    for study, folder in studies:
        page = figures / f"{folder.name}.md"
        atomic_write_text(page, "\n".join(study_page(study, folder, figures, shown)) + "\n")
    for folder in alone:
        lines += ["", *explained(folder, figures)]
    for file in tried:
        lines += ["", *ablation(file, figures)]
    lines += [
        "",
        "This page and those of the studies are generated:",
        "",
        f"    python -m interpretgan.studies.findings {places} --out {out.as_posix()}",
    ]
    atomic_write_text(out, "\n".join(lines) + "\n")
    return out


def _with_notes(folder: Path) -> dict[str, Any]:
    files = {key: folder / name for key, name in BESIDE.items()}
    notes = {key: file.read_text(encoding="utf-8").strip() for key, file in files.items() if file.exists()}
    return {**load_study(folder), **notes}


def _pages(studies: Sequence[tuple[Study, Path]], figures: Path) -> Iterator[str]:
    """Where each study is told in full, with what is wrong with it, and the doubts that attacks do not share."""
    yield "In full, with settings, figures, and all reasons to doubt; here those that are not of the attacks alone:"
    yield ""
    for study, folder in studies:
        doubts = [flag for flag in study["flags"] if not ROUTINE.match(flag)]
        yield f"- [{setting_of(study)}]({figures.name}/{folder.name}.md)"
        yield from (f"  - {doubt}" for doubt in [*notes_of(study), *doubts])


def _overview(claims: Sequence[Claim]) -> Iterator[str]:
    """Claims of one kind of study: each with a row for every setting that it was tested in."""
    yield f"## {TITLES[claims[0].kind]}"
    yield ""
    yield "| claim, and where it was tested | measured | verdict |"
    yield "| --- | --- | --- |"
    for claim in claims:
        yield f"| **{claim.text}** (the paper: {claim.paper}) | claimed: {claim.claimed} | |"
        for setting, row in claim.verdicts.items():
            yield f"| {setting} | {told(row, tested=claim.threshold == 0)} | {verdict(row)} |"


if __name__ == "__main__":
    try:
        app()
    except InterpretGANError as error:
        sys.stderr.write(f"findings: {' '.join(str(error).split())}\n")
        sys.exit(2)
