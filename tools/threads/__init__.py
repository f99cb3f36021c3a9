"""The protocol of a team of threads as a model, which the model checker spin goes through: see README.md."""
