"""The code in the documents: scripts run, but shorter; fragments run in their order; commands are composed."""

import ast
import contextlib
import copy
import dataclasses
import functools
import importlib
import re
import runpy
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import gymnasium
import numpy
import pytest
import torch
import wandb
import yaml
from documents import ROOT, all_blocks, blocks, documents, scripts, shortened
from fake_envs import vec_env, vector_env
from readers import RSL_RL_SETTINGS as SETTINGS
from rsl_rl.runners import DistillationRunner, OnPolicyRunner
from stable_baselines3 import PPO
from torch import nn

import defm_rl.envs
from defm_rl import DepthEncoder, cli
from defm_rl.commands import experiment_settings
from defm_rl.commands import settings as plain_settings
from defm_rl.commands.train import with_zip
from defm_rl.encoders import Encoder, EncoderOutput, registry
from defm_rl.experiments.config import with_search_path
from defm_rl.experiments.overrides import check_overrides
from defm_rl.gymnasium import EncodeDepth
from defm_rl.rsl_rl import RslRlVecEnv
from defm_rl.sb3 import DefmExtractor, FeatureProjection, VecEncodeDepth

# Why blocks are not run: nothing else keeps one from it.
NOT_RUN = {
    "Isaac Lab has": 6,
    "mjlab has": 1,
    "skrl is in": 1,
    "ManiSkill draws": 1,
    "it takes a run": 1,
    "these providers": 1,
}
SHORT = {"STEPS": 16, "NUM_ENVS": 2, "EPISODES": 2, "BUFFER_SIZE": 100, "LEARNING_STARTS": 8}
SETTINGS_OF_PPO = {"n_steps=128": "n_steps=8", "batch_size=512": "batch_size=16"}
SMALLER = {
    "num_envs=64": "num_envs=2",
    "num_envs=32": "num_envs=2",
    "num_envs=16": "num_envs=2",
    "minutes=5": "minutes=5, steps=2",
    "learn(200)": "learn(1)",
    "num_steps_per_env=32": "num_steps_per_env=4",
    "num_steps_per_env=64": "num_steps_per_env=4",
}
WITH_TESTS_OF_THEIR_OWN = ("README.md", "docs/from_defm.md")
SLOW = (
    *("docs/adapt.md", "docs/deploy.md", "docs/encoders.md", "docs/index.md"),
    *("docs/probe.md", "docs/recordings.md", "docs/rsl_rl.md"),
)
QUICK = ("docs/index.md", "docs/adapt.md")  # to compose all that the others type takes a while


def marked(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in names else name for name in documents()]


@pytest.mark.slow
@pytest.mark.usefixtures("without_hub")
@pytest.mark.parametrize("document", ["docs/sb3.md"])
def test_scripts_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # it reads its settings once in a process
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
    wandb.tensorboard.unpatch()  # it is the whole process's: runs that log later would lose their steps


@pytest.mark.usefixtures("without_hub")
@pytest.mark.slow
def test_coming_from_defm_runs():
    names = {"depth_m": 5 * torch.rand(96, 160), "env": vec_env()}
    for block in blocks("docs/from_defm.md"):
        exec(compile(block, "docs/from_defm.md", "exec"), names)
    assert names["class_token"].shape == (1, 512)
    assert names["spatial_tokens"].shape == (1, 128, 14, 20)
    assert names["p4"].shape == (1, 128, 14, 14)
    assert names["vectors"].shape == (1, names["encoder"].feature_dim)
    assert names["env"].observation_space["depth"].shape == (192,)
    names["env"].close()


@pytest.mark.usefixtures("without_hub")
@pytest.mark.parametrize("document", marked(SLOW))
def test_fragments_run(document, tmp_path, monkeypatch):
    fragments = [each.code for each in all_blocks(document) if each.language == "python" and not each.script]
    reasons = [each.reason for each in all_blocks(document) if each.language == "python" and not each.script]
    if document in WITH_TESTS_OF_THEIR_OWN or all(reasons):
        return
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "depth": 5 * torch.rand(2, 48, 96), **PREPARED.get(document, dict)()}
    if document == "docs/your_encoder.md":
        _with_a_package(monkeypatch)
    for fragment, reason in zip(fragments, reasons, strict=True):
        for written, smaller in SMALLER.items():
            fragment = fragment.replace(written, smaller)
        if reason is None:
            exec(compile(fragment, document, "exec"), names)
    for env in names.values():
        if isinstance(env, gymnasium.vector.VectorEnv):
            env.close()


