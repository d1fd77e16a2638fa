"""How long a frame takes, and what it is held against."""

import dataclasses
import importlib
import importlib.util
import sys
from textwrap import dedent

import pytest
import tiny

from defm_rl.commands.bench_latency import notes
from defm_rl.deploy import Policy, latency

CONTRACT = dataclasses.replace(tiny.CONTRACT, made_by={"encoder": {"name": "defm_resnet18"}})
PACKAGE = {
    "defm/__init__.py": "",
    "defm/model_factory.py": """
        import torch
        seen = []
        class Model(torch.nn.Module):
            def forward_no_bifpn(self, x):
                seen.append(tuple(x.shape))
                return {"global_backbone": x.mean((2, 3))}
        def create_defm_model(name, pretrained):
            return Model()
        """,
    "defm/utils.py": """
        def preprocess_depth_batch(depth, patch_size, cnn_padding):
            return depth[:, None].expand(-1, 3, -1, -1)
        """,
    "defm-1.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: defm\nVersion: 1.1.0\n",
}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A package that is called as the published one is; gives what its networks have seen."""
    for name, content in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(dedent(content))
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield lambda: importlib.import_module("defm.model_factory").seen
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "defm" or name == "defm_rl.deploy.upstream":
            del sys.modules[name]


def test_the_published_package_is_measured_on_what_the_file_sees(published):
    ((name, subject),) = latency._published(CONTRACT).items()
    assert name == "defm 1.1.0"
    latency._published_step({**subject, "threads": 1})()
    assert published() == [(1, 3, tiny.HEIGHT, tiny.WIDTH)]
    assert "without" in notes([name, "ONNX Runtime"])[0]


@pytest.mark.skipif(importlib.util.find_spec("defm") is not None, reason="the published package is installed")
def test_where_it_is_not_installed_that_is_said():
    assert latency._published(CONTRACT) == {}
    assert "pip install" in notes(["ONNX Runtime"])[0]


def test_a_policy_without_an_encoder_is_held_against_none(published):
    assert latency._published(tiny.CONTRACT) == {}


def test_made_up_depth_is_none_beyond_the_policy_s_limit(tmp_path):
    near = dataclasses.replace(tiny.CONTRACT.depth[0], max_depth_m=0.45)
    latency._file_step(tiny.write(tmp_path / "near.onnx", depth=(near,)), 1)()


def test_a_file_in_int8_stands_beside_it_in_float32(file, remembering, frame, tmp_path):
    for path in (file, remembering):
        small = Policy(latency.quantized(path, tmp_path), clock=None)
        assert small.contract.precision == "int8"
        whole = Policy(path, clock=None)
        state = [0.5, -0.5]
        assert small.act(depth=frame, state=state) == pytest.approx(whole.act(depth=frame, state=state), abs=0.1)
