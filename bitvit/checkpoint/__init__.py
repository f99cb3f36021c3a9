"""Training checkpoints: from a file that anyone may have written to a checked state dict and its Config."""
