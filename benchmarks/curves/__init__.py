"""How the cost grows with waiting tasks, queues and workers: `python -m benchmarks.curves`."""
