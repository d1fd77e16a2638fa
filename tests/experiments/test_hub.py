"""Runs that are shared. The Hub is a local server; its client is the real one."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard, constants
from omegaconf import OmegaConf

from defm_rl.commands import evaluate, pull, push, train
from defm_rl.experiments.hub import names_code
from defm_rl.experiments.runs import Run


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub as this process sees it, with an empty cache, logged in."""
    with HubServer("other/thing", {"README.md": b"Nothing of ours."}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another server's protocol
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def test_a_policy_is_pushed_with_what_it_is_and_does_the_same_elsewhere(run, hub, capsys, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "defm_rl")
    (run.folder / "episodes.gif").write_bytes(b"GIF89a film")
    assert push.main(["run", "user/walker", "license=mit"]) == 0
    assert "defm-rl evaluate hf://user/walker" in caplog.text
    files = hub.repositories["user/walker"]
    assert hub.commits["user/walker"][1] == "A policy after 256 steps"
    assert set(files) == {
        *("README.md", "config.yaml", "metrics.json", "episodes.csv", "episodes.gif", "history.csv"),
        *("learning_curve.png", "checkpoint/state.json", "checkpoint/policy.safetensors"),
    }  # fmt: skip
    monkeypatch.setattr(pickle, "loads", None)  # whoever unpickles fails
    monkeypatch.setattr(pickle, "load", None)
    options = ["episodes=6", "first_layout=1000000", "num_envs=4"]  # those of its own evaluation
    assert evaluate.main(["hf://user/walker", *options]) == 0
    pulled = Path("runs/hub/user/walker")
    (cell,) = pulled.glob("evaluations/*/ideal/episodes.csv")
    assert cell.read_text() == (run.folder / "episodes.csv").read_text()
    assert not list(pulled.rglob("*.zip"))
    assert train.main([f"resume={pulled}"]) == 2
    assert "holds what acts, and not what learning goes on with" in capsys.readouterr().err


def test_its_card_is_filled_in_from_its_files(run, hub):
    assert push.main(["run", "user/walker"]) == 0
    text = hub.repositories["user/walker"]["README.md"].decode()
    evaluation = json.loads((run.folder / "metrics.json").read_text())["evaluation"]
    card = ModelCard(text).data
    assert (card.library_name, card.model_name) == ("defm-rl", "user/walker")
    assert {"reinforcement-learning", "defm_rl/Navigation-v0", "ppo"} <= set(card.tags)
    results = {result.metric_type: result for result in card.eval_results}
    success = results["success_rate"]
    assert success.metric_value == pytest.approx(evaluation["success_rate"]["mean"], abs=1e-4)
    assert success.metric_args["high"] == pytest.approx(evaluation["success_rate"]["high"], abs=1e-4)
    assert success.metric_args["episodes"] == 6
    assert f"| {100 * evaluation['success_rate']['mean']:.1f} % |" in text
    assert "It sees no depth at all" in text
    assert "Random weights" not in text
    assert "episodes.gif" not in text  # there is none
    assert "trust=true" not in text


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "sac", "rsl_ppo"])
@pytest.mark.parametrize("trained", [[], ["all"]])
def test_every_kind_of_policy_survives_the_way(algo, trained, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        "ppo": ["algo.n_steps=16", "algo.batch_size=16", "algo.n_epochs=1"],
        "sac": ["algo.learning_starts=48", "algo.buffer_size=128", "algo.batch_size=16", "algo.gradient_steps=1"],
        "rsl_ppo": ["algo.num_steps_per_env=16"],
    }
    task = ["experiment=navigation", "env.num_envs=4", "env.depth_size=[48,96]", "evaluation.episodes=4"]
    encoder = [
        "encoder=efficientnet_b0",
        "encoder.weights=random",
        f"encoder.trainable={trained}",
        "encoder.compile=off",
    ]
    others = ["algo.total_steps=64", f"algo={algo}", *settings[algo], "hydra.run.dir=run", "evaluation.clips=0"]
    assert train.main([*task, *encoder, *others]) == 0
    assert push.main(["run", "user/policy"]) == 0
    assert "Random weights" in hub.repositories["user/policy"]["README.md"].decode()
    assert pull.main(["user/policy", "elsewhere"]) == 0
    same = ["episodes=4", "first_layout=1000000", "num_envs=4"]
    assert evaluate.main(["elsewhere", *same]) == 0
    (cell,) = Path("elsewhere").glob("evaluations/*/ideal/episodes.csv")
    assert cell.read_text() == Path("run/episodes.csv").read_text()


