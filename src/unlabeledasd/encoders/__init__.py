"""Embeddings without training: spectral statistics, pretrained encoders; LoRA trains the latter."""
