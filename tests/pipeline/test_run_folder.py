from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from interpretgan.errors import RunFolderError
from interpretgan.pipeline.run_folder import CONFIG_FILE, LOCK_FILE, RunFolder
from interpretgan.store.files import read_json

CONFIG: dict[str, Any] = {
    "model": "lenet",
    "threat_model": {"norm": "linf", "eps": 0.2},
    "layers": ("a", "b"),
    "seed": 0,
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_folder_holds_the_config_before_step_zero(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "new" / "run").open(CONFIG) as run:
        assert not run.resumed
        assert read_json(run / CONFIG_FILE) == {**CONFIG, "layers": ["a", "b"]}
        assert list(read_json(run / CONFIG_FILE)) == list(CONFIG)


def test_the_same_config_resumes_and_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(CONFIG).close()
    (tmp_path / "checkpoints").mkdir()
    leftover = tmp_path / "checkpoints" / ".model.safetensors.0badcafe.tmp"
    leftover.write_bytes(b"half")
    (tmp_path / "diagnosis.json").write_text("{}")
    with RunFolder(tmp_path).open(dict(reversed(CONFIG.items()))) as run:
        assert run.resumed
    assert not leftover.exists()
    assert (tmp_path / "diagnosis.json").exists()


def test_another_config_is_refused_by_the_keys_that_differ(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(CONFIG).close()
    other = {**CONFIG, "threat_model": {"norm": "linf", "eps": 0.3, "extra": [1], "size": None}}
    with pytest.raises(RunFolderError) as caught:
        RunFolder(tmp_path).open(other)
    message = str(caught.value)
    assert "threat_model.eps (0.2 there, 0.3 here)" in message
    assert "threat_model.extra (absent there, [1] here)" in message
    assert "threat_model.size (absent there, not said here)" in message
    assert "norm" not in message
    assert "model (" not in message
    assert read_json(tmp_path / CONFIG_FILE)["threat_model"]["eps"] == 0.2
    RunFolder(tmp_path).open(CONFIG).close()  # the refusal released it


def test_a_command_that_needs_more_sections_carries_a_folder_on(tmp_path: Path) -> None:
    """Training a classifier first and diagnosing it later is one run, as long as they agree on what they share."""
    RunFolder(tmp_path).open({"model": "lenet", "seed": 0}).close()
    with RunFolder(tmp_path).open(CONFIG) as run:
        assert run.resumed
        assert read_json(run / CONFIG_FILE) == {**CONFIG, "layers": ["a", "b"]}
    RunFolder(tmp_path).open({"model": "lenet"}).close()
    assert read_json(tmp_path / CONFIG_FILE)["seed"] == 0
    with pytest.raises(RunFolderError, match=r"model \(\"lenet\" there, \"vgg\" here\)"):
        RunFolder(tmp_path).open({"model": "vgg", "more": 1})


def test_what_changes_a_result_by_rounding_alone_may_change(tmp_path: Path) -> None:
    RunFolder(tmp_path).open({**CONFIG, "devices": 1}).close()
    with RunFolder(tmp_path).open({**CONFIG, "devices": 2}) as run:
        assert run.resumed
    assert read_json(tmp_path / CONFIG_FILE)["devices"] == 2
    RunFolder(tmp_path).open({"devices": 4}).close()
    assert read_json(tmp_path / CONFIG_FILE).keys() == {*CONFIG, "devices"}


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunFolderError, match=r"other files in it \(thesis\.tex, 1 in all\)"):
        RunFolder(tmp_path).open(CONFIG)
    assert names(tmp_path) == {"thesis.tex"}


def test_a_folder_whose_run_died_before_the_config_is_new(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).touch()
    (tmp_path / f".{CONFIG_FILE}.0badcafe.tmp").write_text("{")
    with RunFolder(tmp_path).open(CONFIG) as run:
        assert not run.resumed


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(RunFolderError, match="file exists; choose a folder"):
        RunFolder(tmp_path / "run").open(CONFIG)


def test_a_damaged_config_is_an_error_and_releases_the_folder(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('{"model": "le')
    for _ in range(2):
        with pytest.raises(RunFolderError, match=r"truncated or damaged.*; restore it, or choose a new folder"):
            RunFolder(tmp_path).open(CONFIG)


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom interpretgan.pipeline.run_folder import RunFolder\n"
        "run = RunFolder(sys.argv[1]).open({'seed': 0})\nprint('open', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(RunFolderError, match=f"in use by process {other.pid}; wait until it ends"):
            RunFolder(tmp_path).open({"seed": 0})
        other.kill()
    with RunFolder(tmp_path).open({"seed": 0}) as run:
        assert run.resumed


def test_one_process_cannot_open_a_folder_twice(tmp_path: Path) -> None:
    with RunFolder(tmp_path).open(CONFIG) as run:
        with pytest.raises(RunFolderError, match="in use by process"):
            run.open(CONFIG)
        with pytest.raises(RunFolderError, match="in use by process"):
            RunFolder(tmp_path).open(CONFIG)


def test_a_network_that_answers_otherwise_is_another_one_and_rounding_is_not(tmp_path: Path) -> None:
    def config(*answers: float) -> dict[str, Any]:
        return {"model": {"answers": list(answers)}}

    RunFolder(tmp_path).open(config(1.5, -2.0)).close()
    RunFolder(tmp_path).open(config(1.5001, -2.0)).close()
    for other in (config(1.51, -2.0), config(1.5)):
        with pytest.raises(RunFolderError, match=r"model\.answers"):
            RunFolder(tmp_path).open(other)
    RunFolder(tmp_path / "masked").open(config(1.5, 1.2, -2e9, -3e9)).close()  # the second halves have a masked class
    with pytest.raises(RunFolderError, match=r"model\.answers"):
        RunFolder(tmp_path / "masked").open(config(1.5, 1.21, -2e9, -3e9))
