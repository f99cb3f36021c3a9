"""The engine against a plain NumPy reference in float64."""
