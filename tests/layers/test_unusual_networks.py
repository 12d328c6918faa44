"""Networks with habits that hide calls from hooks, or that make others of them: their layers are found all the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from interpretgan.classifier import Classifier
from interpretgan.errors import ModelError
from interpretgan.layers import Layer, capture, examine, find_layers, replay
from interpretgan.layers.outputs import without_history
from tests.layers.test_find import build
from tests.networks import Residual, ReusedReLU, Tiny

IMAGES = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def names(model: nn.Module) -> list[str]:
    return [layer.name for layer in find_layers(Classifier(model), IMAGES)]


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return Tiny()


def replays(classifier: Classifier, layers: list[Layer], images: Tensor) -> None:
    """Every layer's latents, also of rows in another order, give the logits of their images."""
    logits, latents = capture(classifier, images, layers)
    for layer in layers:
        assert latents[layer.name].shape == (len(images), *layer.shape)
        with torch.no_grad():
            swapped = replay(classifier, layer, latents[layer.name].flip(0), images)
        torch.testing.assert_close(swapped, logits.flip(0), msg=layer.name)


# --- compiled, exported, scripted --------------------------------------------------------------------------------


def compiled() -> nn.Module:
    model: nn.Module = torch.compile(tiny(), backend="eager")  # type: ignore[assignment]  # it is a module
    with torch.no_grad():
        model(IMAGES)
    return model


def compiled_in_place() -> nn.Module:
    model = tiny()
    model.compile(backend="eager")
    return model


def partly_compiled() -> nn.Module:
    model = tiny()
    assert isinstance(model, Tiny)
    model.conv = torch.compile(model.conv, backend="eager")  # type: ignore[assignment]  # it is a module
    return model


def parallel() -> nn.Module:
    return nn.DataParallel(tiny())


@pytest.mark.parametrize("make", [compiled, compiled_in_place, partly_compiled, parallel])
def test_a_wrapped_network_has_the_layers_of_its_own(make: Callable[[], nn.Module]) -> None:
    assert names(make()) == names(tiny())
    torch.testing.assert_close(Classifier(make()).logits(IMAGES), Classifier(tiny()).logits(IMAGES))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's, of its own parts
def test_an_exported_program_is_taken_apart_and_its_module_and_scripts_are_refused() -> None:
    model = tiny().eval()
    program = torch.export.export(model, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=999)},))
    classifier = Classifier(program)
    layers = find_layers(classifier, IMAGES)
    assert [layer.name for layer in layers] == names(tiny())
    replays(classifier, layers, IMAGES)
    for opaque, words in {
        program.module(): "pass the ExportedProgram itself",
        torch.jit.trace(model, IMAGES): "pass the nn.Module",  # type: ignore[no-untyped-call]
        nn.Sequential(nn.Identity(), torch.jit.script(model)): "pass the nn.Module",
    }.items():
        with pytest.raises(ModelError, match=words):
            find_layers(Classifier(opaque), IMAGES)


# --- calls that no hook sees -------------------------------------------------------------------------------------


class ByForward(Tiny):
    """Calls its modules by their `forward`, where torch runs no hooks."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.pool(self.relu.forward(self.conv.forward(x))).flatten(1)
        logits: Tensor = self.fc2.forward(self.relu2(self.fc1.forward(hidden)))
        return logits


def test_modules_that_are_called_by_forward_are_seen_and_given_back() -> None:
    torch.manual_seed(0)
    model = ByForward()
    classifier = Classifier(model)
    layers = find_layers(classifier, IMAGES)
    assert [layer.name for layer in layers] == names(tiny())
    replays(classifier, layers, IMAGES)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_network_of_functions_alone_is_refused() -> None:
    class Functions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(10, 784))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight.T

    with pytest.raises(ModelError, match="make its steps modules"):
        names(Functions())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.fc = nn.Conv2d(1, 4, 7, stride=7), nn.Tanh(), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            hidden = checkpoint(lambda x: self.relu(self.conv(x)).flatten(1), x, use_reentrant=reentrant)
            logits: Tensor = self.fc(hidden)
            return logits

    torch.manual_seed(0)
    model = Saving()
    classifier = Classifier(model)
    layer = find_layers(classifier, IMAGES)[0]
    assert layer.name == "conv"
    latent = capture(classifier, IMAGES, [layer])[1]["conv"].flip(0).requires_grad_()
    (gradient,) = torch.autograd.grad(replay(classifier, layer, latent, IMAGES)[:, 3].sum(), latent)
    expected = (model.fc.weight[3].view(4, 4, 4) * (1 - latent.tanh() ** 2)).detach()
    torch.testing.assert_close(gradient, expected)


# --- what modules return, and where the batch is -----------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What some libraries return."""

    hidden: Tensor
    attentions: tuple[Tensor, ...] = ()