def _encoders():
    env = vec_env()
    kwargs = {"encoder": "defm_resnet18", "trainable": "all"}
    policy = {"features_extractor_class": DefmExtractor, "features_extractor_kwargs": kwargs}
    PPO("MultiInputPolicy", env, n_steps=4, batch_size=4, policy_kwargs=policy).save("model.zip")
    policy = nn.Sequential(DepthEncoder("defm_regnet_y_400mf", weights="random"))
    # The one thing that is imagined: processes.
    return {"DepthEncoder": DepthEncoder, "PPO": PPO, "policy": policy, "DistributedDataParallel": nn.Sequential}


def _adapt():
    scenes = torch.arange(64) // 8
    width = 128 * 8
    return {
        "depth": 5 * torch.rand(64, 48, 96),
        "episode": scenes.numpy(),
        "mean": torch.zeros(1, width),
        "std": torch.ones(1, width),
        "Path": Path,
    }


def _deploy():
    sys.path.insert(0, str(ROOT / "tests" / "deploy"))
    import tiny

    tiny.write(Path("policy.onnx"))
    env = vec_env(shape=(1, 48, 96))
    policy = {"features_extractor_class": FeatureProjection}
    tiny_one = {"encoder": "own_networks:Vector", "weights": "random"}  # for the sake of time
    encoded = VecEncodeDepth(env, **tiny_one)
    around = EncodeDepth(vector_env(shape=(1, 48, 96)), **tiny_one)
    return {
        **dict.fromkeys(("fx", "fy"), 350.0),
        "cx": 424.0,
        "cy": 240.0,
        "frame": (2000 * torch.ones(480, 848)).numpy().astype("uint16"),
        "vector": torch.zeros(2).numpy(),
        "model": PPO("MultiInputPolicy", encoded, n_steps=4, batch_size=4, policy_kwargs=policy),
        "runner": OnPolicyRunner(RslRlVecEnv(around, seed=0), copy.deepcopy(SETTINGS)),
    }


def _rsl_rl():
    """A teacher's checkpoint, and an environment whose critic may know more."""
    told = gymnasium.make_vec("defm_rl/Locomotion-v0", num_envs=2, observations=("depth", "state", "privileged"))
    env = EncodeDepth(told, encoder="defm_regnet_y_400mf")
    groups = {"actor": ["state", "privileged"], "critic": ["state", "privileged"]}
    teacher = OnPolicyRunner(RslRlVecEnv(env, seed=0), copy.deepcopy({**SETTINGS, "obs_groups": groups}))
    teacher.save("teacher.pt")
    given = {
        "settings": copy.deepcopy(SETTINGS),
        "env": env,
        "teachers_actor_settings": copy.deepcopy(SETTINGS["actor"]),
    }
    return {"gymnasium": gymnasium, "DistillationRunner": DistillationRunner, **given}


def _your_encoder():
    return {"nn": nn, "DepthEncoder": DepthEncoder, "Encoder": Encoder, "EncoderOutput": EncoderOutput}


