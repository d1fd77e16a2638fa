"""Isaac Lab's tests run where it is installed (`make test-isaaclab`); elsewhere they are not collected."""

import importlib.metadata

import pytest

try:
    importlib.metadata.version("isaaclab")
except importlib.metadata.PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Simulation and policies are small here: threads would mostly wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def wall():
    """Four rovers that look at a wall, with features and images among their observations."""
    from depth_tasks import WallEnvCfg, make

    with make(WallEnvCfg()) as env:
        env.reset(seed=0)
        yield env
