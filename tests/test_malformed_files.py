"""Files that are damaged or forged: exit 0 or 2, one line, no traceback, no code run, no markup from names.

A small sample of what was tried on thousands of files; each case is drawn from a fixed seed.
"""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from interpretgan.cli import run_command
from interpretgan.models import build_model
from tests.report.samples import explanation_of, lenet_diagnosis

CASES = 6  # of each kind
FORGED: tuple[Any, ...] = (
    "<script>alert(1)</script>", "\x00", "a\nTraceback", "", -1, 1e308, None, [], {}, True, "a" * 3000, 10**30, [[[]]],
)  # fmt: skip


class Runs:
    """A pickle that runs a command when it is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes that are cut, changed, left out, emptied, or an error page in their place."""
    place = rng.randrange(len(content))
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 30)):
        changed[rng.randrange(len(content))] = rng.randrange(256)
    page = b"<!doctype html><title>404 Not Found</title>"
    return rng.choice([content[:place], bytes(changed), content[:place] + content[place + 20 :], b"", page])


def forged(value: Any, rng: random.Random) -> Any:
    """JSON with another value at one place, one that is missing, or one more."""
    if not (isinstance(value, dict | list) and value) or rng.random() < 0.08:
        return rng.choice(FORGED)
    copy = value.copy()
    key: Any = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
    if rng.random() < 0.1:
        del copy[key]
    else:
        copy[key] = forged(copy[key], rng)
    return copy


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run with pictures and predictions."""
    folder, found = tmp_path / "run", lenet_diagnosis()
    found.save(folder)
    rows = np.zeros((len(found.layers), 40), dtype=np.int64)
    np.savez(folder / "predictions.npz", labels=rows[0], natural=rows, adversarial=rows)
    np.savez(folder / "explanations.npz", **explanation_of(found, count=1))
    return folder


def with_other_json(folder: Path, rng: random.Random, mark: Path) -> list[str]:
    file = folder / "diagnosis.json"
    file.write_text(json.dumps(forged(json.loads(file.read_text()), rng)))
    return ["report", str(folder)]


def with_other_arrays(folder: Path, rng: random.Random, mark: Path) -> list[str]:
    file = folder / rng.choice(["predictions.npz", "explanations.npz"])
    with np.load(file) as saved:
        arrays = {name: saved[name] for name in saved.files}
    name = rng.choice(list(arrays))
    array = arrays[name]
    as_object = np.array([Runs(mark)], dtype=object)
    arrays[name] = rng.choice([array.astype(str), array.T, array[..., :1], np.zeros(0), as_object, np.ones(2, bool)])
    if rng.random() < 0.15:
        del arrays[name]
    np.savez(file, allow_pickle=True, **arrays)
    return ["report", str(folder)]


def with_damaged_file(folder: Path, rng: random.Random, mark: Path) -> list[str]:
    file = rng.choice(sorted(folder.glob("*.*")))
    file.write_bytes(damaged(file.read_bytes(), rng))
    return ["compare", str(folder), str(folder)] if rng.random() < 0.3 else ["report", str(folder)]


def with_other_weights(folder: Path, rng: random.Random, mark: Path) -> list[str]:
    state = dict(build_model("lenet5", in_channels=1, num_classes=10, image_size=28).state_dict())
    name = rng.choice(list(state))
    others = [state[name].to_sparse(), state[name].to(torch.int64), state[name].flatten()[:1], torch.zeros(0)]
    file = folder / rng.choice(["w.pt", "w.pth", "w.safetensors"])
    if file.suffix == ".safetensors":
        save_file({**state, name: rng.choice(others[1:])}, file)
    elif rng.random() < 0.5:
        torch.save({"state_dict": {**state, name: rng.choice(others)}}, file)
    else:
        file.write_bytes(pickle.dumps(Runs(mark)))
    if rng.random() < 0.5:
        file.write_bytes(damaged(file.read_bytes(), rng))
    return ["layers", "--weights", str(file)]


def with_other_images(folder: Path, rng: random.Random, mark: Path) -> list[str]:
    for label in ("a", "<b>c"):
        (folder / "set" / label).mkdir(parents=True)
        for number in range(3):
            mode, kind = rng.choice(["L", "RGB", "CMYK", "P"]), rng.choice(["tif", "gif", "jpg"])
            Image.new("L", (12, 12), 40 * number).convert(mode).convert(
                "L" if kind == "gif" else "RGB" if mode == "P" else mode
            ).save(folder / "set" / label / f"{number}.{kind}")
    file = rng.choice(sorted((folder / "set").rglob("*.*")))
    content = file.read_bytes()
    file.unlink()
    what = rng.randrange(4)
    if what == 0:
        file.symlink_to("nowhere")
    elif what == 1:
        Image.new("RGB", (5, 7)).save(file)
    elif what == 2:
        file.write_bytes(damaged(content, rng))
    return ["layers", "--data", str(folder / "set")]


def with_other_settings(folder: Path, rng: random.Random, mark: Path) -> list[str]:
    options = ["--eps", "--mean", "--std", "--image-size", "--channels", "--classes", "--adversarial", "--model"]
    options += ["--steps", "--layers", "--data", "--weights", "--latent", "--confidence", "--seed", "--device"]
    values = ["", "0", "-1", "nan", "inf", "8/0", "a,b", "<b>", "/dev/null", "..", "os:system", "1e400", "cpu:99"]
    chosen = [part for _ in range(rng.randrange(1, 4)) for part in (rng.choice(options), rng.choice(values))]
    return ["diagnose", "--dry-run", *chosen]


@pytest.mark.parametrize("seed", range(CASES))
@pytest.mark.parametrize(
    "kind",
    [with_other_json, with_other_arrays, with_damaged_file, with_other_weights, with_other_images, with_other_settings],
)
def test_what_is_malformed_is_taken_or_refused_in_a_line(
    kind: Callable[[Path, random.Random, Path], list[str]], seed: int, finished: Path, cache_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    mark = finished.parent / "was-run"
    command = kind(finished, random.Random(f"{kind.__name__} {seed}"), mark)
    code = run_command(command)
    out, err = capsys.readouterr()
    assert code in (0, 2)
    assert not mark.exists()
    if code == 2:
        assert err.count("\n") == 1, err
        assert err.startswith("interpretgan: ")
        assert out == ""
    elif command[0] == "report":
        page = (finished / "report.html").read_text("utf-8")
        assert page.count("<script>") == 1
