"""Programs for developers: benchmarks, training, fuzzing, stress. Run them as python -m tools.NAME."""
