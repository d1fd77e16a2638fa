"""The whole scripts in the documents run as they stand there, one after the other in one folder, but shorter."""

import re
import runpy
import sys

import pytest
from documents import scripts, shortened

SHORT = {"STEPS": 16, "NUM_ENVS": 2, "EPISODES": 2, "BUFFER_SIZE": 100, "LEARNING_STARTS": 8}
SETTINGS_OF_PPO = {"n_steps=128": "n_steps=8", "batch_size=512": "batch_size=16"}


@pytest.mark.usefixtures("without_hub")
@pytest.mark.parametrize("document", ["docs/sb3.md"])
def test_scripts_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    found = scripts(document)
    assert found
    for name, script in found.items():
        short = shortened(script, SHORT)
        assert not re.search(r"^[A-Z_]+ = \d+_000$", short, flags=re.MULTILINE), f"{name} takes its time: add to SHORT"
        for written, smaller in SETTINGS_OF_PPO.items():
            short = short.replace(written, smaller)
        (tmp_path / name).write_text(short)
        runpy.run_path(name, run_name="__main__")
    for name in found:
        sys.modules.pop(name.removesuffix(".py"), None)