def _with_a_package(monkeypatch):
    """What the page's reader has: `my_package.nets`, whose class makes vectors; and a registry that is put back."""

    class MyNet(nn.Module):
        def __init__(self, width=32):
            super().__init__()
            self.feature_dim = width
            self.head = nn.Linear(3, width)

        def forward(self, x):
            return self.head(x.mean((2, 3)))

    for name, module in (("my_package", {}), ("my_package.nets", {"MyNet": MyNet})):
        made = types.ModuleType(name)
        vars(made).update(module)
        monkeypatch.setitem(sys.modules, name, made)
    for table in ("_CARDS", "_BUILDERS"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def _probe():
    draw = torch.Generator().manual_seed(0)
    return {
        "frames": (1 + torch.rand(36, 48, 64, generator=draw)).numpy(),
        "labels": torch.arange(36) % 6,
        "masks": torch.randint(4, (36, 48, 64), generator=draw),
        "train": torch.arange(28),
        "test": torch.arange(28, 36),
    }


def _recordings():
    """What the reader has recorded."""
    numpy.savez("walk.npz", depth=numpy.full((3, 120, 160), 2.0, numpy.float32))
    return {}


PREPARED = {
    "docs/adapt.md": _adapt,
    "docs/deploy.md": _deploy,
    "docs/encoders.md": _encoders,
    "docs/navigation.md": lambda: {"gymnasium": gymnasium, "defm_rl": defm_rl},
    "docs/probe.md": _probe,
    "docs/recordings.md": _recordings,
    "docs/rsl_rl.md": _rsl_rl,
    "docs/sb3.md": lambda: {"env": vec_env()},
    "docs/sensors.md": lambda: {"env": vector_env(), "k": 3},
    "docs/your_encoder.md": _your_encoder,
}


def test_what_is_not_run_says_why():
    reasons = [each.reason for name in documents() for each in all_blocks(name) if each.reason]
    counted = {begin: sum(reason.startswith(begin) for reason in reasons) for begin in NOT_RUN}
    assert counted == NOT_RUN
    assert sum(counted.values()) == len(reasons)


@pytest.mark.parametrize("document", documents())
def test_yaml_is_yaml(document):
    for block in blocks(document, "yaml"):
        assert yaml.safe_load(block)


# Bash itself says what a block's commands are: none is found, and each is handed to this function.
_SHELL = 'command_not_found_handle() { printf "%s\\n" "$@" "" >&3; }; PATH=/nowhere\n'
_EXPERIMENTS = ("train", "memory", "check-env", "gap", "adapt", "view")


def _typed(block):
    """The commands of a block of bash, as lists of words."""
    script = f"exec 3>&1 >/dev/null 2>/dev/null\n{_SHELL}{block}"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, timeout=20, check=False, cwd="/")
    return [command.split("\n") for command in done.stdout.split("\n\n") if command]


@pytest.mark.parametrize("document", marked(set(documents()) - set(QUICK)))
def test_commands_are_accepted(document, tmp_path, monkeypatch):
    typed = [words for block in blocks(document, "bash") for words in _typed(block)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    if document == "docs/your_task.md":
        (tmp_path / "my_configs" / "experiment").mkdir(parents=True)
        (tmp_path / "my_configs" / "experiment" / "my_task.yaml").write_text(blocks(document, "yaml")[0])
    for program, *arguments in typed:
        if program == "defm-rl":
            _accepted(*arguments)
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), arguments
        if program == "pip":
            for extra in re.findall(r"defm-rl\[([\w,-]+)\]", " ".join(arguments)):
                assert set(extra.split(",")) <= set(_extras())


def _accepted(command, *arguments):
    """Raises where a command would refuse its arguments before it looks at files."""
    assert command in cli._COMMANDS
    module = importlib.import_module(f"defm_rl.commands.{command.replace('-', '_')}")
    schema = getattr(module, "Settings", None)
    own = {entry.name for entry in dataclasses.fields(schema)} if schema else set()
    words = [word for word in arguments if not re.fullmatch(r"-m|--multirun|--json|--device=cpu|--device=cuda", word)]
    flags = [word for word in arguments if word in ("-m", "--multirun")]
    mine = [word for word in words if "=" in word and word.partition("=")[0] in own]
    others = [word for word in words if word not in mine and not word.startswith("resume=")]
    if hasattr(module, "NAMES"):
        plain_settings.parse(schema, arguments, module.NAMES)
        return
    if schema is not None:
        chosen = experiment_settings.parse(schema, mine)
        if getattr(chosen, "sensors", None) is not None:
            experiment_settings.sensor_names(chosen.sensors)
    if command in _EXPERIMENTS:
        given, zipped = with_zip(with_search_path([*flags, *others]))
        experiment = [word for word in given if "=" in word]
        if experiment:
            _composed(tuple(experiment), tuple(map(tuple, zipped)))
    else:
        assert not [word for word in others if "=" in word or word.startswith("-")]


@functools.cache
def _composed(overrides, zipped):
    check_overrides(list(overrides), zipped)


def _extras():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_errors_are_listed_by_texts_that_the_code_has():
    said = list(_texts())
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "errors.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 50
    missing = [row for row in rows if not any(_holds(text, row.split("…")) for text in said)]
    assert not missing


def _holds(text, parts):
    """Whether the parts stand in a text, in their order."""
    end = 0
    for part in parts:
        begin = text.find(part, end)
        if begin < 0:
            return False
        end = begin + len(part)
    return True


def _texts():
    """Every text in the package; what is filled in is an ellipsis."""
    for path in (ROOT / "defm_rl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            with contextlib.suppress(TypeError):
                yield _text(node)


def _text(node):
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise TypeError
