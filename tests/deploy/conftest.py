import numpy as np
import pytest
import tiny


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("tiny") / "policy.onnx")


@pytest.fixture(scope="session")
def remembering(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("tiny") / "policy.onnx", memory=True)


@pytest.fixture
def frame():
    return np.random.default_rng(0).uniform(1, 3, (tiny.HEIGHT, tiny.WIDTH)).astype(np.float32)
