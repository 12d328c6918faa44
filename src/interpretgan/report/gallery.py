"""The gallery of a run: many images and what every layer shows of them, small enough for one page with filters."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from interpretgan.data import class_name
from interpretgan.data.pictures import Bytes, picture
from interpretgan.errors import ConfigError, RunFolderError, kind_of
from interpretgan.interpreter import Explanation, turn_rows
from interpretgan.statistics import Integers
from interpretgan.store.files import read_arrays, write_arrays

IMAGES = 96  #: In a gallery, at most,
CELLS = 5_000  #: and so many pictures, of which a network of many layers has many an image,
LARGEST = 3 * 2**20  #: and so many bytes of them on the page.
SIDE = 48  #: Larger pictures are reduced to this many pixels.
BLOCK = 8  #: Pixels a side of the blocks of a JPEG file: no block has two pictures.
QUALITY = 88  #: Of the JPEG files.
NONE = "none"  #: Where nothing turns.


@dataclass(frozen=True, eq=False)
class Gallery:
    """What `L` layers show of `N` images, natural and attacked, as small pictures with the judge's predictions."""

    layers: tuple[str, ...]
    indices: Integers  #: Numbers of the test images `[N]`.
    labels: Integers  #: True classes `[N]`.
    natural_predictions: Integers  #: Of the judge, `[L + 1, N]`; row 0 is the image itself.
    adversarial_predictions: Integers  #: The same for the attacked images.
    natural: Bytes  #: Pictures `[N, L + 1, h, w, 1 or 3]`.
    adversarial: Bytes  #: Of the attacked images.

    @classmethod
    def of(cls, explanations: Sequence[Explanation]) -> Self:
        """The gallery of some explanations of the same layers, each with numbers, labels and all predictions."""
        arrays: dict[str, list[Any]] = defaultdict(list)
        for one in explanations:
            for name in ("indices", "labels", "natural_predictions", "adversarial_predictions"):
                tensor = getattr(one, name)
                if tensor is None:
                    do = "call explain(images, adversarial, labels=..., judge=..., indices=...)"
                    raise ConfigError(expected=f"explanations with {name}", got="none", do=do)
                arrays[name].append(tensor.cpu().numpy())
            for kind, images in (("natural", one.images), ("adversarial", one.adversarial)):
                drawn = getattr(one, f"{kind}_explanations")
                both = np.concatenate([images[None].cpu().numpy(), drawn.cpu().numpy()])  # type: ignore[index]  # its turns refused None
                arrays[kind].append(_small(both, one.bounds))
        joined = {
            name: np.concatenate(parts, axis=-1 if "predictions" in name else 0) for name, parts in arrays.items()
        }
        return cls(layers=explanations[0].layers, **joined)

    def save(self, path: str | Path) -> None:
        """Write it to one compressed .npz."""
        write_arrays(path, {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; a `RunFolderError` where the file is missing, damaged or something else."""
        arrays, names = read_arrays(path, "a gallery"), [field.name for field in fields(cls)]
        do = "delete it, or run the diagnosis again"
        if missing := [name for name in names if name not in arrays]:
            raise RunFolderError(expected=f"a gallery in {path}", got=f"no {', '.join(missing)}", do=do)
        count, columns = arrays["labels"].size, 1 + arrays["layers"].size
        shapes: dict[str, tuple[int, ...]] = {"layers": (columns - 1,), "labels": (count,), "indices": (count,)}
        shapes |= dict.fromkeys(("natural_predictions", "adversarial_predictions"), (columns, count))
        for name in names:
            array, kind = arrays[name], "U" if name == "layers" else "u" if name in ("natural", "adversarial") else "iu"
            fits = array.shape == shapes[name] if name in shapes else _are_pictures(array, count, columns)
            same = name != "adversarial" or array.shape == arrays["natural"].shape
            if not (fits and same and array.size and array.dtype.kind in kind and (kind == "U" or array.min() >= 0)):
                raise RunFolderError(expected=f"a gallery in {path}", got=f"{name} of {kind_of(array)}", do=do)
        return cls(layers=tuple(map(str, arrays["layers"])), **{name: arrays[name] for name in names[1:]})

    @property
    def turns(self) -> list[str | None]:
        """The layer where each image turns, as `Explanation.turns`."""
        names = ("image", *self.layers)
        rows = turn_rows(self.labels, self.natural_predictions, self.adversarial_predictions)
        return [None if row < 0 else names[row] for row in rows]


def varied(labels: Integers, natural: Integers, adversarial: Integers, count: int = IMAGES) -> list[int]:
    """Which of `N` images a gallery takes, in their order: of as many classes, changes and turns as there are.

    `labels` are `[N]`, the judge's predictions `[L + 1, N]`. Of each true class, class that is shown, and layer where
    the image turns, it takes the first image, then of each the second, and so on, the commonest first.
    """
    count = max(1, min(count, CELLS // (2 * len(natural))))
    rows, alike = turn_rows(labels, natural, adversarial), defaultdict(list)
    for image, row in enumerate(rows.tolist()):
        into = int(adversarial[row, image]) if row >= 0 else -1
        alike[int(labels[image]), row, into].append(image)
    groups = sorted(alike.values(), key=len, reverse=True)
    rounds = [image for each in zip_longest(*groups) for image in each if image is not None]
    return sorted(rounds[:count])


def telling(labels: Integers, natural: Integers, adversarial: Integers, model: Integers, count: int) -> list[int]:
    """Which of `N` images show most, at most `count`, one a class: such as the attack turns, predicted right before.

    `model` are the classifier's own predictions `[2 or more, N]`, natural and attacked.
    """
    clear = (natural == labels).all(axis=0) & (adversarial[0] == labels) & (model[0] == labels)
    fooled = model[1] != labels
    # Best first: fooled and clear, then fooled at all, then the rest.
    order = np.argsort(-(2 * (fooled & clear) + fooled), kind="stable")
    chosen: dict[int, int] = {}
    for index in order:
        chosen.setdefault(int(labels[index]), int(index))
    return list(chosen.values())[:count]


def on_the_page(gallery: Gallery, classes: Sequence[str]) -> dict[str, Any]:
    """What the template shows: images with their strips of pictures, as many as weigh `LARGEST` bytes, and filters."""
    height, width = gallery.natural.shape[2:4]
    tile, images, weight = (_whole(height), _whole(width)), list[dict[str, Any]](), 0
    for row, turn in enumerate(gallery.turns):
        pictures = np.stack([gallery.natural[row], gallery.adversarial[row]])
        strip = _strip(pictures, tile)
        weight += len(strip)
        if images and weight > LARGEST:
            break
        true = class_name(int(gallery.labels[row]), classes)
        predictions = {
            kind: [class_name(int(number), classes) for number in getattr(gallery, f"{kind}_predictions")[:, row]]
            for kind in ("natural", "adversarial")
        }
        at = None if turn is None else ("image", *gallery.layers).index(turn)
        images.append(
            {
                "number": int(gallery.indices[row]), "label": true, "turn": turn or NONE, "strip": strip,
                "into": NONE if at is None else predictions["adversarial"][at], "rows": predictions,
            }
        )  # fmt: skip
    names = [*classes, *sorted({image[key] for image in images for key in ("label", "into")} - {*classes, NONE})]
    orders = {"label": names, "into": [*names, NONE], "turn": ["image", *gallery.layers, NONE]}
    counts = {key: Counter(image[key] for image in images) for key in orders}
    return {
        "images": images, "of": len(gallery.labels), "columns": ("image", *gallery.layers),
        "filters": {key: [(name, counts[key][name]) for name in order if counts[key][name]]
                    for key, order in orders.items()},
        "ratio": f"{width}/{height}", "wide": tile[1] / width, "high": tile[0] / width,
        "size": (100 * gallery.natural.shape[1] * tile[1] / width, 200 * tile[0] / height),
    }  # fmt: skip


def _small(images: npt.NDArray[Any], bounds: tuple[float, float]) -> Bytes:
    """Images `[L + 1, N, C, H, W]` as pictures `[N, L + 1, h, w, C]`, no side above `SIDE`."""
    found = []
    for image in images.swapaxes(0, 1).reshape(-1, *images.shape[2:]):
        small = Image.fromarray(picture(image, bounds))
        small.thumbnail((SIDE, SIDE))
        found.append(np.asarray(small)[..., : 1 if len(image) == 1 else 3])
    return np.stack(found).reshape(images.shape[1], images.shape[0], *found[0].shape)


def _strip(pictures: Bytes, tile: tuple[int, int]) -> str:
    """Two rows of pictures `[2, K, h, w, C]` as the address of one JPEG, each in a tile that its edge fills."""
    spare = [
        (0, 0),
        (0, 0),
        *((0, whole - side) for whole, side in zip(tile, pictures.shape[2:4], strict=True)),
        (0, 0),
    ]
    tiles = np.pad(pictures, spare, mode="edge")
    sheet = tiles.transpose(0, 2, 1, 3, 4).reshape(2 * tile[0], -1, tiles.shape[-1])
    buffer = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(
        buffer, "JPEG", quality=QUALITY, subsampling=0
    )
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _whole(side: int) -> int:
    return -(-side // BLOCK) * BLOCK


def _are_pictures(array: npt.NDArray[Any], count: int, columns: int) -> bool:
    return array.ndim == 5 and array.shape[:2] == (count, columns) and array.shape[4] in (1, 3)
