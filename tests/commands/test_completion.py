"""What Tab offers is what the commands take, and comes fast enough not to be noticed."""

import os
import pty
import resource
import select
import shutil
import subprocess
import sys
import time

import pytest

from defm_rl import cli, list_encoders
from defm_rl.commands import adapt, evaluate
from defm_rl.commands import completion as command
from defm_rl.commands.completion import words
from defm_rl.commands.experiment_settings import keys
from defm_rl.experiments.config import group_options, known_keys
from defm_rl.sensors import list_sensors


def test_commands_and_their_keys():
    assert words("defm-rl ev") == ["evaluate"]
    assert set(cli._COMMANDS) <= set(words("defm-rl "))
    assert words("defm-rl evaluate runs/a ") == sorted(f"{key}=" for key in keys(evaluate.Settings))
    assert {f"{key}=" for key in keys(adapt.Settings)} < set(words("defm-rl adapt "))
    assert words("defm-rl no_such ") == []


def test_keys_of_experiments_are_all_of_them():
    offered = {word.rstrip("=") for word in words("defm-rl train ")}
    not_offered = set(known_keys()) - offered
    assert {key for key in not_offered if not key.startswith(("hydra.", "env.randomization"))} == set()


def test_values():
    assert words("defm-rl train experiment=") == [f"experiment={name}" for name in group_options("experiment")]
    assert words("defm-rl train -m encoder=vi") == ["encoder=vit_s14"]
    assert words("defm-rl adapt RUN sensors=[ideal,zed") == ["sensors=[ideal,zedx"]
    assert {f"sensors={name}" for name in list_sensors()} < set(words("defm-rl evaluate RUN sensors="))
    published = [card.name for card in list_encoders() if card.name.startswith("defm_")]
    assert set(published) < set(words("defm-rl export-encoder "))
    assert words("defm-rl evaluate RUN parts=t") == ["parts=true"]


def test_a_tab_imports_no_torch_and_is_fast():
    script = "import sys; from defm_rl import cli; cli.main(['completion', 'words', 'defm-rl train ']); "
    check = "sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script + check], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime - before.ru_utime < 0.5  # of the processor: 0.15 s, which a busy machine may double


@pytest.mark.parametrize(("shell", "check"), [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_the_scripts_are_scripts(shell, check, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    done = subprocess.run([shell, *check], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_completes(tmp_path):
    """In a terminal: what stands there after Tab."""
    stub = tmp_path / "defm-rl"
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} -m defm_rl.cli "$@"\n')
    stub.chmod(0o755)
    (tmp_path / "completion").write_text(command._SCRIPTS["zsh"])
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(PATH=f"{tmp_path}:{os.environ['PATH']}", TERM="dumb", PS1="> ")
        os.execvp("zsh", ["zsh", "-f", "-i"])

    def typed(text: str, until: str) -> str:
        os.write(terminal, text.encode())
        shown, end = "", time.monotonic() + 60
        while until not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 4096).decode(errors="replace")
        return shown

    try:
        typed(f"autoload -U compinit; compinit -D -u; source {tmp_path}/completion; echo REA''DY\n", "READY")
        assert "evaluate " in typed("defm-rl ev\t", "evaluate ")
        assert "experiment=quickstart " in typed("\x15defm-rl train experiment=quick\t", "experiment=quickstart ")
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes(tmp_path):
    stub = f"function defm-rl; {sys.executable} -m defm_rl.cli $argv; end\n"
    typed = "complete -C 'defm-rl ev'; complete -C 'defm-rl train experiment=quick'\n"
    script = stub + command._SCRIPTS["fish"] + typed
    done = subprocess.run(
        ["fish", "--no-config"], input=script, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.split() == ["evaluate", "experiment=quickstart"], done.stderr


def test_bash_completes(tmp_path):
    stub = f'defm-rl() {{ {sys.executable} -c "import sys; from defm_rl import cli; cli.main(sys.argv[1:])" "$@"; }}\n'
    typed = (
        'COMP_LINE="defm-rl train encoder=vit" COMP_POINT=25 COMP_WORDS=(defm-rl train encoder = vit) COMP_CWORD=4\n'
    )
    script = stub + command._SCRIPTS["bash"] + typed + '_defm_rl 2>/dev/null\necho "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip() == "vit_s14"


def test_another_shell_is_named(capsys):
    assert cli.main(["completion", "tcsh"]) == 2
    assert "name your shell, bash, zsh, fish" in capsys.readouterr().err
