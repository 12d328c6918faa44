r"""The findings: a page of all studies and one of each, from result files alone; their words are in `templates`.

A folder is that of a study, or the run folder of one diagnosis, whose explanations are then shown and judged. The
record of an ablation may follow:

python -m interpretgan.studies.pages results/studies/* results/cifar10-vgg-small-max results/benchmarks/deep_layers.json
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cyclopts import App

from interpretgan.attacks import fraction
from interpretgan.attacks.threat_model import SMALL
from interpretgan.diagnosis.reliability import READABLE
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import InterpretGANError, RunFolderError
from interpretgan.models import card_names, read_card
from interpretgan.report.chart_style import svg
from interpretgan.report.explanation_grid import explanation_sheet, load_explanation
from interpretgan.statistics import Profile, rank_correlation
from interpretgan.store.files import atomic_write_bytes, atomic_write_text, read_json
from interpretgan.studies import charts
from interpretgan.studies.claims import Record, by_condition, claims_of, setting_of
from interpretgan.studies.config import ACTIONS, DEFINITIONS, DEPTH, LOSSES, TEST_ACCURACY, UNTOUCHED, correlation_name
from interpretgan.studies.effects import AT_EPS, Run, finished, numbers, tables_by_variant
from interpretgan.studies.rules import POOLED, condition_name
from interpretgan.studies.verdicts import load_study

if TYPE_CHECKING:
    import pandas as pd

Cells = dict[str, dict[str, str]]
"""A table: its cells by row and column."""
TITLES = {
    "information": "Information loss and vulnerability",
    "pooling": "Average against max pooling",
    "repair": "Does following the diagnosis pay?",
}
COLUMNS = {
    correlation_name(LOSSES[0], DEFINITIONS[0]): "image loss and V",
    correlation_name(DEPTH, DEFINITIONS[0]): "depth and V",
    correlation_name(LOSSES[0], DEFINITIONS[0], DEPTH): "image loss and V, given depth",
    correlation_name(LOSSES[1], DEFINITIONS[0], DEPTH): "class loss and V, given depth",
    TEST_ACCURACY: "natural, on all test images",
}
"""What effects are called in tables that are not called by their quantity."""
SHORT = ("V", "V in bits", "V of probes", "relative error", "image loss", "class loss")
RANKED = dict(zip((*DEFINITIONS, *LOSSES), SHORT, strict=True))
"""What layers are ranked by, and its name in tables."""
NOTES = ("erratum", "history")
"""Files NAME.md in a study's folder: what was found to be wrong with it, and what came before it."""
HOLDS = "What each layer of {} holds of an image, of its adversarial version, and the difference"
"""What is said of a picture of all layers, whose examples are so many:"""
SHOWN = 2
REPLICATES, LEVEL = 2000, 0.95
"""Of the bootstrap where a diagnosis stands alone, and level of its interval: the defaults of a study."""

app = App(name="pages", help=__doc__)


@app.default
def write_pages(*folders: Path, out: Path = Path("docs/findings.md")) -> Path:
    """Write the page of all, a page of each study, and all figures.

    Args:
        folders: Of finished studies, with a `study.json`, where something was wrong an `erratum.md`, where a study was
            run before a `history.md`, and for pictures of all layers `runs/ID/explanations.npz`; run folders, with a
            `diagnosis.json` and an `explanations.npz`; and the file of an ablation, with its picture beside it.
        out: The page of all, which is returned. The others and the figures go to the folder `findings` beside it.

    Raises:
        RunFolderError: There is no study, or one that cannot be read.
    """
    names = [folder.name for folder in folders]
    if not folders:
        raise RunFolderError(expected="folders of finished studies", got="none", do="name them, e.g. results/studies/*")
    if len(set(names)) < len(names):
        got = ", ".join(map(str, folders))
        raise RunFolderError(expected="folders of different names", got=got, do="rename those of the same name")
    alone = [folder for folder in folders if (folder / "diagnosis.json").exists()]
    records = [file for file in folders if file.suffix == ".json"]
    loaded = {folder: load_study(folder) for folder in folders if folder not in [*alone, *records]}
    for folder, study in loaded.items():
        notes = {name: folder / f"{name}.md" for name in NOTES}
        study |= {name: file.read_text(encoding="utf-8-sig").strip() for name, file in notes.items() if file.exists()}
    loaded = dict(sorted(loaded.items(), key=lambda item: (str(item[1]["kind"]), item[0].name)))
    studies, place = {folder.name: study for folder, study in loaded.items()}, out.parent / "findings"
    claims, shown = claims_of(studies), set[bytes]()
    for folder, study in loaded.items():
        _write(place / f"{folder.name}.md", "study.md.j2", **_study_page(study, folder, place, shown))
    figure = charts.claims([claim for claim in claims if not claim.paper.startswith("not stated")])
    title = "What the paper claims, as measured in each setting"
    _write(
        out, "findings.md.j2", studies=studies, claims=claims, out=out.as_posix(), folder=place.name,
        claims_figure=figure and _picture(place / "claims.svg", svg(figure), title), points=f"{100 * READABLE:.0f}",
        diagnoses=[_explained(folder, place) for folder in alone],
        ablations=[_ablation(file, place) for file in records],
        places=" ".join(path.as_posix() for path in [*loaded, *alone, *records]),
    )  # fmt: skip
    return out


