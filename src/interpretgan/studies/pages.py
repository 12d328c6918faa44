r"""The findings: a page of all studies and one of each, from result files alone; their words are in `templates`.

A folder is that of a study, or the run folder of one diagnosis, whose explanations are then shown and judged. The
record of an ablation may follow:

python -m interpretgan.studies.pages results/studies/* results/cifar10-vgg-small-max results/benchmarks/deep_layers.json
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
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
from interpretgan.report.charts import svg
from interpretgan.report.pictures import explanation_sheet, load_explanation
from interpretgan.statistics import Profile, rank_correlation
from interpretgan.store.files import atomic_write_bytes, atomic_write_text, read_json
from interpretgan.studies import figures
from interpretgan.studies.claims import Record, by_condition, claims_of, setting_of
from interpretgan.studies.config import ACTIONS, DEFINITIONS, DEPTH, LOSSES, TEST_ACCURACY, UNTOUCHED, correlation_name
from interpretgan.studies.effects import AT_EPS, Run, finished, layer_table, numbers
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
SHOWN = 2
"""Examples in the picture of all layers."""
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
        out: The page of all. The others and the figures go to the folder `findings` beside it.

    Returns:
        The page of all.

    Raises:
        RunFolderError: There is no study, or one that cannot be read.
    """
    if not folders:
        raise RunFolderError(expected="folders of finished studies", got="none", do="name them, e.g. results/studies/*")
    for one, other in combinations(folders, 2):
        if one.name == other.name:
            raise RunFolderError(
                expected="folders of different names", got=f"{one} and {other}", do="rename one of them"
            )
    alone = [folder for folder in folders if (folder / "diagnosis.json").exists()]
    records = [file for file in folders if file.suffix == ".json"]
    loaded = {folder: load_study(folder) for folder in folders if folder not in [*alone, *records]}
    for folder, study in loaded.items():
        notes = {name: folder / f"{name}.md" for name in NOTES}
        study |= {name: file.read_text(encoding="utf-8").strip() for name, file in notes.items() if file.exists()}
    loaded = dict(sorted(loaded.items(), key=lambda one: (str(one[1]["kind"]), one[0].name)))
    studies, place = {folder.name: study for folder, study in loaded.items()}, out.parent / "findings"
    claims, shown = claims_of(studies), set[bytes]()
    for folder, study in loaded.items():
        _write(place / f"{folder.name}.md", "study.md.j2", **_study_page(study, folder, place, shown))
    figure = figures.claims([claim for claim in claims if not claim.paper.startswith("not stated")])
    title = "What the paper claims, as measured in each setting"
    _write(
        out, "findings.md.j2", studies=studies, claims=claims, titles=TITLES, kinds={one.kind for one in claims},
        claims_figure=figure and _picture(place / "claims.svg", svg(figure), title), points=f"{100 * READABLE:.0f}",
        diagnoses=[_explained(folder, place) for folder in alone],
        ablations=[_ablation(file, place) for file in records],
        places=" ".join(path.as_posix() for path in [*loaded, *alone, *records]), out=out.as_posix(), folder=place.name,
    )  # fmt: skip
    return out


def _study_page(study: Record, folder: Path, place: Path, shown: set[bytes]) -> dict[str, Any]:
    """What the page of a study says, and its pictures, which are written to `place`.

    Studies that share their networks would show the same pictures: those in `shown` are left out.
    """
    import pandas as pd

    provenance, done = study["provenance"], finished(study["runs"])
    config = provenance["config"]
    pictures = [
        _picture(place / f"{folder.name}-{name}.svg", svg(figure), title)
        for name, title, figure in figures.figures_of(study)
    ]
    for case in config["cases"]:
        files = [folder / "runs" / run["id"] / "explanations.npz" for run in done if run["case"] == case["name"]]
        for file in [file for file in files if file.exists()][:1]:
            sheet, name = _sheet(file, _classes(case["settings"]["data"]["data"])), file.parent.name
            if sheet not in shown:
                shown.add(sheet)
                pictures.append(_picture(place / f"{folder.name}-{name}.png", sheet, _holds(name)))
    read = [
        (row["natural"], run["result"]["diagnosis"]["accuracy"]["judge_natural"])
        for run in done for row in run["result"].get("layers", ())
    ]  # fmt: skip
    origins = {origin.rpartition("/")[0] for origin in provenance.get("reused", {}).values()}
    return {
        "study": study, "title": TITLES[study["kind"]], "config": config, "provenance": provenance, "done": done,
        "origins": ", ".join(sorted(origins)), "pictures": pictures,
        "read": pd.DataFrame(read, columns=["natural", "image"]),
        "verdicts": list(zip(config["rules"], study["verdicts"], strict=True)),
        "repeats": _repeats(done) if study["kind"] == "information" else {}, "changed": _changed(done),
        "actions": {run["variant"].partition("-")[0] for run in done}, **_effects(study, done),
    }  # fmt: skip


