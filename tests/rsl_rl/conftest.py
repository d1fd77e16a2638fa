import pytest
import torch

from defm_rl.encoders import inference


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads of operations this small wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _untraced(monkeypatch):
    """Encoders without traced graphs, which take longer to make than these tests do otherwise."""
    monkeypatch.setattr(inference, "_trace", lambda function, *size: function)
