from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from interpretgan.store.files import read_json, write_json
from interpretgan.store.provenance import provenance


def test_provenance_is_json_and_complete(tmp_path: Path) -> None:
    record = provenance(3)
    write_json(tmp_path / "provenance.json", record)
    assert read_json(tmp_path / "provenance.json") == record
    assert set(record) == {"version", "seed", "versions", "device", "processor", "threads", "created"}
    assert record["seed"] == 3
    assert all(record["versions"][name] for name in ("python", "torch", "numpy", "foolbox"))
    assert record["created"].endswith("+00:00")
    assert record["processor"]


def test_provenance_does_not_import_what_it_names() -> None:
    code = (
        "import sys; from interpretgan.store.provenance import provenance; provenance(0);"
        "print([name for name in ('foolbox', 'sklearn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
