"""Experiments: train, evaluate, and what they leave behind."""
