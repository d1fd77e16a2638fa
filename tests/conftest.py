"""Puts this folder, with `fake_envs.py` and `documents.py`, on the import path of all tests."""

import pytest


@pytest.fixture
def without_hub(monkeypatch):
    """Random weights in the place of the published ones, and no traced graphs, for the sake of time."""
    import defm_rl
    from defm_rl.encoders import depth_encoder, inference, zoo

    def load_random(name, weights="hub", **settings):
        return zoo.load_encoder(name, "random")

    monkeypatch.setattr(depth_encoder, "load_encoder", load_random)
    monkeypatch.setattr(defm_rl, "load_encoder", load_random)
    monkeypatch.setattr(inference, "_trace", lambda function, *size: function)
