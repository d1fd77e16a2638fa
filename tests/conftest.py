"""Puts this folder, with `fake_envs.py`, on the import path of all tests."""
