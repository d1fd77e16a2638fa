"""Puts this folder, with `fake_envs.py` and `hub_server.py`, on the import path of all tests; threads; sweeps."""

import os
from collections import Counter

import pytest

# Before PyTorch is imported, and for processes of the tests' own: its threads wait for each other after each of the
# tests' small operations, and take up to 25 times as long as one on a busy machine. Tests of threads set their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of `@pytest.mark.sweep(n)`'s cases every n-th is for all runs of the tests; the others are slow.

    An n that shares no factor with the lengths of the parameters' lists gives each of their values its turn.
    """
    cases: Counter[str] = Counter()
    for item in items:
        sweep = item.get_closest_marker("sweep")
        if sweep is None:
            continue
        test = item.nodeid.partition("[")[0]
        if cases[test] % sweep.args[0]:
            item.add_marker(pytest.mark.slow)
        cases[test] += 1


@pytest.fixture
def untraced(monkeypatch):
    """Encoders without traced graphs, which take longer to make than a test with several encoders does otherwise."""
    from defm_rl.encoders import inference

    monkeypatch.setattr(inference, "_trace", lambda function, *size: function)


@pytest.fixture
def without_hub(monkeypatch, untraced):
    """Random weights in the place of the published ones, and no traced graphs, for the sake of time."""
    import defm_rl
    from defm_rl import defm
    from defm_rl.encoders import depth_encoder, zoo

    def load_random(name, weights="hub", **settings):
        return zoo.load_encoder(name, "random")

    monkeypatch.setattr(depth_encoder, "load_encoder", load_random)
    monkeypatch.setattr(defm_rl, "load_encoder", load_random)
    monkeypatch.setattr(defm, "load_encoder", load_random)
