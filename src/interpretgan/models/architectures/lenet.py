"""Networks of two convolutions for digits: LeNet-5 [17], which the paper reads, and a wide one."""

from torch import Tensor, nn

from interpretgan.models.architectures import NetworkOptions
from interpretgan.models.architectures.pooling import pooling


class LeNet5(nn.Module):
    """LeNet-5 with ReLU: conv1, relu1, pool1, conv2, relu2, pool2, fc1, relu3, fc2, relu4, fc3."""

    channels: tuple[int, int] = (6, 16)
    paddings: tuple[int, int] = (2, 0)
    units: tuple[int, ...] = (120, 84)

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__()
        inputs, (rows, columns) = options.in_channels, options.image_size
        for number, (channels, padding) in enumerate(zip(self.channels, self.paddings, strict=True), start=1):
            outputs = options.scaled(channels)
            self.add_module(f"conv{number}", nn.Conv2d(inputs, outputs, 5, padding=padding))
            self.add_module(f"relu{number}", nn.ReLU())
            self.add_module(f"pool{number}", pooling(options.pool, outputs))
            inputs, rows, columns = outputs, (rows + 2 * padding - 4) // 2, (columns + 2 * padding - 4) // 2
        inputs *= rows * columns
        for number, units in enumerate(self.units, start=1):
            outputs = options.scaled(units)
            self.add_module(f"fc{number}", nn.Linear(inputs, outputs))
            self.add_module(f"relu{number + 2}", nn.ReLU())
            inputs = outputs
        self.add_module(f"fc{len(self.units) + 1}", nn.Linear(inputs, options.num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]`."""
        for name, module in self.named_children():
            images = module(images.flatten(1) if name == "fc1" else images)
        return images


class MnistWide(LeNet5):
    """32 and 64 channels and a hidden layer of 1,024 units, the network on which training on PGD was introduced.

    Weights start as published: normal with deviation 0.1, cut off at twice that, and biases at 0.1.

    Source: Madry et al. 2018, Towards deep learning models resistant to adversarial attacks.
    """

    channels, paddings, units = (32, 64), (2, 2), (1024,)

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__(options)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.constant_(parameter, 0.1)
            else:
                nn.init.trunc_normal_(parameter, std=0.1, a=-0.2, b=0.2)
