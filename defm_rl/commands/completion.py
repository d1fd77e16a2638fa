"""`defm-rl completion bash`: what makes Tab complete commands, keys and values; also zsh, fish.

Everything is read from the source without importing it: PyTorch and Hydra would take seconds at every Tab. So what
installed packages register is not known here.
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_CONF = _PACKAGE / "experiments" / "conf"
_SCRIPTS = {
    # Bash breaks words at = and :, so that only what stands behind the last of them takes the current word's place.
    "bash": """\
_defm_rl() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} current=${COMP_WORDS[COMP_CWORD]}
    local word=${line##* }
    [[ $current == [=:] ]] && current=
    local head=${word%"$current"}
    COMPREPLY=($(defm-rl completion words "$line"))
    COMPREPLY=("${COMPREPLY[@]#"$head"}")
    [[ ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace
}
complete -o default -F _defm_rl defm-rl
""",
    "zsh": """\
_defm_rl() {
    local -a found
    found=(${(f)"$(defm-rl completion words "${(j: :)words[1,CURRENT]}")"})
    (( $#found )) || { _files; return }
    compadd -S '' -- ${(M)found:#*=}
    compadd -- ${found:#*=}
}
compdef _defm_rl defm-rl
""",
    "fish": """\
complete -c defm-rl -a '(defm-rl completion words (commandline -cp))'
""",
}
_USAGE = """\
usage: defm-rl completion bash|zsh|fish

Prints what makes Tab complete defm-rl. Put this into your shell's file, and open a new shell:
  ~/.bashrc                       eval "$(defm-rl completion bash)"
  ~/.zshrc, below compinit        eval "$(defm-rl completion zsh)"
  ~/.config/fish/config.fish      defm-rl completion fish | source
"""
_GROUPS = ("experiment", "env", "encoder", "algo", "logger")
_SENSORS = ("sensors", "held_out", "env.sensor")
_PREFIXES = {"Config": "", "EncoderConfig": "encoder.", "LoggerConfig": "logger.", "EvaluationConfig": "evaluation."}
_TASKS = {"navigation": "env.", "locomotion": "env.", "manipulation": "env.", "randomization": "env.randomization."}
_TAKES_ENCODERS = ("export-encoder", "bench-latency")


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if list(arguments[:1]) == ["words"]:
        sys.stdout.writelines(f"{word}\n" for word in words(" ".join(arguments[1:])))
        return 0
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(_USAGE)
        return 0
    if len(arguments) != 1 or arguments[0] not in _SCRIPTS:
        sys.stderr.write(f"defm-rl completion: name your shell, {', '.join(_SCRIPTS)}; got {' '.join(arguments)!r}\n")
        return 2
    sys.stdout.write(_SCRIPTS[arguments[0]])
    return 0


def words(line: str) -> list[str]:
    """What may stand in the place of a command line's last word.

    Args:
        line: The line up to the cursor, `defm-rl` included.
    """
    *before, current = line.split(" ")
    before = [word for word in before if word]
    commands = ast.literal_eval(_value(_PACKAGE / "cli.py", "_COMMANDS"))
    if len(before) < 2:
        found = [*commands, "--help", "--version"]
    elif before[1] == "completion":
        found = [*_SCRIPTS]
    elif "=" in current:
        found = _values(before[1], current)
    elif before[1] in commands:
        found = [f"{key}=" for key in _keys(before[1])] + (_encoders() if before[1] in _TAKES_ENCODERS else [])
    else:
        found = []
    return sorted({word for word in found if word.startswith(current)})


def _values(command: str, current: str) -> list[str]:
    """Whole words `key=value`; of a list, with another last part."""
    key, _, value = current.partition("=")
    if key in _GROUPS:
        known = [path.stem for path in (_CONF / key).glob("*.yaml")]
    elif key in _SENSORS:
        known = ["all", *_sensors()]
    elif key == "encoder.name":
        known = _encoders()
    else:
        known = ["true", "false"] if _keys(command).get(key) == "bool" else []
    head = value[: max(value.rfind("["), value.rfind(",")) + 1]
    return [f"{key}={head}{name}" for name in known]


def _keys(command: str) -> dict[str, str]:
    """The keys that a command takes, each with its type."""
    path = _PACKAGE / "commands" / f"{command.replace('-', '_')}.py"
    keys = dict(_fields(path, {"Settings": ""}))
    if re.search(r"\b(check_overrides|compose_config)\b", path.read_text()):  # it takes an experiment's, too
        keys |= dict(_fields(_PACKAGE / "experiments" / "config.py", _PREFIXES))
        for name, prefix in _TASKS.items():
            keys |= dict(_fields(_PACKAGE / "envs" / f"{name}.py", {"Randomization": prefix}, prefix))
    return keys


def _fields(path: Path, prefixes: dict[str, str], others: str = "algo.") -> Iterator[tuple[str, str]]:
    """The fields of a file's configurations, with the prefix of their class, and their types.

    Args:
        path: The file.
        prefixes: By a class's name.
        others: The prefix of classes `...Config` that are not named there.
    """
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        prefix = prefixes.get(node.name)
        if prefix is None and node.name.endswith("Config"):
            prefix = "env." if node.name.endswith("EnvConfig") else others
        for entry in node.body if prefix is not None else ():
            if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
                kind = ast.unparse(entry.annotation)
                if not kind.startswith("ClassVar"):
                    yield f"{prefix}{entry.target.id}", kind


def _sensors() -> list[str]:
    table = _value(_PACKAGE / "sensors" / "profiles.py", "SENSORS")
    assert isinstance(table, ast.Dict)
    return [str(key.value) for key in table.keys if isinstance(key, ast.Constant)]


def _encoders() -> list[str]:
    source = (_PACKAGE / "encoders" / "zoo.py").read_text()
    return [f"defm_{name}" for name in re.findall(r'^ +_(?:cnn|vit)\("(\w+)"', source, flags=re.MULTILINE)]


def _value(path: Path, name: str) -> ast.expr:
    """What a file assigns to a name."""
    for node in ast.parse(path.read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name:
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            return node.value
    raise KeyError(name)
