"""Layers for a GPU between whose convolutions Triton's kernels compute."""
