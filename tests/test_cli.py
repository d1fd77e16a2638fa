"""The command `defm-rl`: its table, and what it hands on to the experiments."""

import importlib.metadata
import subprocess
import sys
import types

import pytest

from defm_rl import cli
from defm_rl.encoders import list_encoders


def test_encoders_are_an_aligned_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["encoders"]) == 0
    table, _, note = capsys.readouterr().out.partition("\n\n")
    header, rule, *rows = table.splitlines()
    assert [row.split()[0] for row in rows] == [card.name for card in list_encoders()]
    assert len({len(line) for line in (header, rule, *rows)}) == 1
    resnet18 = next(row for row in rows if row.startswith("defm_resnet18"))
    assert " ".join(resnet18.split()) == "defm_resnet18 11.7 512 P3 128, P4 256, P5 512 128 21.06 8.67 70.93 51.57"
    vit = next(row for row in rows if row.startswith("defm_vit_s14"))
    assert " ".join(vit.split()) == "defm_vit_s14 21.6 384 P14 384 - 63.76 11.92 79.37 62.74"
    assert "Published figures, from the README of defm 1.1.0" in note


@pytest.mark.slow
def test_encoders_need_none_of_the_extras() -> None:
    script = (
        "import sys\n"
        "for name in ('hydra', 'gymnasium', 'stable_baselines3', 'mujoco', 'matplotlib', 'wandb', 'scipy', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "from defm_rl import cli\n"
        "assert cli.main(['encoders']) == 0\n"
        "sys.exit(cli.main(['train', 'experiment=quickstart']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert "defm_resnet18" in done.stdout
    assert done.returncode == 1
    assert done.stderr.startswith("defm-rl train needs ")
    assert done.stderr.endswith("which is not installed: pip install 'defm-rl[experiments]'\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_experiments_get_the_rest_of_the_line_untouched(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[list[str]] = []
    module = types.ModuleType(f"defm_rl.commands.{command}")
    module.main = lambda rest: received.append(rest) or 7  # type: ignore[attr-defined, func-returns-value]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    rest = ["--help", "-m", "seed=1,2", "+x={a: [1, 2]}", "encoders"]
    assert cli.main([command, *rest]) == 7
    assert received == [rest]


@pytest.mark.parametrize(("wrong", "says"), [("trian", "did you mean 'train'?"), ("xyz", "encoders, train, evaluate")])
def test_unknown_commands_get_a_suggestion(wrong: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([wrong, "a=1"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"unknown command {wrong!r}" in error
    assert says in error


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    output = capsys.readouterr().out
    assert "encoders" in output
    assert "train" in output
    assert "evaluate" in output


def test_the_command_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="defm-rl")
    with pytest.raises(SystemExit) as caught:
        command.load()(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"defm-rl {importlib.metadata.version('defm-rl')}\n"
