"""The configuration tree, read by Hydra."""
