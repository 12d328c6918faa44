"""A recorded step is the step: on a CPU it is called, on a GPU it gives the same numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from interpretgan.training.recorded import WARM_UP, Recorded, recordable, set_rate

PLACES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


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


def test_a_rate_that_a_checkpoint_brought_goes_to_the_parameters_before_it_is_recorded() -> None:
    place = torch.device("meta")  # as a GPU is not the CPU, where checkpoints are read
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(2, device=place))])
    adam.param_groups[0]["lr"] = torch.tensor(0.1)
    set_rate(adam, 0.05)
    its = adam.param_groups[0]["lr"]
    assert its.device == place
    set_rate(adam, 0.02)
    assert adam.param_groups[0]["lr"] is its


def test_it_is_recorded_on_its_own_gpu_and_a_failure_leaves_the_stream_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, now = torch.device("cuda", 1), {"gpu": 0, "stream": "usual of 0"}

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setitem(now, "gpu", wanted.index)
            patch.setitem(now, "stream", f"usual of {wanted.index}")
            yield
            assert now["stream"] == f"usual of {wanted.index}"

    @contextmanager
    def graph(_graph: object, *, stream: str, capture_error_mode: str) -> Iterator[None]:
        assert (stream, capture_error_mode) == ("own of 1", "thread_local")
        now["stream"] = stream
        yield
        raise RuntimeError("it cannot be recorded")

    for name, fake in {
        "device": device, "graph": graph, "CUDAGraph": object, "Stream": lambda: f"own of {now['gpu']}",
        "current_stream": lambda: now["stream"], "set_stream": lambda stream: now.update(stream=stream),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    seen = list[object]()

    def step(x: Tensor) -> dict[str, Tensor]:
        seen.append(now["stream"])
        return {"double": 2 * x}

    recorded = Recorded(step, place)
    shown = [float(recorded(torch.tensor(float(number)))["double"]) for number in range(WARM_UP + 2)]
    assert shown == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert seen == ["usual of 0"] * WARM_UP + ["own of 1"] + ["usual of 0"] * 2
