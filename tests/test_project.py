"""The parts of the project that no import would miss: house, documentation and packaging agree with the code."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interpretgan import Diagnosis
from interpretgan.attacks import fraction
from interpretgan.models import card_names, read_card
from tests.networks import Tiny

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "interpretgan"
HOUSE = (
    "cli", "studies", "planted", "speed", "pipeline", "report", "diagnosis", "information", "features",
    "baselines", "interpreter", "judge", "gan", "models", "robustness", "training", "attacks", "layers", "data",
    "classifier", "torch_state", "statistics", "store", "errors",
)  # fmt: skip
"""The rooms of the package from top to bottom, those that later versions add included."""
TOP = ("__init__", "__main__")
"""Files that stand above every room."""
LONGEST_FILE = 400
FILES_AT_THE_ROOT = 9
UNDOCUMENTED = {"interpretgan.cli.app", "interpretgan.__main__"}
"""Modules of the command line: `interpretgan --help` is their documentation."""


# --- the house ---------------------------------------------------------------------------------------------------


def rooms() -> set[str]:
    """The rooms that are there: folders and files at the root of the package, without their suffix."""
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    return found - set(TOP)


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each module of ours that the source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "interpretgan":
            names = [f"interpretgan.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "interpretgan")


def climbs(room: str, source: str) -> list[str]:
    """The imports of a file in that room that are not of the same room or of one below, each with its line."""
    allowed = HOUSE[HOUSE.index(room) :]
    return [f"{line} imports {name}" for line, name in imports(source) if ([*name.split("."), ""])[1] not in allowed]


def test_folders_import_only_downwards() -> None:
    assert rooms() <= set(HOUSE), f"not in the order of the house: {sorted(rooms() - set(HOUSE))}"
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room not in TOP:
            found += [f"{path.relative_to(ROOT)}:{where}" for where in climbs(room, path.read_text())]
    assert not found, "a room imports from itself and from rooms below it:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import interpretgan.cli.app",
        "from interpretgan.report import write_report",
        "from interpretgan import diagnose",
        "def late():\n    from interpretgan.pipeline.options import Settings",
        "if TYPE_CHECKING:\n    from interpretgan.studies import plan",
    ],
)
def test_an_import_that_climbs_is_found(line: str) -> None:
    assert climbs("diagnosis", line)
    assert not climbs(
        "diagnosis", "import torch\nfrom interpretgan.diagnosis.result import A\nimport interpretgan.errors"
    )


def test_the_house() -> None:
    at_the_root = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(at_the_root) <= FILES_AT_THE_ROOT, sorted(at_the_root)
    files = [path for suffix in ("*.py", "*.j2") for path in PACKAGE.rglob(suffix)]
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FILE} == {}


def test_the_readme_and_contributing_list_the_rooms() -> None:
    (listing,) = re.findall(r"src/interpretgan/\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    in_order_of_the_data = re.findall(r"^  (\w+)(?:/|\.py) ", listing, re.MULTILINE)
    assert sorted(in_order_of_the_data) == sorted(rooms())
    table = re.findall(
        r"^\| `(\w+)(?:\.py)?` \|.*\| (?:`([\w.]+)`)? ?\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
    from_top_to_bottom = [room for room, _ in table]
    assert from_top_to_bottom == [room for room in HOUSE if room in rooms()]
    assert [room for room, first in table if first and not (PACKAGE / room / first).exists()] == []


def test_contributing_names_modules_that_exist() -> None:
    (steps,) = re.findall(
        r"## From the command to the first training step\n(.*?)\n## ", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    named = re.findall(r"^\d+\. `([\w/]+\.py)`", steps, re.MULTILINE)
    assert 0 < len(named) <= 12
    assert [name for name in named if not (PACKAGE / name).exists()] == []


# --- documentation and packaging ---------------------------------------------------------------------------------


def modules() -> set[str]:
    """Every public module, and every package that is more than a folder."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            if len(parts) == 1 or not re.search(r"^(def|class) [a-z]", path.read_text(), re.MULTILINE | re.IGNORECASE):
                continue
        if not any(part.startswith("_") for part in parts):
            found.add(".".join(parts))
    return found