def _effects(study: Record, done: Sequence[Run]) -> dict[str, Any]:
    """The effects as tables: of correlations, under each attack, on the curve over eps, and of layers."""
    table, alone = numbers(done), len({(run["case"], run["variant"]) for run in done}) == 1
    tables: dict[str, Cells] = {"beyond": {}, "attacks": {}, "curve": {}, "layers": {}}
    compared: dict[str, set[int]] = {}
    settings = {case["name"]: case["settings"] for case in study["provenance"]["config"]["cases"]}
    small = {name for name, one in settings.items() if one["evaluation"]["eps"] < SMALL}
    for one in study["effects"]:
        row, name = condition_name(one), one["quantity"]
        column, kind = COLUMNS.get(name, name), "attacks"
        if study["kind"] == "information":
            if name not in COLUMNS or (alone and one["case"] == POOLED):  # all together would be the same
                continue
            kind = "beyond"
        elif one["layer"] is not None:
            kind, row, column = "layers", one["layer"], f"{RANKED[name]}, {row}"
        elif name.startswith(AT_EPS):
            at = float(name.removeprefix(AT_EPS))
            kind, column = "curve", f"ε = {255 * at:.3g}/255" if at and one["case"] in small else f"ε = {at:g}"
        cell = _interval(one, 2) if kind == "beyond" else _interval(one, 1, 100)
        cell = f"**{cell}**" if one["corrected_low"] > 0 or one["corrected_high"] < 0 else cell
        tables[kind].setdefault(row, {})[column] = cell + (f", {_ahead(table, one)}" if kind == "attacks" else "")
        compared.setdefault(kind, set()).add(one["comparisons"])
    return {**tables, "compared": compared}


def _ahead(table: pd.DataFrame, one: Mapping[str, Any]) -> str:
    """In how many seeds the variant is ahead of the other one."""
    rows = table[(table["case"] == one["case"]) & (table["quantity"] == one["quantity"])]
    pairs = rows.pivot(index="seed", columns="variant", values="value")[[one["variant"], one["against"]]].dropna()
    return f"{(pairs[one['variant']] > pairs[one['against']]).sum()} of {len(pairs)}"


def _repeats(done: Sequence[Run]) -> Cells:
    """How alike networks of other seeds rank their layers: no two rankings can agree better than each repeats."""
    import pandas as pd

    groups: dict[str, list[pd.DataFrame]] = {}
    for run in done:
        groups.setdefault(f"{run['case']} {run['variant']}", []).append(layer_table(run["result"]))
    cells: Cells = {}
    for where, tables in groups.items():
        for quantity, name in RANKED.items():
            ranks = pd.concat([table[quantity] for table in tables], axis=1).corr("spearman", min_periods=3)
            rho = pd.Series(ranks.to_numpy()[np.triu_indices(len(tables), 1)]).dropna()
            cells.setdefault(where, {})[name] = f"{rho.mean():+.2f} ({rho.min():+.2f})" if len(rho) else "–"
    return cells


