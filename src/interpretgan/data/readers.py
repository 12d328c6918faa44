"""Where encoded images come from: parquet files, the public hub, folders of images."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from interpretgan.errors import DataError, in_a_line

Example = tuple[bytes, int, str]  #: Encoded image, label, and where it came from (for messages).

DATA_VARIABLE = "INTERPRETGAN_DATA"
SPLITS = ("train", "test")
HUB_SETS = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}
NAMES = ("digits", *HUB_SETS)
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
TEST_SHARE = 0.2
BATCH = 1024  #: Encoded images that are held at a time while a set is read.


@dataclass(frozen=True)
class Source:
    """Encoded images that can be read in a stream."""

    name: str
    split: str
    classes: tuple[str, ...]
    count: int  #: How many images there are.
    origin: str  #: Which files, for people.
    fingerprint: str  #: Changes when the files do.
    examples: Callable[[], Iterator[Example]]  #: Reads them from the start.
    reference: bytes | None = None  #: The image that sets size and colour. `None`: the first example.


def find_source(name: str, split: str, data_dir: str | Path | None) -> Source:
    """The source of `mnist`, `cifar10` or a folder; `DataError` for an unknown name and missing or damaged files."""
    if name in HUB_SETS:
        folder = data_dir or os.environ.get(DATA_VARIABLE)
        return _parquet_source(name, split, Path(folder)) if folder else _hub_source(name, split)
    if Path(name).is_dir():
        return _folder_source(name, split)
    nearest = get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
    expected = f"data named {', '.join(NAMES)}, or an existing folder of images"
    do = f"did you mean {nearest[0]}?" if nearest else "check the name or the path"
    raise DataError(expected=expected, got=repr(name), do=do)


def _parquet_source(name: str, split: str, data_dir: Path) -> Source:
    import pyarrow.parquet as pq

    folder = data_dir / name
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        got = "no such file" if folder.is_dir() else f"no folder {folder}"
        do = f"name the folder above {name}/ in data_dir or {DATA_VARIABLE}, or unset both to use the hub"
        raise DataError(expected=f"parquet files {folder / split}-*.parquet", got=got, do=do)
    count, hashes = 0, []
    for file in files:
        with _readable(file), file.open("rb") as stream:
            count += pq.ParquetFile(file).metadata.num_rows
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    with _readable(files[0]):
        schema = pq.ParquetFile(files[0]).schema_arrow
    columns = [column for column in ("image", "img") if column in schema.names]
    if not columns or "label" not in schema.names:
        got = f"{', '.join(schema.names) or 'none'} in {files[0]}"
        raise DataError(expected="columns image (or img) and label", got=got, do="rename the columns")

    def examples() -> Iterator[Example]:
        for file in files:
            with _readable(file):
                for rows in pq.ParquetFile(file).iter_batches(BATCH, columns=[columns[0], "label"]):
                    images, labels = rows.column(0).to_pylist(), rows.column(1).to_pylist()
                    for image, label in zip(images, labels, strict=True):
                        data = image.get("bytes") if isinstance(image, dict) else image
                        yield data or b"", -1 if label is None else int(label), str(file)

    classes = _class_names(schema.metadata) or tuple(map(str, range(10)))
    return Source(name, split, classes, count, ", ".join(file.name for file in files), hash_of(hashes), examples)


def _class_names(metadata: dict[bytes, bytes] | None) -> tuple[str, ...]:
    """The class names that the `datasets` library leaves in a parquet file; empty if it did not."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"])
    except (KeyError, ValueError, TypeError):
        return ()