class Wraps(nn.Module):
    """A block that returns its map in something else."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv, self.wrap = nn.Conv2d(4, 4, 3, padding=1), wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(x + self.conv(x).tanh())


class Wrapped(nn.Module):
    """Blocks that return their map in something else."""

    def __init__(self, wrap: Callable[[Tensor], object], unwrap: Callable[[object], Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.unwrap = nn.Conv2d(1, 4, 7, stride=7), nn.Linear(4, 10), unwrap
        self.blocks = nn.ModuleList([Wraps(wrap) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.unwrap(block(x))
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize(
    ("wrap", "unwrap", "place"),
    [
        (lambda x: (x,), lambda out: out[0], "0"),
        (lambda x: (None, x), lambda out: out[1], "1"),
        (lambda x: (x.sum(), x, "words"), lambda out: out[1], "1"),
        (lambda x: [x, (x, x)], lambda out: out[1][0], "0"),  # the same tensor everywhere
        (lambda x: {"hidden": x, "scale": 3}, lambda out: out["hidden"], "hidden"),
        (Record, lambda out: out.hidden, "hidden"),
        (lambda x: torch.max(torch.stack([x, x - 1]), dim=0), lambda out: out.values, "0"),
    ],
)
def test_blocks_may_return_their_latent_in_something_else(
    wrap: Callable[[Tensor], object], unwrap: Callable[[object], Tensor], place: str
) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Wrapped(wrap, unwrap))
    layers = find_layers(classifier, IMAGES)
    assert [(layer.name, layer.part) for layer in layers] == [
        ("stem", ""), ("blocks.0", place), ("blocks.1", place), ("head", "")
    ]  # fmt: skip
    replays(classifier, layers, IMAGES)


def test_a_model_may_return_its_logits_in_a_record() -> None:
    class Output(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny()

        def forward(self, x: Tensor) -> dict[str, Tensor | None]:
            return {"loss": None, "logits": self.net(x)}

    assert [name.removeprefix("net.") for name in names(Output())] == names(tiny())


class Encoder(nn.Module):
    """A transformer whose tokens come first, as torch's own do by default, or behind the batch."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.patch, self.batch_first = nn.Conv2d(1, 16, 7, stride=7), batch_first
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).permute(0, 2, 1)
        tokens = self.encoder(tokens) if self.batch_first else self.encoder(tokens.transpose(0, 1)).transpose(0, 1)
        logits: Tensor = self.head(tokens.mean(dim=1))
        return logits


def test_the_batch_may_be_behind_the_tokens() -> None:
    found, drawn = [], []
    for batch_first in (True, False):
        torch.manual_seed(0)
        classifier = Classifier(Encoder(batch_first))
        layers = find_layers(classifier, IMAGES)
        replays(classifier, layers, IMAGES)
        found.append([(layer.name, layer.shape) for layer in layers])
        drawn.append(capture(classifier, IMAGES, layers)[1]["encoder.layers.0"])
    assert found[0] == found[1]
    assert len(found[0]) == 6
    torch.testing.assert_close(drawn[0], drawn[1])


