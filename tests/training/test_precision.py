from __future__ import annotations

import pytest
import torch
from torch import nn

from interpretgan.classifier import Classifier
from interpretgan.models import build_model
from interpretgan.torch_state import tf32
from interpretgan.training.precision import fast_convolutions, laid_out, quick_layout


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


@pytest.mark.parametrize("own", [True, False])
def test_a_network_of_the_package_is_quick_inside_plain_while_something_is_trained_and_given_back(own: bool) -> None:
    network: nn.Module = nn.Sequential(nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5))
    if own:
        network = build_model("lenet5", in_channels=1, num_classes=10, image_size=(28, 28))
    weight, quick = list(network.parameters())[2], list[bool]()

    def see() -> None:
        quick.append(weight.is_contiguous(memory_format=torch.channels_last))

    see()
    with quick_layout(Classifier(network)):
        see()
        with quick_layout(Classifier(network), training=True):
            see()
        with laid_out(network, torch.channels_last):
            see()
        see()
    see()
    assert quick == [False, own, False, True, own, False]
