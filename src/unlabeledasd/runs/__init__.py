"""A run on disk: its folder, lock, state, checkpoints and training."""
