"""Benchmarks of Headrace beside its peers: `python -m benchmarks.throughput` and `.latency`.

They run from a checkout, not from an installed package: see docs/benchmarks.md.
"""
