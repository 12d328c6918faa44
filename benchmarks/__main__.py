"""Run every benchmark; the results go to results/benchmarks/."""

from __future__ import annotations

from benchmarks import shared_trunk

if __name__ == "__main__":
    shared_trunk.main()
