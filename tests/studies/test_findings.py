from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interpretgan.errors import RunFolderError
from interpretgan.studies.findings import measured, write_findings

pytestmark = pytest.mark.xdist_group("studies")  # one process makes each tiny study, and all these tests read it

KINDS = ("information", "pooling", "repair")


def test_the_page_says_every_verdict_and_shows_every_figure(
    made: Callable[[str], tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    studies = {kind: made(kind) for kind in KINDS}
    page = write_findings([folder for folder, _ in studies.values()], tmp_path / "findings.md")
    text = page.read_text()
    for _, study in studies.values():
        for row in study["verdicts"]:
            assert f"| {row['claim']} | {row['paper']} | {measured(row)} | **{row['verdict']}** |" in text
        for flag in study["flags"]:
            assert f"- {flag}" in text
    shown = re.findall(r"!\[[^]]*\]\((findings/[^)]+)\)", text)
    assert {name for name in shown if name.endswith(".svg")} == {
        f"findings/{name}.svg"
        for name in ("information-correlations", "information-layers", "pooling-gains", "pooling-curves",
                     "pooling-profiles", "repair-gains", "repair-curves")
    }  # fmt: skip
    assert len([name for name in shown if name.endswith(".png")]) == 3  # one case each
    before = {name: (tmp_path / name).read_bytes() for name in shown}
    assert write_findings([folder for folder, _ in studies.values()], page).read_text() == text
    assert {name: (tmp_path / name).read_bytes() for name in shown} == before


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="folders of finished studies, got none"):
        write_findings([], tmp_path / "findings.md")
    (tmp_path / "study.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(RunFolderError, match="a study of schema 1"):
        write_findings([tmp_path], tmp_path / "findings.md")
