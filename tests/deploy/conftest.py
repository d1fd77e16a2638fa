import numpy as np
import pytest
import tiny
import torch

from defm_rl.encoders import inference


@pytest.fixture
def untraced(monkeypatch):
    """Encoders without traced graphs, which take longer to make than these tests do otherwise."""
    monkeypatch.setattr(inference, "_trace", lambda function, *size: function)


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("tiny") / "policy.onnx")


@pytest.fixture(scope="session")
def remembering(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("tiny") / "policy.onnx", memory=True)


@pytest.fixture
def frame():
    return np.random.default_rng(0).uniform(1, 3, (tiny.HEIGHT, tiny.WIDTH)).astype(np.float32)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
