from __future__ import annotations

import pytest
import torch

from interpretgan.store.machine import tf32
from interpretgan.training.precision import fast_convolutions


@pytest.mark.parametrize("bf16", [True, False])
def test_a_training_in_full_precision_gets_no_tf32_and_all_is_given_back(bf16: bool) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark

    def stop() -> None:
        with fast_convolutions(bf16=bf16):
            assert (cudnn.allow_tf32, cudnn.benchmark) == (bf16, True)
            raise ValueError("stopped")

    with tf32(False):
        with pytest.raises(ValueError, match="stopped"):
            stop()
        assert cudnn.allow_tf32 is False
    assert (cudnn.allow_tf32, cudnn.benchmark) == before
