"""mjlab's tests run where it is installed (`make test-mjlab`); elsewhere they are not collected."""

import importlib.metadata
import os

import pytest

os.environ.setdefault("MJLAB_WARP_QUIET", "1")

try:
    importlib.metadata.version("mjlab")
except importlib.metadata.PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Simulation and policies are small here: threads would mostly wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def wall():
    """Three cameras that slide towards a wall, with features and images among their observations."""
    from depth_scene import make

    env = make()
    env.reset(seed=0)
    yield env
    env.close()
