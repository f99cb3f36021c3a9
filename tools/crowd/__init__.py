"""Many callers, faults and long runs: `python tools/stress.py`."""
