"""Run the benchmarks of speed and of intervals; the results go to results/benchmarks/."""

from __future__ import annotations

from benchmarks import coverage, robust_training, smooth_profiles

if __name__ == "__main__":
    robust_training.main()
    coverage.main()
    smooth_profiles.main()
