"""How hard two draws of one latent push each other apart, so that they vary by what the latent leaves open."""

import torch
from torch import Tensor, nn

FIRMNESS = 2.0  # weight added for draws that do not vary at all, which is taken off for those that vary twice too much
LEAST, MOST = -1.0, 3.0  # weights; below zero draws are pulled together


class Spread(nn.Module):
    """Weights `[L]` of the last term of the energy score, `1 + 2 (1 - E‖x̂ - x̂'‖² / 2u_l)`, between -1 and 3.

    `u_l = E‖x - E[x|z_l]‖²`, `[L]`, is what the layers leave open of an image, in squared pixels. Two independent
    images with one latent are `2u_l` apart in the mean. Draws that are get the weight 1: the energy score as it is.
    What holds them together, as the other terms of the objective do, is made up for.
    """

    left_open: Tensor

    def __init__(self, left_open: Tensor) -> None:
        super().__init__()
        self.register_buffer("left_open", left_open)

    @torch.no_grad()
    def forward(self, apart: Tensor) -> Tensor:
        """The weights of layers whose two draws are `E‖x̂ - x̂'‖²` apart, `[L]`."""
        share = apart / (2 * self.left_open).clamp_min(1e-12)
        return (1 + FIRMNESS * (1 - share)).clamp(LEAST, MOST)