def test_an_encoder_may_leave_padding_out() -> None:
    """Torch packs what is no padding into a nested tensor, where one function runs the whole encoder."""

    class Padded(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
            padding[:, -3:] = True
            logits: Tensor = self.head(self.encoder(tokens, src_key_padding_mask=padding)[:, 0])
            return logits

    torch.manual_seed(0)
    model = Padded(batch_first=True)
    model.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    expected = model.eval()(IMAGES)
    classifier = Classifier(model)
    layers = find_layers(classifier, IMAGES)
    assert [layer.name for layer in layers][-2:] == ["encoder.layers.1", "head"]
    replays(classifier, layers, IMAGES)
    torch.testing.assert_close(classifier(IMAGES), expected)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("size", [(28, 28), (20, 31)])
def test_channels_may_be_behind_the_map(size: tuple[int, int]) -> None:
    class Layouts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.first, self.last = nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.Identity(), nn.Identity()
            self.norm, self.down, self.fc = nn.LayerNorm(16), nn.Conv2d(16, 8, 3, stride=2, padding=1), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            z = self.last(self.first(self.conv(x).tanh()).permute(0, 2, 3, 1))
            z = self.down(self.norm(z).permute(0, 3, 1, 2)).relu().mean(dim=(2, 3))
            logits: Tensor = self.fc(z)
            return logits

    torch.manual_seed(0)
    classifier, images = Classifier(Layouts()), torch.rand(6, 1, *size)
    layers = {layer.name: layer for layer in find_layers(classifier, images)}
    replays(classifier, list(layers.values()), images)
    halved = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    assert {layers[name].shape for name in ("first", "last", "norm")} == {(16, *halved)}
    _, latents = capture(classifier, images, [layers["first"], layers["last"]])
    assert torch.equal(latents["first"], latents["last"])


# --- batches -----------------------------------------------------------------------------------------------------


class Pieces(nn.Module):
    """Runs a batch in pieces, by a loop or by calling itself."""

    def __init__(self, size: int, *, calls_itself: bool = False) -> None:
        super().__init__()
        self.a, self.relu, self.b, self.c = nn.Conv2d(1, 4, 7, stride=7), nn.ReLU(), nn.Linear(64, 9), nn.Linear(9, 10)
        self.size, self.calls_itself = size, calls_itself

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.size:
            one = self if self.calls_itself else self.piece
            return torch.cat([one(piece) for piece in torch.split(x, self.size)])
        return self.piece(x)

    def piece(self, x: Tensor) -> Tensor:
        logits: Tensor = self.c(self.relu(self.b(self.relu(self.a(x)).flatten(1))))
        return logits


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("calls_itself", [False, True])
def test_the_pieces_of_a_batch_are_joined(size: int, calls_itself: bool) -> None:
    torch.manual_seed(0)
    pieces, whole = Classifier(Pieces(size, calls_itself=calls_itself)), Classifier(Pieces(99))
    whole.model.load_state_dict(pieces.model.state_dict())
    layers = find_layers(pieces, IMAGES)
    assert [layer.name for layer in layers] == ["a", "relu:1", "b", "relu:2", "c"]
    images = torch.rand(12, 1, 28, 28)
    replays(pieces, layers, images)
    for layer, latent in capture(pieces, images, layers)[1].items():
        torch.testing.assert_close(latent, capture(whole, images, find_layers(whole, images))[1][layer])


def test_logits_that_depend_on_the_batch_are_refused() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x - x.mean(dim=0))
            return logits

    with pytest.raises(ModelError, match="do not depend on the other images"):
        names(Centred())


class Sorts(nn.Module):
    """Brings the images of a batch into an order of its own, and the logits back, as routing to experts does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.fc = nn.Linear(784, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        order = x.flatten(1).sum(dim=1).argsort()
        logits: Tensor = self.fc(torch.relu(self.inner(x.flatten(1)[order])))
        return logits[order.argsort()]


@pytest.mark.parametrize("brightness", [(0.1, 0.2), (0.2, 0.1)])
def test_latents_in_another_order_than_the_images_are_refused(brightness: tuple[float, float]) -> None:
    # The noise that is tried beside them is brighter: whichever comes first, its latents may seem to be in order.
    images = torch.rand(2, 1, 28, 28) * torch.tensor(brightness).view(2, 1, 1, 1)
    torch.manual_seed(0)
    assert [layer.name for layer in find_layers(Classifier(Sorts()), images)] == ["logits"]


def test_hooks_of_the_users_may_add_views_of_the_images() -> None:
    net = tiny().eval()
    net.register_forward_pre_hook(lambda _, inputs: torch.cat([inputs[0], inputs[0].flip(-1)]))
    net.register_forward_hook(lambda _module, _inputs, output: sum(output.chunk(2)))
    classifier = Classifier(net)
    (layer,) = find_layers(classifier, IMAGES)
    assert layer.name == "logits"
    assert torch.equal(capture(classifier, IMAGES, [layer])[1]["logits"], classifier.logits(IMAGES))


class PerToken(nn.Module):
    """Calls a module under `torch.func.vmap`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.inner, self.head = nn.Conv2d(1, 4, 7, stride=7), nn.Linear(16, 8), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        channels = torch.func.vmap(self.inner, in_dims=1, out_dims=1)(self.conv(x).flatten(2))
        logits: Tensor = self.head(channels.flatten(1))
        return logits


def test_calls_inside_a_transform_of_torch_are_refused_and_those_outside_found() -> None:
    torch.manual_seed(0)
    anatomy = examine(Classifier(PerToken()), IMAGES)
    assert [layer.name for layer in anatomy.distinct] == ["conv", "head"]
    assert [(refused.name, refused.reason) for refused in anatomy.refused] == [
        ("inner", "it returns a value inside torch.func, not a tensor")
    ]


# --- branches ----------------------------------------------------------------------------------------------------


