import pytest

from defm_rl.encoders import inference


@pytest.fixture(autouse=True)
def _sb3_logs_into_the_tests_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path / "sb3"))


@pytest.fixture
def untraced(monkeypatch):
    """Encoders without traced graphs, which take longer to make than a test with several encoders does otherwise."""
    monkeypatch.setattr(inference, "_trace", lambda function, *size: function)
