"""A real training step as the consumer (`--accelerator train:MODEL`): models, the step, evaluation. Torch is imported where it is used, never on import."""