def test_every_public_module_is_in_the_documentation() -> None:
    documented = re.findall(r"automodule:: (\S+)", (ROOT / "docs" / "api.md").read_text())
    assert sorted(documented) == sorted(modules() - UNDOCUMENTED)


def test_every_dependency_is_pinned_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    wanted = {re.split(r"[<>=]", requirement)[0].lower() for requirement in [*project["dependencies"], *extras]}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert wanted <= set(pinned)
    assert len(pinned) == len(set(pinned))
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    quick = {
        "eps=0.2": "eps=0.2, steps=2",
        'out="runs/mine"': 'out="runs/mine", judge_epochs=1, generator_steps=2, images_per_layer=2, '
        "information_steps=2, examples=20, bootstrap=10",
        "InterpretGAN(classifier)": "InterpretGAN(classifier, config=ig.GANConfig(steps=2, images_per_layer=2))",
    }
    for default, short in quick.items():
        assert code.count(default) == 1
        code = code.replace(default, short)
    monkeypatch.chdir(tmp_path)
    exec(code, {"net": Tiny()})  # noqa: S102  (our own README)
    assert Diagnosis.load(tmp_path / "runs" / "mine").layers[0].name == "image"
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


# --- figures of the prose ----------------------------------------------------------------------------------------


def measured(record: Any) -> Iterator[tuple[float, float, float]]:
    """Every value of a result file that has an interval, with its ends."""
    if isinstance(record, list):
        for value in record:
            yield from measured(value)
    elif isinstance(record, dict):
        for names in (
            ("value", "low", "high"),
            ("value", "corrected_low", "corrected_high"),
            ("measured", "low", "high"),
        ):
            numbers = [record[name] for name in names if isinstance(record.get(name), int | float)]
            if len(numbers) == len(names):
                yield numbers[0], numbers[1], numbers[2]
        for value in record.values():
            yield from measured(value)


def test_every_interval_of_the_prose_is_in_a_result_file() -> None:
    known = set()
    for file in (ROOT / "results").rglob("*.json"):
        for numbers in measured(json.loads(file.read_text())):
            for scale, digits in ((1, 2), (1, 3), (100, 0), (100, 1)):
                known.add(tuple(f"{scale * number + 0.0:.{digits}f}" for number in numbers))
    wrong, count = [], 0
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if file.name == "findings.md":  # generated from the result files
            continue
        text = " ".join(file.read_text().split())
        for shown in re.finditer(r"([+-]?[\d.]*\d)(?: %| points)? \[([+-]?[\d.]+), ([+-]?[\d.]+)\]", text):
            count += 1
            if tuple(number.removeprefix("+") for number in shown.groups()) not in known:
                wrong.append(f"{file.name}: {shown[0]}")
    assert count > 50
    assert wrong == []


def test_the_table_of_the_mnist_diagnosis_is_that_of_its_file() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    for layer in Diagnosis.load(ROOT / "results" / "mnist-lenet5-max").layers[1:]:
        shares = " | ".join(f"{100 * value:.1f} %" for value in (layer.natural, layer.adversarial, layer.survival))
        signed = f"{100 * layer.vulnerability.value:+.1f}".replace("-0.0", "0.0")
        assert f"| {layer.name} | {shares} | {signed} [" in page


def test_the_pretrained_classifiers_are_in_the_documentation() -> None:
    page = (ROOT / "docs" / "robustness.md").read_text()
    for card in map(read_card, card_names()):
        natural, *attacked = (card.figure(name) for name in ("natural", "pgd", "autoattack"))
        assert card.figures is not None
        assert natural is not None
        shares = ["-" if figure is None else f"{figure['value']:.1%}" for figure in (natural, *attacked)]
        trained = "-" if card.eps is None else fraction(card.eps)
        evaluated = (fraction(card.figures["threat_model"]["eps"]), f"{natural['examples']:,}")
        row = (card.name, card.data["name"], card.objective["name"], trained, *shares, *evaluated)
        assert f"| {' | '.join(row)} | {len(card.figures['flags'])} |" in page
