"""Hydra's way to find plugins; whatever they need is imported when they are used."""
