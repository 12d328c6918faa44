"""Studies at toy size, each made once."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interpretgan.studies.config import StudyConfig
from interpretgan.studies.config_file import load_config
from interpretgan.studies.study import run_study
from tests.studies.tiny import STUDIES, inline

Made = tuple[StudyConfig, Path, dict[str, Any]]
"""A study, its folder, and what study.json holds."""


def toy(kind: str) -> StudyConfig:
    """The committed tiny study of the kind, of the networks of the smallest of them."""
    (case,) = load_config(STUDIES / "pooling-tiny.toml").cases
    information = replace(case.settings.information, information_steps=10)
    config = load_config(STUDIES / f"{kind}-tiny.toml", kind)
    settings = replace(case.settings, information=information)
    return replace(
        config, cases=(replace(case, settings=settings, variants=config.variants, diagnosed=config.variants),)
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A study of each kind. The others take the networks of the study of poolings over."""
    known: dict[str, Made] = {}

    def make(kind: str) -> Made:
        if kind not in known:
            out, config = tmp_path_factory.mktemp("studies") / kind, toy(kind)
            reuse = [] if kind == "pooling" else [make("pooling")[1]]
            if kind == "repair":
                reuse = [shutil.copytree(reuse[0], out.with_name("readable"))]
                for file in reuse[0].glob("runs/*-max-*/result.json"):
                    _make_readable(file)
            known[kind] = config, out, run_study(config, out, inline, reuse=reuse, stream=io.StringIO())
        return known[kind]

    return make


def _make_readable(file: Path) -> None:
    """Write a result as if no layer of the network were unreliable, and the second pooling the more vulnerable."""
    record = json.loads(file.read_text())
    for number, row in enumerate(record["result"]["layers"]):
        row |= {"unreliable": False, "vulnerability": {"value": 0.1 * number, "low": 0.0, "high": 0.5}}
    for number, unit in enumerate(record["result"]["units"]):
        unit["vulnerability"] = 0.1 * number
    file.write_text(json.dumps(record))


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The study of poolings without its diagnoses: each run takes two seconds."""
    config = load_config(STUDIES / "pooling-tiny.toml")
    config = replace(config, cases=tuple(replace(case, diagnosed=()) for case in config.cases))
    out = tmp_path_factory.mktemp("studies") / "quick"
    return config, out, run_study(config, out, inline, stream=io.StringIO())
