"""The committed tiny studies, each made once."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interpretgan.studies.config import StudyConfig
from interpretgan.studies.config_file import load_config
from interpretgan.studies.study import run_study
from tests.studies.tiny import STUDIES, inline


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """Each tiny study, made once: its folder and what study.json holds."""
    known: dict[str, tuple[Path, dict[str, Any]]] = {}

    def make(name: str) -> tuple[Path, dict[str, Any]]:
        if name not in known:
            out = tmp_path_factory.mktemp("studies") / name
            config = load_config(STUDIES / f"{name}-tiny.toml", name.partition("-")[0])
            known[name] = out, run_study(config, out, inline, stream=io.StringIO())
        return known[name]

    return make


@pytest.fixture(scope="session")
def quick() -> StudyConfig:
    """The tiny pooling study without its diagnoses: each run takes two seconds."""
    config = load_config(STUDIES / "pooling-tiny.toml")
    return replace(config, cases=tuple(replace(case, diagnosed=()) for case in config.cases))