def _hub_source(name: str, split: str) -> Source:
    hub = HUB_SETS[name]
    remedy = f"set {DATA_VARIABLE} to a folder with {name}/{split}-*.parquet, or "
    try:
        import datasets
    except ImportError as error:
        expected = f"a data directory, or the optional package datasets to fetch {name} from the public hub"
        do = remedy + "install the extra hub: pip install '.[hub]' in a clone"
        raise DataError(expected=expected, got="neither", do=do) from error
    try:
        rows = datasets.load_dataset(hub, split=split)
        column = "image" if "image" in rows.column_names else "img"
        classes = tuple(rows.features["label"].names)
        rows = rows.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # the hub client raises errors of several libraries
        got, do = in_a_line(error), remedy + "connect to the network"
        raise DataError(expected=f"the public hub to hand over {hub}", got=got, do=do) from error

    def examples() -> Iterator[Example]:
        for row in rows:
            yield row[column]["bytes"] or b"", int(row["label"]), hub

    return Source(name, split, classes, len(rows), f"{hub} on the public hub", str(rows._fingerprint), examples)


def _folder_source(name: str, split: str) -> Source:
    root = Path(name)
    if (root / "train").is_dir():
        parts = {part: _files_by_class(root / part) for part in SPLITS}
        everything, chosen = parts["train"], parts[split]
    else:
        everything = _files_by_class(root)
        chosen = {label: _fixed_part(files, root, split) for label, files in everything.items()}
    classes = tuple(sorted(everything))
    if len(classes) < 2:
        expected = "train/<class>/* and test/<class>/*, or <class>/*, with at least two classes of images"
        do = "put the images of each class in a folder of its own"
        raise DataError(expected=expected, got=f"{len(classes)} in {root}", do=do)
    unknown = sorted(set(chosen) - set(classes))
    if unknown:
        expected, do = f"classes in {root / split} that occur in {root / 'train'}", "add training images, or remove it"
        raise DataError(expected=expected, got=f"{unknown[0]!r}", do=do)
    files = [(file, classes.index(label)) for label, files in chosen.items() for file in files]
    files.sort(key=lambda item: _shuffled(item[0], root))  # so that any prefix has all classes
    if not files:
        raise DataError(expected=f"images in the {split} split of {root}", got="none", do="add images to it")
    stats = [(file.relative_to(root).as_posix(), file.stat()) for file, _ in files]
    reference_file = min(file for files in everything.values() for file in files)
    with _readable(reference_file):
        reference = reference_file.read_bytes()

    def examples() -> Iterator[Example]:
        for file, label in files:
            with _readable(file):
                yield file.read_bytes(), label, str(file)

    known = [str(root.resolve()), *classes, hashlib.sha256(reference).hexdigest()]
    fingerprint = hash_of([*known, *(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)])
    origin = f"{len(files):,} images in {root.name}/"
    return Source(name, split, classes, len(files), origin, fingerprint, examples, reference)


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Image files by the name of their folder; folders without any are left out."""
    if not folder.is_dir():
        do = "provide both train/<class>/* and test/<class>/*, or <class>/* alone"
        raise DataError(expected=f"a folder {folder} with one folder per class", got="no such folder", do=do)
    found = {}
    for part in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = sorted(f for f in part.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
        if files:
            found[part.name] = files
    return found


def _shuffled(file: Path, root: Path) -> str:
    """A key that sorts files in a random but fixed order."""
    return hash_of([file.relative_to(root).as_posix()])


def _fixed_part(files: list[Path], root: Path, split: str) -> list[Path]:
    """A fifth of the files for the test split, the rest for training, chosen by a hash of the name."""
    ranked = sorted(files, key=lambda file: _shuffled(file, root))
    test = max(1, round(TEST_SHARE * len(files))) if len(files) > 1 else 0
    return ranked[:test] if split == "test" else ranked[test:]


@contextmanager
def readable(expected: str, got: str, kinds: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
    """Turns what libraries and the system raise on broken data into a `DataError`."""
    try:
        yield
    except kinds as error:
        problem = f"{got} ({in_a_line(error)})"
        raise DataError(expected=expected, got=problem, do="fetch or copy it again") from error


def _readable(file: Path) -> AbstractContextManager[None]:
    broken = (OSError, ValueError, KeyError)  # pyarrow.ArrowInvalid is a ValueError
    return readable(f"a complete file {file}", "one that cannot be read", broken)


def hash_of(parts: Iterable[str]) -> str:
    """SHA-256 of a list of strings, in hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
