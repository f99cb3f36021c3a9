"""Mutation testing: `python -m tools.mutants`, see its __main__."""
