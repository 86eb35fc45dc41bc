"""Faults that runs survive, and machines that agree, as numbers: `python -m benchmarks.reliability`."""
