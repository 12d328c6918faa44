"""Where encoded images come from: parquet files and the public hub; for folders of images see `folders`."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    #: Images that decide on size and colour, those of both splits. `None`: the examples.
    files: Sequence[Path] | None = None


def named_source(name: str, split: str, data_dir: str | Path | None) -> Source:
    """The source of `mnist` or `cifar10`; a `DataError` for an unknown name and missing or damaged files."""
    if name in HUB_SETS:
        folder = data_dir or os.environ.get(DATA_VARIABLE)
        return _parquet_source(name, split, Path(folder)) if folder else _hub_source(name, split)
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
        with readable_file(file), file.open("rb") as stream:
            count += pq.ParquetFile(file).metadata.num_rows
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    with readable_file(files[0]):
        schema = pq.ParquetFile(files[0]).schema_arrow
    columns = [column for column in ("image", "img") if column in schema.names]
    if not columns or "label" not in schema.names:
        got = f"{', '.join(schema.names) or 'none'} in {files[0]}"
        raise DataError(expected="columns image (or img) and label", got=got, do="rename the columns")

    def examples() -> Iterator[Example]:
        for file in files:
            with readable_file(file):
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


@contextmanager
def readable(expected: str, got: str, kinds: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
    """Turns what libraries and the system raise on broken data into a `DataError`."""
    try:
        yield
    except kinds as error:
        problem = f"{got} ({in_a_line(error)})"
        raise DataError(expected=expected, got=problem, do="fetch or copy it again") from error


def readable_file(file: Path) -> AbstractContextManager[None]:
    """`readable` for a file that is read whole or in parts."""
    broken = (OSError, ValueError, KeyError)  # pyarrow.ArrowInvalid is a ValueError
    return readable(f"a complete file {file}", "one that cannot be read", broken)


def hash_of(parts: Iterable[str]) -> str:
    """SHA-256 of a list of strings, in hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
