"""Models that come with their weights, by name: of a public hub, in a folder like there, or of torch.export.

    hf:OWNER/NAME  hf:./folder  timm:NAME  timm:./folder  torchvision:NAME  torchvision:NAME/WEIGHTS  file.pt2

What such a model knows of its images (size, normalisation, classes) comes along, see `NamedModel`.
"""

import importlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interpretgan.errors import InterpretGANError, ModelError, in_a_line

HUBS = {"hf": "transformers", "timm": "timm", "torchvision": "torchvision"}
"""What stands before the colon of a public model, also the extra of this package; and the library that it needs."""
PROGRAM = ".pt2"  #: How files that `torch.export.save` wrote end.
SHOWN = 3  # names of classes in a line
FORCE_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch obeys it, whatever a library asks of it
OFFLINE = (
    "ConnectError", "ConnectionError", "ConnectTimeout", "LocalEntryNotFoundError", "OfflineModeIsEnabled", "URLError",
)  # fmt: skip


@dataclass(frozen=True)
class NamedModel:
    """A model that comes with its weights, and what is known of the images that it was trained on; before it is loaded.

    `load()` gives the module with its weights. `load(K)` gives it without, for K classes of one's own.
    """

    name: str  #: As it is reported: of a folder or file its last part.
    load: Callable[[int | None], nn.Module]
    image_size: tuple[int, int] | None = None  #: Height and width. `None`, here and below: unknown.
    channels: int | None = None
    mean: tuple[float, ...] | None = None  #: See `Classifier`, for pixels in [0, 1]; also for std.
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()  #: Their names, in the order of the logits; none: unknown.
    ids: tuple[str, ...] = ()  #: Other names of the same classes, e.g. n01440764; or none.

    def preset(self) -> dict[str, Any]:
        """All that is known of its images, as plain values, without the names of the classes."""
        known = asdict(self)
        return {key: known[key] for key in ("image_size", "channels", "mean", "std")}

    def described(self, taken: Sequence[str]) -> str:
        """One line that says which of its `preset()` are taken, by their names, and which classes it has."""
        words = {
            "image_size": f"images of {'x'.join(map(str, self.image_size or ()))} pixels",
            "channels": "grey" if self.channels == 1 else "RGB" if self.channels == 3 else f"{self.channels} channels",
            "mean": f"mean {_figures(self.mean)}",
            "std": f"std {_figures(self.std)}",
        }
        unknown = [name.replace("_", " ") for name in taken if getattr(self, name) is None]
        found = [words[name] for name in taken if getattr(self, name) is not None]
        if self.classes:
            shown = ", ".join(name.partition(",")[0] for name in self.classes[:SHOWN])
            found.append(f"{len(self.classes):,} classes ({shown}, ...)")
        line = f"model: {self.name}" + (f"; from its preset: {', '.join(found)}" if found else "")
        return line + (f"; it says nothing of {', '.join(unknown)}" if unknown else "")


def is_named(name: str) -> bool:
    """Whether a model is one of those that come with their weights; any other name with a colon is the user's own."""
    hub, colon, _ = name.partition(":")
    return bool(colon and hub in HUBS) or name.endswith(PROGRAM)


def find_named(name: str) -> NamedModel:
    """The model of that name, see the top of this file; its weights are not read yet.

    Weights come from the library's cache, or from the hub. Nothing that is loaded can run code of its own.

    Raises:
        ModelError: The library or the model is missing, the hub cannot be reached, or it is no image classifier.
    """
    from interpretgan.models import exported, hubs

    if name.endswith(PROGRAM):
        return exported.find_program(Path(name).expanduser())
    hub, _, rest = name.partition(":")
    if not rest:
        do = "see the table of models in the documentation"
        raise ModelError(expected=f"the name of a model after {hub}:", got="none", do=do)
    finder = {"hf": hubs.find_transformers, "timm": hubs.find_timm, "torchvision": hubs.find_torchvision}[hub]
    return finder(rest, library(hub))


def absolute(name: str) -> str:
    """The name of a model that is right from any folder."""
    hub, colon, rest = name.partition(":") if ":" in name else ("", "", name)
    # As in `hubs`: without a slash it is a name on the hub, also where a folder is called the same.
    a_path = not hub or (hub != "torchvision" and ("/" in rest or rest.startswith((".", "~"))))
    there = is_named(name) and a_path and Path(rest).expanduser().exists()
    return f"{hub}{colon}{Path(rest).expanduser().absolute()}" if there else name


def library(hub: str) -> Any:
    """The library of a hub; a `ModelError` where it is not installed or does not import."""
    package = HUBS[hub]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        do = f"pip install '.[{hub}]' in a clone"
        raise ModelError(expected=f"the package {package} for {hub}:NAME", got=in_a_line(error), do=do) from error
    except Exception as error:  # a library that was built for another torch raises anything
        expected, got = f"the package {package}, built for torch {torch.__version__}", in_a_line(error)
        raise ModelError(expected=expected, got=got, do=f"install torch and {package} from one index") from error


@contextmanager
def loading(name: str, fetch: str) -> Iterator[None]:
    """Around a library's own loading: no pickles that run code, and whatever it raises as one line, a `ModelError`.

    `fetch` says how to get the weights where there is no network.
    """
    given = os.environ.get(FORCE_SAFE)
    os.environ[FORCE_SAFE] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a library, about its own parts
            yield
    except InterpretGANError:
        raise
    except Exception as error:  # each library has its own
        raise _told(error, name, fetch) from error
    finally:
        if given is None:
            del os.environ[FORCE_SAFE]
        else:
            os.environ[FORCE_SAFE] = given


def _told(error: BaseException, name: str, fetch: str) -> ModelError:
    chain, cause = [error], error
    while (before := cause.__cause__ or cause.__context__) is not None and before not in chain:
        chain.append(cause := before)
    kinds = {base.__name__ for each in chain for base in type(each).__mro__}
    text = " ".join(map(str, chain))
    if "trust_remote_code" in text:
        do = "read that code, and import the model in a function of your own: --model package.module:factory"
        return ModelError(expected=f"a model of the library's own code as {name}", got="one that brings code", do=do)
    if any(isinstance(each, pickle.UnpicklingError) for each in chain) or "weights_only" in text:
        do = "choose other weights, best of all .safetensors"
        return ModelError(expected=f"weights of tensors alone for {name}", got="a file that may run code", do=do)
    if "RepositoryNotFoundError" in kinds or "is not a valid model identifier" in text:
        expected, do = f"a public model of the name {name}", "check owner and name; log in first where it is private"
        return ModelError(expected=expected, got="none on the hub, nor a folder", do=do)
    if not kinds.isdisjoint(OFFLINE):
        got = "neither there: no network"
        return ModelError(expected=f"the weights of {name} in the cache or on the hub", got=got, do=fetch)
    return ModelError(expected=f"a model that loads as {name}", got=in_a_line(error), do="check its name and its files")


def _figures(values: Sequence[float] | None) -> str:
    return ",".join(f"{value:.4g}" for value in values or ())