def _study_page(study: Record, folder: Path, place: Path, shown: set[bytes]) -> dict[str, Any]:
    """What the page of a study says, and its pictures, written to `place`, but for those in `shown` by other studies.

    Studies that share their networks would show the same pictures.
    """
    import pandas as pd

    done, cases = finished(study["runs"]), study["provenance"]["config"]["cases"]
    pictures = [
        _picture(place / f"{folder.name}-{name}.svg", svg(figure), title)
        for name, title, figure in charts.figures_of(study)
    ]
    for case in cases:
        files = [folder / "runs" / run["id"] / "explanations.npz" for run in done if run["case"] == case["name"]]
        for file in [file for file in files if file.exists()][:1]:
            sheet, name = _sheet(file, _classes(case["settings"]["data"]["data"])), file.parent.name
            if sheet not in shown:
                shown.add(sheet)
                pictures.append(_picture(place / f"{folder.name}-{name}.png", sheet, HOLDS.format(name)))
    read = [
        (row["natural"], run["result"]["diagnosis"]["accuracy"]["judge_natural"])
        for run in done for row in run["result"].get("layers", ())
    ]  # fmt: skip
    origins = {origin.rpartition("/")[0] for origin in study["provenance"].get("reused", {}).values()}
    return {
        "study": study, "done": done, "origins": origins, "pictures": pictures, **_effects(study, done),
        "repeats": _repeats(done) if study["kind"] == "information" else {}, "changed": _changed(done),
        "read": pd.DataFrame(read, columns=["natural", "image"]),
    }  # fmt: skip


def _effects(study: Record, done: Sequence[Run]) -> dict[str, Any]:
    """The effects as tables: of correlations, under each attack, on the curve over eps, and of layers.

    `compared` has for each table with how many other effects one of it is corrected.
    """
    table, alone = numbers(done), len({(run["case"], run["variant"]) for run in done}) == 1
    tables: dict[str, Cells] = {"beyond": {}, "attacks": {}, "curve": {}, "layers": {}}
    compared: dict[str, set[int]] = {}
    settings = {case["name"]: case["settings"] for case in study["provenance"]["config"]["cases"]}
    for effect in study["effects"]:
        row, name, case = condition_name(effect), effect["quantity"], effect["case"]
        column, kind = COLUMNS.get(name, name), "attacks"
        if study["kind"] == "information":
            if name not in COLUMNS or (alone and case == POOLED):  # all together would be the same
                continue
            kind = "beyond"
        elif effect["layer"] is not None:
            kind, row, column = "layers", effect["layer"], f"{RANKED[name]}, {row}"
        elif name.startswith(AT_EPS):
            at, small = float(name.removeprefix(AT_EPS)), settings[case]["evaluation"]["eps"] < SMALL
            kind, column = "curve", f"ε = {255 * at:.3g}/255" if at and small else f"ε = {at:g}"
        cell = _interval(effect, 2) if kind == "beyond" else _interval(effect, 1, 100)
        cell = f"**{cell}**" if effect["corrected_low"] > 0 or effect["corrected_high"] < 0 else cell
        tables[kind].setdefault(row, {})[column] = cell + (f", {_ahead(table, effect)}" if kind == "attacks" else "")
        compared.setdefault(kind, set()).add(effect["comparisons"])
    return {**tables, "compared": compared}


def _ahead(table: pd.DataFrame, effect: Mapping[str, Any]) -> str:
    """In how many seeds the variant is ahead of the other one."""
    rows = table[(table["case"] == effect["case"]) & (table["quantity"] == effect["quantity"])]
    values = rows.pivot(index="seed", columns="variant", values="value")
    pairs = values[[effect["variant"], effect["against"]]].dropna()
    return f"{(pairs[effect['variant']] > pairs[effect['against']]).sum()} of {len(pairs)}"


def _repeats(done: Sequence[Run]) -> Cells:
    """How alike networks of other seeds rank their layers: no two rankings can agree better than each repeats."""
    import pandas as pd

    cells: Cells = {}
    for where, tables in tables_by_variant(done).items():
        for quantity, name in RANKED.items():  # a pair of networks is a cell above the diagonal
            ranks = pd.concat([table[quantity] for table in tables], axis=1).corr("spearman", min_periods=3)
            rho = pd.Series(ranks.to_numpy()[np.triu_indices(len(tables), 1)]).dropna()
            cells.setdefault(where, {})[name] = f"{rho.mean():+.2f} ({rho.min():+.2f})" if len(rho) else "–"
    return cells


