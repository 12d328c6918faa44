"""A recorded step is the step: on a CPU it is called, on a GPU it gives the same numbers."""

import pytest
import torch
from torch import Tensor, nn

from interpretgan.training.recorded import WARM_UP, Recorded, recordable, set_rate

PLACES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def trained(place: str, *, record: bool, read: bool = False) -> tuple[list[float], Tensor, Recorded]:
    """Losses, weights, and the step, of a small network whose rate falls; `read` is what cannot be recorded."""
    device = torch.device(place)
    torch.manual_seed(0)
    network = nn.Linear(4, 1).to(device)
    adam = torch.optim.Adam(network.parameters(), fused=True, **recordable(device, 0.1))

    def step(x: Tensor) -> dict[str, Tensor]:
        loss = (network(x) - x.sum(dim=1, keepdim=True)).square().mean()
        if read:
            float(loss.detach())
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
        return {"loss": loss.detach()}

    made, losses = Recorded(step, device, wanted=record), []
    for number in range(WARM_UP + 20):
        set_rate(adam, 0.1 / (1 + number))
        losses.append(float(made(torch.randn(8, 4).to(device))["loss"]))
    return losses, network.weight.detach().cpu(), made


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("read", [False, True])
def test_a_recorded_step_gives_the_same_losses_and_weights(place: str, read: bool) -> None:
    losses, weights, made = trained(place, record=True, read=read)
    expected, own, _ = trained(place, record=False)
    assert losses == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(weights, own)
    assert losses[-1] < losses[0]
    assert (made._graph is not None) == (place == "cuda" and not read)


def test_each_call_makes_one_step_with_what_it_is_given() -> None:
    seen = []

    def step(x: Tensor) -> dict[str, Tensor]:
        seen.append(float(x))
        return {"twice": 2 * x}

    made = Recorded(step, torch.device("cpu"))
    assert [float(made(torch.tensor(float(n)))["twice"]) for n in range(6)] == [0, 2, 4, 6, 8, 10]
    assert seen == [0, 1, 2, 3, 4, 5]
