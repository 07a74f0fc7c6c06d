"""Scorers beyond the paper's: they compare a clip with the training clips of its machine."""
