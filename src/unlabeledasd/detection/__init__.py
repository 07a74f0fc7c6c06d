"""Use a trained run: load it, score recordings."""
