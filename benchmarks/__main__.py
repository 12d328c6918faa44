"""Run the benchmarks of speed; the results go to results/benchmarks/."""

from __future__ import annotations

from benchmarks import robust_training, shared_trunk

if __name__ == "__main__":
    robust_training.main()
    shared_trunk.main()
