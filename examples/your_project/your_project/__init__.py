"""A task, an encoder, a sensor and an experiment for defm-rl."""
