"""Configurations of trainers for the tasks: RSL-RL's as classes, the others' as files."""
