"""Many callers, faults and long runs: `python -m tools.stress`."""
