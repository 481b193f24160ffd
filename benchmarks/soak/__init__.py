"""Half an hour at half the drain rate: `python -m benchmarks.soak`."""
