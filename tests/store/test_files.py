from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from interpretgan.errors import RunFolderError
from interpretgan.store.files import (
    atomic_file,
    atomic_write_bytes,
    atomic_write_text,
    file_sha256,
    plain,
    read_json,
    write_arrays,
    write_json,
    write_npy,
)


def test_writes_replace_and_make_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    atomic_write_text(path, "old ε")
    atomic_write_text(path, "new ε")
    assert path.read_bytes() == "new ε".encode()
    assert [p.name for p in path.parent.iterdir()] == ["note.txt"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "no space"), "got a full disk; free some space"),
        (OSError(errno.EDQUOT, "over the quota"), "got a full disk; free some space"),
        (OSError(errno.EROFS, "Read-only file system"), "got read-only file system; choose a folder"),
        (KeyboardInterrupt(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str
) -> None:
    atomic_write_text(tmp_path / "file", "old")

    def fsync(_descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RunFolderError if message else KeyboardInterrupt, match=message or None):
        atomic_write_text(tmp_path / "file", "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file": "old"}


def test_an_error_while_it_is_written_leaves_no_file(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with atomic_file(tmp_path / "file") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(RunFolderError, match="is a directory"):
        atomic_write_text(tmp_path / "file", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_arrays_come_back_as_written(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(4, 3, 2)
    write_npy(tmp_path / "a.npy", array.shape, (array[:3], array[3:]))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    write_arrays(tmp_path / "a.npz", {"x": array, "names": np.array(["a", "b"])})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["x"], array)
        assert saved["names"].tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(tmp_path / "b.npz", {"objects": np.array([object()])})
    assert {p.name for p in tmp_path.iterdir()} == {"a.npy", "a.npz"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(value=JSON)
@settings(max_examples=30)
def test_json_comes_back_as_written(value: object) -> None:
    assert plain(value) == value
    assert json.loads(json.dumps(plain(value))) == value


def test_json_numbers_are_numbers_in_order_and_nan_is_null(tmp_path: Path) -> None:
    value = {
        "z": np.float32(0.5), "a": np.int64(3), "array": np.arange(4).reshape(2, 2),
        "tensor": torch.tensor([0.25, float("nan")]), "flag": np.bool_(True), "infinite": float("-inf"),
        "where": Path("a") / "b", "tuple": (1, 2.0),
    }  # fmt: skip
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text()
    assert text.endswith("}\n")
    loaded = json.loads(text, parse_constant=pytest.fail)
    assert list(loaded) == list(value)
    assert loaded == {
        "z": 0.5, "a": 3, "array": [[0, 1], [2, 3]], "tensor": [0.25, None], "flag": True, "infinite": None,
        "where": "a/b", "tuple": [1, 2.0],
    }  # fmt: skip


@pytest.mark.parametrize("value", [{1: "a"}, {"a": object()}, [{"b": {2}}]])
def test_what_is_not_json_is_refused_before_writing(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="JSON"):
        write_json(tmp_path / "value.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b'{"layers": [1, 2', b"\xff\xfe\x00", b"{} {}"])
def test_damaged_json_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "value.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"value\.json, got a truncated or damaged file"):
        read_json(tmp_path / "value.json")


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_json, file_sha256):
        with pytest.raises(RunFolderError, match=r"none\.json, got no such file"):
            read(tmp_path / "none.json")


def test_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()
