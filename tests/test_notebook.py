"""The notebook, its cells run in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "one_digit.ipynb"


def test_the_notebook_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace('"digits", 150', '"digits", 30')
            exec(compile(source, f"cell {number}", "exec"), names)  # noqa: S102  # it is ours
    assert names["STEPS"] == 30
    said = capsys.readouterr().out
    assert f"image {names['chosen']} is a {int(names['labels'][names['chosen']])}, and attacked" in said
    assert "100% of the way" in said
    assert names["modified"].turned[names["chosen"]]
