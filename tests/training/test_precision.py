from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.store.machine import tf32
from interpretgan.training.precision import channels_last, fast_convolutions, prefer_channels_last


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


class Flat(nn.Module):
    """A convolution and a linear layer, between them a flatten that takes any layout or a view that does not."""

    def __init__(self, *, view: bool) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 10)
        self.flat_view = view

    def forward(self, images: Tensor) -> Tensor:
        z = self.conv(images)
        logits: Tensor = self.fc(z.view(len(z), -1) if self.flat_view else z.flatten(1))
        return logits


@pytest.mark.parametrize("view", [True, False])
def test_channels_are_last_where_the_network_takes_them_so_and_a_training_leaves_them(view: bool) -> None:
    network, images = Flat(view=view), torch.rand(2, 3, 8, 8)
    classifier, weight = Classifier(network), network.conv.weight
    logits = classifier.logits(images)
    prefer_channels_last(classifier, images)
    assert weight.is_contiguous(memory_format=torch.channels_last) is not view
    torch.testing.assert_close(classifier.logits(images), logits)
    with channels_last(network):
        assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.is_contiguous(memory_format=torch.channels_last) is not view
