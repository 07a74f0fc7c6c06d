"""From the Hydra configuration to checked objects; what a run keeps of it."""
