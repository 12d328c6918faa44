"""Performance claims, each measured in one run beside the peak of the machine. `python -m benchmarks` runs them all."""
