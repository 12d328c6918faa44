"""Results as records: dataclasses that are kept in a JSON file each, every value of which is checked as it is read."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

from interpretgan.errors import RunFolderError
from interpretgan.store.files import read_json, write_json

SCHEMA = 2


class Record:
    """Base of a frozen dataclass that is kept in a JSON file; `save` and `load` are inverse."""

    file_name: ClassVar[str]  #: Of its file in a folder.

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}  # type: ignore[call-overload]  # of a dataclass only

    def save(self, path: str | Path) -> Path:
        """Write a file that ends in .json, or `file_name` in a folder, atomically (else `RunFolderError`); its path."""
        write_json(file := self._file(path), self.to_dict())
        return file

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the file, or that in a folder; a `RunFolderError` where it is missing, damaged or of another schema."""
        from pydantic import TypeAdapter, ValidationError

        file = cls._file(path)
        value, expected = read_json(file), f"a {cls.__name__} of schema {SCHEMA} in {file}"
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA:
            raise RunFolderError(expected=expected, got=f"schema {schema}", do=f"make {file.name} again")
        try:
            found = TypeAdapter(cls).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            got = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise RunFolderError(expected=expected, got=got, do=f"make {file.name} again") from error
        if problem := found.problem():
            raise RunFolderError(expected=expected, got=problem, do=f"make {file.name} again")
        return found

    def problem(self) -> str:
        """What is missing or wrong that types do not show; empty: nothing."""
        return ""

    @classmethod
    def _file(cls, path: str | Path) -> Path:
        path = Path(path)
        return path if path.suffix == ".json" else path / cls.file_name
