"""Mutated files for the readers of checkpoints and packed models: `python -m tools.fuzz`."""