def _changed(done: Sequence[Run]) -> Cells:
    """Of a repair study: what each repair changed, and the accuracy that is left, a row for each network."""
    order, cells = (UNTOUCHED, *ACTIONS), Cells()
    repairs = [run for run in done if run["variant"] in order]
    for run in sorted(repairs, key=lambda run: (run["case"], run["seed"], order.index(run["variant"]))):
        layers = [] if run["variant"].partition("-")[2] in ("", "all") else run["result"]["repaired"]["layers"]
        cell = f"{', '.join(layers)}: " * bool(layers) + _percent(run["result"]["accuracy"]["worst_case"]["value"])
        cells.setdefault(f"{run['case']}, seed {run['seed']}", {})[run["variant"]] = cell
    return cells


def _explained(folder: Path, place: Path) -> dict[str, Any]:
    """One diagnosis: whether its explanations can be read, layer by layer, and what they look like."""
    diagnosis = Diagnosis.load(folder)
    image, *layers = diagnosis.layers
    read = [layer for layer in layers if layer.natural >= image.natural - READABLE]
    lost = [layer.information_loss.value if layer.information_loss and layer in read else np.nan for layer in layers]
    moved, depth = np.array([layer.vulnerability.value for layer in layers]), np.arange(float(len(layers)))
    profile = Profile("alone", "alone", np.array(lost), moved, depth)
    rho = rank_correlation([profile], REPLICATES, seed=0)
    sheet = _sheet(folder / "explanations.npz", diagnosis.data["classes"])
    expected = [layer for layer in layers if layer.class_accuracy and layer.class_accuracy.value >= image.natural]
    return {"diagnosis": diagnosis, "image": image, "layers": layers, "read": read, "expected": expected,
            "rho": rho and rho.interval(LEVEL),
            "picture": _picture(place / f"{folder.name}.png", sheet, HOLDS.format(folder.name))}  # fmt: skip


def _ablation(file: Path, place: Path) -> dict[str, Any]:
    """What makes the explanations of deep layers readable: the record of `python -m benchmarks.deep_layers`."""
    record, expected = read_json(file), f"the record of an ablation in {file}"
    if not isinstance(record, dict) or not {"variants", "image", "recognition_network"} <= record.keys():
        raise RunFolderError(expected=expected, got="another file", do="run python -m benchmarks.deep_layers")
    title, drawn = "Natural explanations of each layer, by how the generator was trained", file.with_suffix(".png")
    return {"record": record, "picture": _picture(place / drawn.name, drawn.read_bytes(), title)}


# --- pictures ----------------------------------------------------------------------------------------------------


def _picture(path: Path, data: bytes, title: str) -> tuple[str, Path]:
    atomic_write_bytes(path, data)
    return title, path


def _sheet(file: Path, classes: Iterable[str]) -> bytes:
    """The picture of all layers of the explanations in a file."""
    return explanation_sheet(load_explanation(file), list(classes), SHOWN)


def _classes(data: str) -> tuple[str, ...]:
    """The names of the classes where a classifier of the package was trained on these data; else numbers do."""
    return next((card.classes for card in map(read_card, card_names()) if card.data["name"] == data), ())


# --- what the templates write ------------------------------------------------------------------------------------


def _interval(record: Any, digits: int = 3, scale: float = 1.0) -> str:
    """The value of an effect, a verdict, a condition or an interval, with its (corrected) ends."""
    row = record if isinstance(record, Mapping) else vars(record)
    if row["value"] is None:
        return "–"
    low, high = (scale * row.get(f"corrected_{end}", row[end]) for end in ("low", "high"))
    return f"{scale * row['value']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(cells: Cells, corner: str) -> str:
    """A table; a dash where there is no cell."""
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows = [[name, *(row.get(column, "–") for column in columns)] for name, row in cells.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [[corner, *columns], ["---"] * (1 + len(columns)), *rows])


def _write(path: Path, template: str, **context: Any) -> None:
    """Render a template into a file; several empty lines become one."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "interval": _interval, "percent": _percent, "table": _table, "fraction": fraction,
        "setting": setting_of, "condition": condition_name, "by_condition": by_condition,
        "p": lambda value: "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}",
        "count": lambda number, name: f"{number:,} {name}{'s' * (number != 1)}",
        "notes": lambda study: [f"**{name.capitalize()}.** {study[name]}" for name in NOTES if name in study],
        "picture": lambda shown: f"![{shown[0]}]({shown[1].relative_to(path.parent).as_posix()})\n\n*{shown[0]}*",
        "share": lambda share: f"{_percent(share['value'])} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]",
    }  # fmt: skip
    text = environment.get_template(template).render(titles=TITLES, **context)
    atomic_write_text(path, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


if __name__ == "__main__":
    try:
        app()
    except InterpretGANError as error:
        sys.stderr.write(f"pages: {' '.join(str(error).split())}\n")
        sys.exit(2)
