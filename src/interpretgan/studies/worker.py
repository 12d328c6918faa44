"""The process that makes one run: `python -m interpretgan.studies.worker FOLDER`, started by the executors."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from interpretgan.errors import InterpretGANError
from interpretgan.store.files import write_json
from interpretgan.store.processes import end_with_parent

REFUSED = 2
"""Exit status where the run cannot be made, and could not be on a second attempt."""


def main(folder: Path) -> int:
    """Make the run whose `spec.json` is in the folder, and write `result.json` there; its exit status."""
    from interpretgan.store.provenance import provenance
    from interpretgan.studies.job import execute, read_spec
    from interpretgan.studies.plan import MACHINE, spec_hash

    began = time.perf_counter()
    try:
        spec = read_spec(folder)
        result = execute(spec, folder, _say)
        made = provenance(spec["seed"], device=spec["settings"]["run"]["device"])
        record = {
            "schema": 1, "spec_sha256": spec_hash(spec), "result": result, "seconds": time.perf_counter() - began,
            "machine": {name: made[name] for name in MACHINE},
        }  # fmt: skip
        write_json(folder / "result.json", record)
    except InterpretGANError as error:
        _say(" ".join(str(error).split()))
        return REFUSED
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1])))