def _changed(done: Sequence[Run]) -> Cells:
    """Of a repair study: what each repair changed, and the accuracy that is left, a row for each network."""
    order, cells = (UNTOUCHED, *ACTIONS), Cells()
    repairs = [run for run in done if run["variant"] in order]
    for run in sorted(repairs, key=lambda one: (one["case"], one["seed"], order.index(one["variant"]))):
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
    profile = Profile("alone", "alone", np.array(lost), np.array([layer.vulnerability.value for layer in layers]))
    rho = rank_correlation([profile], REPLICATES, seed=0)
    sheet = _sheet(folder / "explanations.npz", diagnosis.data["classes"])
    picture = _picture(place / f"{folder.name}.png", sheet, _holds(folder.name))
    expected = [layer for layer in layers if layer.class_accuracy and layer.class_accuracy.value >= image.natural]
    return {"diagnosis": diagnosis, "image": image, "layers": layers, "read": read, "expected": expected,
            "rho": rho and rho.interval(LEVEL), "picture": picture}  # fmt: skip


def _ablation(file: Path, place: Path) -> dict[str, Any]:
    """What makes the explanations of deep layers readable: the record of `python -m benchmarks.deep_layers`.

    Raises:
        RunFolderError: It is another file.
    """
    record, expected = read_json(file), f"the record of an ablation in {file}"
    if not isinstance(record, dict) or not {"variants", "image", "recognition_network"} <= record.keys():
        raise RunFolderError(expected=expected, got="another file", do="run python -m benchmarks.deep_layers")
    data, title = (
        file.with_suffix(".png").read_bytes(),
        "Natural explanations of each layer, by how the generator was trained",
    )
    return {"record": record, "picture": _picture(place / f"{file.stem}.png", data, title)}


# --- pictures ----------------------------------------------------------------------------------------------------


def _picture(path: Path, data: bytes, title: str) -> tuple[str, Path]:
    atomic_write_bytes(path, data)
    return title, path


def _sheet(file: Path, classes: Iterable[str]) -> bytes:
    """The picture of all layers of the explanations in a file."""
    return explanation_sheet(load_explanation(file), list(classes), SHOWN)


def _holds(name: str) -> str:
    return f"What each layer of {name} holds of an image, of its adversarial version, and the difference"


def _classes(data: str) -> tuple[str, ...]:
    """The names of the classes where a classifier of the package was trained on these data; else numbers do."""
    cards = (read_card(name) for name in card_names())
    return next((card.classes for card in cards if card.data["name"] == data), ())


# --- what the templates write ------------------------------------------------------------------------------------


def _interval(one: Any, digits: int = 3, scale: float = 1.0) -> str:
    """The value of an effect, a verdict, a condition or an interval, with its (corrected) ends."""
    row = one if isinstance(one, Mapping) else vars(one)
    value = row["measured"] if "measured" in row else row["value"]
    if value is None:
        return "–"
    low, high = (scale * row.get(f"corrected_{end}", row[end]) for end in ("low", "high"))
    return f"{scale * value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(cells: Cells, corner: str) -> str:
    """A table; a dash where there is no cell."""
    import pandas as pd

    table = pd.DataFrame.from_dict(cells, orient="index").fillna("–")
    lines = [[corner, *table.columns], ["---"] * (1 + len(table.columns)), *table.reset_index().to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _write(path: Path, template: str, **context: Any) -> None:
    """Render a template into a file; several empty lines become one."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "interval": _interval, "percent": _percent, "p": _p, "table": _table, "fraction": fraction,
        "setting": setting_of, "condition": condition_name, "by_condition": by_condition,
        "count": lambda number, name: f"{number:,} {name}{'s' * (number != 1)}",
        "notes": lambda study: [f"**{name.capitalize()}.** {study[name]}" for name in NOTES if name in study],
        "picture": lambda one: f"![{one[0]}]({one[1].relative_to(path.parent).as_posix()})\n\n*{one[0]}*",
        "share": lambda one: f"{_percent(one['value'])} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]",
    }  # fmt: skip
    text = environment.get_template(template).render(**context)
    atomic_write_text(path, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


if __name__ == "__main__":
    try:
        app()
    except InterpretGANError as error:
        sys.stderr.write(f"pages: {' '.join(str(error).split())}\n")
        sys.exit(2)
