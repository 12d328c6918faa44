"""The parts of the project that no import would miss: documentation and packaging agree with the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from interpretgan import Diagnosis, GANConfig
from interpretgan.training import Recipe
from tests.networks import Tiny

ROOT = Path(__file__).parents[1]
UNDOCUMENTED = {"interpretgan.cli.app", "interpretgan.__main__"}
"""Modules of the command line: `interpretgan --help` is their documentation."""


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
    documented = set(re.findall(r"automodule:: (\S+)", (ROOT / "docs" / "api.md").read_text()))
    assert documented == modules() - UNDOCUMENTED


def test_every_dependency_is_pinned_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    wanted = {re.split(r"[<>=]", requirement)[0] for requirement in [*project["dependencies"], *extras]}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert wanted <= set(pinned)
    assert len(pinned) == len(set(pinned))
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    small = GANConfig(steps=2, images_per_layer=2, width=16, blocks=1)
    monkeypatch.setattr("interpretgan.interpreter.GANConfig", lambda: small)  # the default, too long for a test
    monkeypatch.setattr("interpretgan.judge.judge_recipe", lambda *_: Recipe(epochs=1, batch_size=64, lr=1e-3))
    monkeypatch.chdir(tmp_path)
    exec(code.replace("steps=20", "steps=2"), {"net": Tiny()})  # noqa: S102  (our own README)
    assert Diagnosis.load(tmp_path / "runs" / "mine").layers[0].name == "image"
