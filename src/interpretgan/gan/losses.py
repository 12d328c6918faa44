"""The terms of the objective, one function each, beside their formulas."""

from torch import Tensor
from torch.nn import functional as F


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """`E[max(0, 1 - D(x))] + E[max(0, 1 + D(x̂))]` of scores `[N]` and `[M]`: what the discriminator minimises."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_hinge(fake: Tensor) -> Tensor:
    """`-E[D(x̂)]` of scores `[M]`: the realism term `L_adv` that the generator minimises."""
    return -fake.mean()


def information_bound(logits: Tensor, explained_logits: Tensor) -> Tensor:
    """`L_I = E Σ_y p_f(y|x) · log p_f(y|x̂)`, in nats, at most zero; logits `[N, K]` of images and of explanations.

    The variational lower bound on the mutual information between the explanation and the classification, up to an
    entropy that the generator cannot change, with the frozen classifier as the recognition network (InfoGAN, eq. 5).
    """
    return (logits.float().softmax(dim=1) * explained_logits.float().log_softmax(dim=1)).sum(dim=1).mean()


def energy_score(images: Tensor, drawn: Tensor, again: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """`S = E[½ ‖x - x̂‖ + ½ ‖x - x̂'‖ - ½ w ‖x̂ - x̂'‖]`, in root mean squares of a pixel, of two draws for each image.

    `x̂ = G(z, n)` and `x̂' = G(z, n')` differ by their noise alone; all are `[N, C, H, W]`. With the weight `w = 1` it is
    least where the draws are distributed as the images that have this latent are, and so vary with the noise by what
    the latent leaves open (Gneiting and Raftery 2007, Strictly proper scoring rules, eq. 22; Bouchacourt et al. 2016,
    DISCO nets). Other weights `[N]` are those of `Spread`.
    """

    def apart(first: Tensor, second: Tensor) -> Tensor:
        return (first - second).float().flatten(1).square().mean(dim=1).clamp_min(1e-12).sqrt()

    return 0.5 * (apart(images, drawn) + apart(images, again) - weights * apart(drawn, again)).mean()


def latent_size(latent: Tensor) -> Tensor:
    """`‖z_l‖²` of latents `[N, ...]`, over the batch: a scalar."""
    return latent.float().square().sum()


def latent_consistency(latent: Tensor, explained_latent: Tensor, size: Tensor | None = None) -> Tensor:
    """`L_z = ‖f_{<=l}(x̂) - z_l‖² / ‖z_l‖²`, over the batch, so that an all-zero latent cannot divide by zero.

    Where these latents `[N, ...]` are a share of a batch, `size` is the mean of `‖z_l‖²` over the shares.
    """
    size = latent_size(latent) if size is None else size
    return (explained_latent.float() - latent.float()).square().sum() / size.clamp_min(1e-12)
