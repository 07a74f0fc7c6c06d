"""Layers for a GPU whose steps, and some convolutions, are Triton's kernels."""
