"""The script of the checks on a GPU, as far as it can be tried without one."""

from __future__ import annotations

import json
import queue
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from interpretgan import GANConfig, InterpretGAN
from interpretgan.errors import ConfigError, ModelError


def test_a_check_that_fails_or_takes_too_long_says_so_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(device: str, small: bool) -> dict[str, Any]:
        raise ModelError(expected="a card", got=device, do="find one")

    monkeypatch.setitem(gpu.CHECKS, "throughput", (fails, 9.0))
    answers: queue.Queue[Any] = queue.Queue()
    gpu._in_a_process("throughput", "cpu", True, answers)
    assert answers.get() == {"done": False, "error": "ModelError: expected a card, got cpu; find one"}
    slow = gpu.checked("agreement", "cpu", True, 0.1)
    assert (slow["done"], slow["error"]) == (False, "not done within 0 s")
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--small", "--seconds", "0", "--checks", "wrn_28_10", "--out", str(out)]) == 1
    record = json.loads(out.read_text())
    assert (record["card"], record["small"], list(record["checks"])) == (None, True, ["wrn_28_10"])
    assert sum(limit for _, limit in gpu.CHECKS.values()) <= gpu.SECONDS


def test_what_should_agree_with_the_cpu_depends_on_no_noise_that_a_gpu_draws_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted = list[GANConfig]()
    monkeypatch.setattr(InterpretGAN, "fit", lambda its, *_, **__: fitted.append(its.config))
    with pytest.raises(ConfigError, match="a fitted InterpretGAN"):
        gpu.agreement("cpu", True)
    assert [(config.recognition_noise, config.image_noise) for config in fitted] == [(0.0, 0.0)]


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "got none" in capsys.readouterr().err
