import pytest


@pytest.fixture(autouse=True)
def _sb3_logs_into_the_tests_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path / "sb3"))