def exhaustive(classifier: Classifier, images: Tensor) -> dict[str, bool]:
    """The definition itself, one call after the other, of all calls by the first tensor that they return."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(7))
    logits, other, found = classifier.logits(images), classifier.logits(noise), dict[str, bool]()
    anatomy = examine(classifier, images)
    for name in anatomy.order:
        known = next((layer for layer in anatomy.layers if layer.name == name), None)
        module, _, call = name.rpartition(":") if ":" in name else (name, "", "1")
        module = "" if name in ("logits", "output") else module
        calls = sum(other.rpartition(":")[0] == module for other in anatomy.order) if ":" in name else 1
        place = "0" if any(refused.name == name and refused.shape is None for refused in anatomy.refused) else ""
        layer = known or Layer(name, module, int(call), "", (), calls=calls, part=place)
        _, latents = capture(classifier, images, [layer])
        with torch.no_grad():
            swapped = replay(classifier, layer, latents[name], noise)
        found[name] = bool((swapped - logits).abs().max() <= 1e-4 * (other - logits).abs().max())
    return found


class Dense(nn.Module):
    """Each convolution sees all maps before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 7, stride=7), nn.Linear(12, 10)
        self.convs = nn.ModuleList([nn.Conv2d(4 * (k + 1), 4, 3, padding=1) for k in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for conv in self.convs:
            maps.append(conv(torch.cat(maps, dim=1)).relu())
        logits: Tensor = self.head(torch.cat(maps, dim=1).mean(dim=(2, 3)))
        return logits


class UShaped(nn.Module):
    """Down and up again, with a connection across."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.down, self.up = (
            nn.Conv2d(1, 4, 7, stride=7), nn.Conv2d(4, 8, 2, stride=2), nn.ConvTranspose2d(8, 4, 2, stride=2)
        )  # fmt: skip
        self.middle, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        first = self.start(x).relu_()
        joined = torch.cat([first, self.up(self.middle(self.down(first)).relu())], dim=1)
        logits: Tensor = self.head(joined.mean(dim=(2, 3)))
        return logits


class Gated(nn.Module):
    """Squeeze and excitation; a hard choice, through which no gradient flows, leads around the rest."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.conv, self.gate, self.mix = nn.Conv2d(1, 4, 7, stride=7), nn.Linear(4, 4), nn.Conv2d(4, 4, 1)
        self.head, self.hard = nn.Linear(4, 10), hard

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        z = self.mix(z * self.gate(z.mean(dim=(2, 3))).sigmoid()[:, :, None, None])
        if self.hard:
            z = z * (x.mean(dim=(1, 2, 3)) > 0.5).float()[:, None, None, None]
        logits: Tensor = self.head(z.mean(dim=(2, 3)))
        return logits


class Quantised(nn.Module):
    """A rounding whose gradient goes straight through: what is rounded fixes the logits, gradients say otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rounded, self.head = nn.Conv2d(1, 4, 7, stride=7), nn.Identity(), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        z = z + (self.rounded((8 * z).round() / 8) - z).detach()
        logits: Tensor = self.head(z.flatten(1))
        return logits


class Unchanged(nn.Module):
    """Residual blocks whose shortcuts return what they are given, called behind the branch or before it."""

    def __init__(self, shortcut: type[nn.Module], *, first: bool = False) -> None:
        super().__init__()
        self.stem, self.head, self.first = nn.Conv2d(1, 4, 7, stride=7), nn.Linear(4, 10), first
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(9)])
        self.shortcuts = nn.ModuleList([shortcut() for _ in range(9)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, shortcut in zip(self.convs, self.shortcuts, strict=True):
            x = torch.relu(x)  # so that the shortcut is the first module that returns it
            x = shortcut(x) + conv(x) if self.first else conv(x) + shortcut(x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


class Around(nn.Module):
    """A chain, around a part of which something goes that no gradient flows through."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Tanh()) for _ in range(12)])
        self.head, self.start, self.end = nn.Linear(784, 10), start, end

    def forward(self, x: Tensor) -> Tensor:
        around = x.detach()
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number == self.start:
                around = x.detach()
            elif number == self.end:
                x = x * (1 + around)
        logits: Tensor = self.head(x.flatten(1))
        return logits


@pytest.mark.parametrize(
    "make",
    [
        tiny, ReusedReLU, Residual, Dense, UShaped, lambda: Encoder(True), lambda: Gated(hard=False),
        lambda: Gated(hard=True), Quantised, lambda: Unchanged(nn.Identity), lambda: Unchanged(nn.Sequential),
        lambda: Unchanged(nn.Identity, first=True), lambda: Around(3, 8), lambda: Around(-1, 11),
    ],
    ids=[
        "tiny", "reused", "residual", "dense", "u-shaped", "transformer", "gated", "hard gate", "quantised",
        "identity shortcuts", "empty shortcuts", "identities before", "around a part", "around all",
    ],
)  # fmt: skip
def test_the_layers_are_those_of_the_exhaustive_test(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    images = torch.rand(4, 1, 9, 11) if isinstance(model, Residual) else IMAGES[:4]
    classifier = Classifier(model)
    anatomy = examine(classifier, images)
    found = {layer.name for layer in anatomy.layers}
    fixing = {name for name, fixes in exhaustive(classifier, images).items() if fixes}
    assert found == fixing - {"logits"} | (found & {"logits"})
    assert found
    assert len(found) < len(anatomy.order)


def test_a_gate_without_gradient_refuses_what_it_leads_around() -> None:
    found = names(Gated(hard=True))
    assert found == ["head"]
    assert names(Gated(hard=False)) == ["conv", "mix", "head"]


def chain() -> nn.Module:
    return nn.Sequential(*[nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Tanh()) for _ in range(20)], nn.Flatten())


@pytest.mark.parametrize(
    ("make", "layers", "most"),
    [
        (chain, 40, 8),
        (lambda: Unchanged(nn.Identity), 2, 8),
        (lambda: Unchanged(nn.Sequential), 2, 8),
        (lambda: Unchanged(nn.Identity, first=True), 2, 8),
        (lambda: Around(3, 8), 15, 20),
        (lambda: Around(-1, 11), 1, 20),
    ],
)
def test_layers_take_few_passes(make: Callable[[], nn.Module], layers: int, most: int) -> None:
    torch.manual_seed(0)
    model = make()
    passes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    assert len(find_layers(Classifier(model), IMAGES)) == layers
    assert len(passes) <= most
    assert max(passes) == 4


class Shortcut(nn.Module):
    """A block whose branch begins at nothing: a norm with scale zero, a scale of a millionth, or a zero convolution."""

    def __init__(self, scale: float, zero: str) -> None:
        super().__init__()
        self.down, self.conv = nn.Conv2d(1, 4, 7, stride=7), nn.Conv2d(1, 4, 7, stride=7)
        self.norm, self.scale, self.head = nn.BatchNorm2d(4), nn.Parameter(torch.tensor(scale)), nn.Linear(64, 10)
        if zero:
            nn.init.zeros_(self.get_submodule(zero).weight)  # type: ignore[arg-type]  # both have one

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head((self.down(x) + self.scale * self.norm(self.conv(x))).flatten(1))
        return logits


@pytest.mark.parametrize(("scale", "zero"), [(1.0, "norm"), (1e-6, ""), (0.0, ""), (1.0, "conv")])
def test_a_branch_that_begins_at_nothing_is_found(scale: float, zero: str) -> None:
    torch.manual_seed(0)
    assert names(Shortcut(scale, zero)) == ["head"]


# --- torch as the caller has set it ------------------------------------------------------------------------------


def test_a_model_made_in_inference_mode_is_refused_and_others_are_used_inside() -> None:
    outside = tiny()
    with torch.inference_mode():
        made = Tiny()
        assert names(outside)
    with pytest.raises(ModelError, match="build and load it outside"):
        names(made)


def test_a_model_is_copied_after_its_layers_were_found() -> None:
    classifier = Classifier(tiny())
    find_layers(classifier, IMAGES)
    again = copy.deepcopy(classifier)
    assert find_layers(again, IMAGES) == find_layers(classifier, IMAGES)


def test_a_call_for_some_images_alone_is_refused() -> None:
    class Exits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.early, self.late = nn.Conv2d(1, 4, 7, stride=7), nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            z = self.conv(x).flatten(1)
            return torch.cat([self.late(row) if row.mean() > 0.25 else self.early(row) for row in z.chunk(len(z))])

    classifier, images = build(Exits, 1, 28, 28)
    nn.init.constant_(classifier.model.conv.weight, 1 / 49)  # type: ignore[arg-type, union-attr]
    images[1] *= 0.1
    assert [layer.name for layer in find_layers(classifier, images)] == ["conv", "logits"]


def test_a_network_is_copied_however_it_keeps_tensors_of_its_last_pass() -> None:
    network = nn.Linear(2, 2)
    made = network(torch.ones(1, 2))
    kept: object
    for kept in (made, {1: made}, {("a", 1): [made]}, {"a.b": {made}}, [[[[made]]]]):
        network.kept = kept  # type: ignore[assignment]  # as a hook writes it
        with pytest.raises(RuntimeError, match="deepcopy"):
            copy.deepcopy(network)
        assert torch.equal(copy.deepcopy(network, without_history(network)).weight, network.weight)
