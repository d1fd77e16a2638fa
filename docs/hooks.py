"""What the site's builder does to pages: tables of keys are made from the code, without importing it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1] / "defm_rl"
_OUT = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")  # links that lead out of this folder, somewhere in the repository
_GROUPS = {
    "": ("Config",),
    "env.": ("EnvConfig", "MujocoEnvConfig", "GymnasiumEnvConfig"),
    "encoder.": ("EncoderConfig",),
    "algo.": ("AlgoConfig", "PPOConfig", "SACConfig", "RslRlConfig", "RslPPOConfig", "DistillationConfig"),
    "evaluation.": ("EvaluationConfig",),
    "logger.": ("LoggerConfig",),
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its tables, and with text in the place of links that only work in the repository."""
    markdown = markdown.replace("<!-- keys of the commands -->", "\n\n".join(_commands()))
    markdown = markdown.replace("<!-- keys of experiments -->", "\n\n".join(_experiments()))
    return _OUT.sub(r"\1", markdown)


def _commands() -> Iterator[str]:
    """A heading and a table for each command of `defm-rl`."""
    tree = ast.parse((_PACKAGE / "cli.py").read_text())
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign) and _name(node) == "_COMMANDS")
    for command, summary in ast.literal_eval(table).items():
        path = _PACKAGE / "commands" / f"{command.replace('-', '_')}.py"
        yield f"### {command}\n\n{summary.partition(': defm-rl')[0].capitalize()}."
        yield _table(_keys(path).get("Settings", []))


def _experiments() -> Iterator[str]:
    """A table for each class of an experiment's settings."""
    keys = _keys(_PACKAGE / "experiments" / "config.py")
    for prefix, classes in _GROUPS.items():
        for name in classes:
            yield f"### {prefix.rstrip('.') or 'top'}: {name}"
            yield _table([(f"{prefix}{key}", default, about) for key, default, about in keys[name]])


def _keys(path: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Of each class in a file, its fields: name, default, and the comment behind."""
    source = path.read_text()
    lines = source.splitlines()
    return {
        node.name: [
            (entry.target.id, ast.unparse(entry.value) if entry.value else "", _comment(lines, entry))
            for entry in node.body
            if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and "Class" not in _type(entry)
        ]
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }


def _comment(lines: list[str], entry: ast.AnnAssign) -> str:
    """What is said behind a field, on its first or last line."""
    within = "\n".join(lines[entry.lineno - 1 : entry.end_lineno])
    return within.partition("  # ")[2].partition("\n")[0]


def _table(keys: list[tuple[str, str, str]]) -> str:
    rows = [
        f"| `{key}` | {f'`{shown}`' if (shown := _shown(default)) else ''} | {about.replace('|', '/')} |"
        for key, default, about in keys
    ]
    return "\n".join(["| key | default | |", "|---|---|---|", *rows]) if rows else ""


def _shown(default: str) -> str:
    """A default as it is written on a command line."""
    made = re.fullmatch(r"field\(default_factory=(?:lambda: )?(.*)\)", default)
    value = made[1] if made else default
    plain = {"None": "null", "True": "true", "False": "false", "MISSING": "", "dict": "{}", "list": "[]"}
    return plain.get(value, value.strip("'") if "Config" not in value else "").replace("'", "")


def _type(entry: ast.AnnAssign) -> str:
    return ast.unparse(entry.annotation)


def _name(node: ast.Assign) -> str:
    return node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""