@pytest.mark.slow
def test_what_cannot_be_pushed_is_refused_with_what_to_do(run, hub, capsys, monkeypatch):
    def refusal(*arguments):
        assert push.main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "expected RUN user/repo, got run" in refusal("run")
    assert "expected user/repo" in refusal("run", "walker")
    assert "holds something else" not in refusal("nowhere", "user/walker")
    assert "the token may not do that" in refusal("run", "stranger/walker")
    assert push.main(["run", "user/walker"]) == 0
    assert "is there already: update=true" in refusal("run", "user/walker")
    before = hub.commits["user/walker"]
    assert push.main(["run", "user/walker", "update=true"]) == 0
    assert hub.commits["user/walker"] != before
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "the token may not do that" in refusal("run", "user/new")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "no-token")
    assert "log in by `hf auth login`" in refusal("run", "user/new")
    (run.folder / "metrics.json").unlink()
    assert "train resume=run" in refusal("run", "user/new")
    shutil.rmtree(run.checkpoint)
    shutil.rmtree(run.folder / "checkpoint.old")
    assert "no checkpoint" in refusal("run", "user/new")


def test_what_cannot_be_pulled_is_refused_with_what_to_do(run, hub, capsys, caplog, monkeypatch):
    def refusal(*arguments):
        assert pull.main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "no config.yaml, but README.md" in refusal("other/thing")
    assert "no such repository" in refusal("nobody/nothing")
    assert push.main(["run", "user/walker"]) == 0
    assert "no such revision" in refusal("user/walker@v9")
    assert "run holds something else than user/walker" in refusal("user/walker", "run")
    assert pull.main(["user/walker", "here"]) == 0
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    assert pull.main(["user/walker", "here"]) == 0
    assert "What was pulled before is taken" in caplog.text
    assert "cannot be had" in refusal("user/walker", "there")
    assert not Path("there").exists()


def test_nothing_is_unpickled_and_no_code_is_run_that_is_not_asked_for_by_name(run, hub, capsys):
    """A run's folder as somebody put it there by hand."""
    files = {
        path.relative_to(run.folder).as_posix(): path.read_bytes() for path in run.folder.rglob("*") if path.is_file()
    }
    hub.repositories["user/pickles"], hub.commits["user/pickles"] = files, ("a" * 40, "")
    assert evaluate.main(["hf://user/pickles"]) == 2
    refused = capsys.readouterr().err
    assert "model.zip" in refused
    assert "trust=true" in refused
    assert not Path("runs").exists()
    assert evaluate.main(["hf://user/pickles", "trust=true", "episodes=2"]) == 0

    assert push.main(["run", "user/walker"]) == 0
    safe = hub.repositories["user/walker"]
    for number, (group, key, value, message) in enumerate(
        [
            ("env", "id", "os:Name-v0", "env.id"),
            ("encoder", "class_name", "subprocess:Popen", "encoder.class_name"),
            ("encoder", "name", "subprocess:Popen(args='true')", "encoder.name"),
            ("encoder", "weights", "/home/somebody/weights.pth", "not in it"),
            ("env", "level", "${oc.env:HF_TOKEN}", "read from this machine"),
        ]
    ):
        config = OmegaConf.create(yaml.safe_load(safe["config.yaml"]))
        config[group][key] = value
        changed = f"user/changed{number}"
        hub.repositories[changed] = {**safe, "config.yaml": OmegaConf.to_yaml(config).encode()}
        hub.commits[changed] = ("b" * 39 + str(number), "")
        assert pull.main([changed]) == 2
        assert message in capsys.readouterr().err


def test_what_names_code_is_known():
    assert names_code({"env": {"id": "Navigation-v0"}, "encoder": {"name": "defm_resnet18", "kwargs": {}}}) == []
    env = {"id": "package:Name-v0", "kwargs": {"size": 3}, "render_depth": "camera_depth"}
    assert names_code({"env": env, "encoder": {"class_name": "a:B", "kwargs": {"width": 3}}}) == [
        *("env.id", "env.kwargs", "env.render_depth", "encoder.class_name", "encoder.kwargs")
    ]  # fmt: skip


@pytest.mark.slow
def test_another_revision_takes_the_place_of_the_one_that_was_pulled(run, hub):
    assert push.main(["run", "user/walker"]) == 0
    assert pull.main(["user/walker", "here"]) == 0
    first = json.loads(Path("here/hub.json").read_text())["commit"]
    (run.folder / "learning_curve.png").write_bytes(b"another")
    assert push.main(["run", "user/walker", "update=true"]) == 0
    assert pull.main(["user/walker", "here"]) == 0
    assert Path("here/learning_curve.png").read_bytes() == b"another"
    assert json.loads(Path("here/hub.json").read_text())["commit"] != first
    assert Run(Path("here")).state()["steps"] == 256
