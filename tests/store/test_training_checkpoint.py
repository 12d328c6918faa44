from __future__ import annotations

import errno
import io
import math
from pathlib import Path

import pytest
import torch

from interpretgan.errors import RunFolderError
from interpretgan.store.training_checkpoint import Checkpoint, fingerprint_of


def test_the_same_work_finds_its_state_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c.pt", fingerprint_of("work", 3), every=0.0)
    assert checkpoint.load() is None
    assert checkpoint.due()
    checkpoint.save({"step": 7, "weights": torch.arange(3.0), "history": [{"loss": 0.5}], "best": None})
    state = Checkpoint(tmp_path / "c.pt", fingerprint_of("work", 3)).load()
    assert state is not None
    assert torch.equal(state.pop("weights"), torch.arange(3.0))
    assert state == {"step": 7, "history": [{"loss": 0.5}], "best": None}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_other_work_and_damage_are_refused_and_the_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    Checkpoint(path, fingerprint_of("work", 3), every=0.0).save({"step": 7})
    content = path.read_bytes()
    with pytest.raises(RunFolderError, match="expected a checkpoint of the same work"):
        Checkpoint(path, fingerprint_of("work", 4)).load()
    assert path.read_bytes() == content
    path.write_bytes(content[:100])
    with pytest.raises(RunFolderError, match=r"c\.pt, which cannot be read; delete it to start over"):
        Checkpoint(path, fingerprint_of("work", 3)).load()


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            if self.tell() > 300:  # torch's own words then hide why
                raise OSError(errno.ENOSPC, "no space")
            return super().write(data)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(RunFolderError, match="got a full disk; free some space"):
        Checkpoint(tmp_path / "c.pt", "", every=0.0).save({"weights": torch.zeros(9999)})


def test_it_is_due_when_its_time_is_over_and_at_the_end(tmp_path: Path) -> None:
    def due(path: Path | None, every: float) -> tuple[bool, bool]:
        checkpoint = Checkpoint(path, "", every=every)
        return checkpoint.due(), checkpoint.due(last=True)

    assert due(tmp_path / "c.pt", 0.0) == (True, True)
    assert due(tmp_path / "c.pt", 1e6) == (False, True)
    assert due(tmp_path / "c.pt", math.inf) == (False, False)
    assert due(None, 0.0) == (False, False)
