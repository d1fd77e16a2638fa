"""A whole policy goes into one file that does what the policy does, for every library and algorithm."""

import pkgutil

import numpy as np
import onnx
import pytest
import torch
import yaml
from fake_envs import IMAGE, PPO_SETTINGS, REPLAY_SETTINGS, vec_env, vector_env
from gymnasium import spaces
from rsl_rl.runners import OnPolicyRunner
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

from defm_rl import DepthEncoder, deploy
from defm_rl.deploy import Camera, Policy, export, export_encoder, onnx_files, sb3
from defm_rl.deploy.exporting import Run, check
from defm_rl.deploy.policies import ExportError, Facts
from defm_rl.encoders.zoo import CARDS
from defm_rl.gymnasium import EncodeDepth
from defm_rl.rsl_rl import RslRlVecEnv
from defm_rl.sb3 import DefmExtractor, FeatureProjection, VecEncodeDepth, VecNormalizeFeatures

pytestmark = pytest.mark.usefixtures("untraced")

# A network of few operations: exporting takes as long as there are many.
FEATURES = {"encoder": "defm_resnet18", "weights": "random", "features": "P3", "bifpn": False, "grid": (1, 2)}
FACTS = Facts(
    step_s=0.05,
    cameras={"depth": Camera.from_fov(*IMAGE, 90.0)},
    entries={"state": ("x", "y", "yaw"), "action": ("forward", "turn")},
)


def driven(policy, frames):
    """Actions of a file over recorded frames, one after the other."""
    return np.stack([policy.act(**frame) for frame in frames])


def observed(rng, cameras=("depth",), batch=2):
    depth = {key: rng.uniform(0.5, 5, (batch, 1, *IMAGE)).astype(np.float32) for key in cameras}
    return {**depth, "state": rng.uniform(-1, 1, (batch, 3)).astype(np.float32)}


@pytest.fixture(scope="module")
def encoded_before():
    """A2C on standardized features of an encoder before it, whose statistics have seen something."""
    env = VecEncodeDepth(vec_env(), **FEATURES)
    env = VecNormalizeFeatures(env, norm_obs_keys=["depth"], norm_reward=False, clip_obs=3.0)
    kwargs = {"features_extractor_class": FeatureProjection, "features_extractor_kwargs": {"latent_dim": 8}}
    model = A2C("MultiInputPolicy", env, n_steps=4, device="cpu", seed=0, policy_kwargs=kwargs)
    return model.learn(16)


@pytest.fixture(scope="module")
def exported(encoded_before, tmp_path_factory):
    return export(encoded_before, tmp_path_factory.mktemp("exported") / "policy.onnx", facts=FACTS)


def test_the_file_does_alone_what_encoder_statistics_and_policy_do_together(encoded_before, exported):
    assert exported.contract.checked["largest_difference"] < 1e-4
    raw = observed(np.random.default_rng(0))
    env = encoded_before.get_env()
    features = env.venv.encoder.encode(torch.from_numpy(raw["depth"])).numpy()
    seen = env.normalize_obs({**raw, "depth": features})
    expected = encoded_before.predict(seen, deterministic=True)[0]
    assert Policy(exported.path, clock=None).act(**raw) == pytest.approx(expected, abs=1e-4)
    assert (
        np.abs(expected - encoded_before.predict({**seen, "depth": -seen["depth"]}, deterministic=True)[0]).max() > 0.01
    )


def test_a_group_normalization_s_scale_and_shift_are_one_operation(encoded_before, exported):
    """Of a light network, they took a tenth of the time as two."""
    kinds = [node.op_type for node in onnx.load(exported.path).graph.node]
    norms = [m for m in encoded_before.get_env().venv.encoder.net.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert 0 < kinds.count("BatchNormalization") == kinds.count("InstanceNormalization") <= len(norms)
    assert "Shape" not in kinds


class Shrinking(torch.nn.Module):
    """From 8x8 to 4x4, by a convolution as it is, and to 2x2."""

    def __init__(self):
        super().__init__()
        self.convs = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(2)))
        self.eval().requires_grad_(False)

    def forward(self, *inputs):
        return (self.convs(*inputs),)


def test_a_convolution_that_gives_a_handful_of_pixels_is_a_product(tmp_path):
    module, x, path = Shrinking(), torch.randn(2, 3, 8, 8), tmp_path / "convs.onnx"
    onnx_files.write(module, [x], path, ["x"], ["y"], [0])
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert (kinds.count("Conv"), kinds.count("MatMul")) == (1, 1)
    assert onnx_files.Session(path)({"x": x.numpy()})["y"] == pytest.approx(module(x)[0].numpy(), abs=1e-5)


class Normalizing(torch.nn.Module):
    """Groups of vectors, tokens and images, with a scale and shift and without."""

    def __init__(self):
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(2, 8, affine=affine) for affine in (True, False))
        torch.nn.init.uniform_(self.norms[0].weight)
        self.eval().requires_grad_(False)

    def forward(self, *inputs):
        return tuple(norm(x) for x in inputs for norm in self.norms)


@pytest.mark.slow
def test_groups_of_anything_are_normalized(tmp_path):
    module, path = Normalizing(), tmp_path / "norms.onnx"
    inputs = {name: torch.randn(2, 8, *sides) for name, sides in [("v", ()), ("t", (5,)), ("i", (4, 3))]}
    names = [str(index) for index in range(6)]
    onnx_files.write(module, list(inputs.values()), path, list(inputs), names, [0, 0, 0])
    got = onnx_files.Session(path)({name: x.numpy() for name, x in inputs.items()})
    for name, expected in zip(names, module(*inputs.values()), strict=True):
        assert got[name] == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_contract_stands_in_the_file_and_beside_it(encoded_before, exported):
    contract = Policy(exported.path).contract
    assert contract == exported.contract
    assert yaml.safe_load(exported.path.with_suffix(".yaml").read_text()) == contract.to_dict()
    assert (contract.step_s, contract.depth[0].unit, contract.depth[0].far_m) == (0.05, "m", 100.0)
    assert contract.depth[0].camera.fov_deg == pytest.approx((90.0, 90.0))
    assert contract.vectors[0].entries == ("x", "y", "yaw")
    assert (contract.action.low, contract.action.entries) == ((-1.0, -1.0), ("forward", "turn"))
    assert contract.made_by["encoder"]["sha256"] == encoded_before.get_env().venv.encoder.provenance.sha256


@pytest.mark.parametrize("kind", ["exported_program", "torchscript"])
@pytest.mark.slow
def test_pytorchs_own_formats(encoded_before, exported, kind, tmp_path):
    frames = encoded_before.get_env().venv.venv.reset()
    other = export(encoded_before, tmp_path / "policy.pt2", kind, frames=[frames])
    assert other.contract.checked["largest_difference"] < 1e-4
    module = torch.jit.load(other.path) if kind == "torchscript" else torch.export.load(other.path).module()
    got = module(*(torch.from_numpy(frames[name]) for name in ("depth", "state")))[0]
    assert Policy(exported.path, clock=None).act(**frames) == pytest.approx(got.detach().numpy(), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [pytest.param("float16", marks=pytest.mark.slow), "int8"])
def test_smaller_precisions_say_how_far_they_are_off(encoded_before, exported, precision, tmp_path):
    smaller = export(encoded_before, tmp_path / "policy.onnx", precision=precision)
    assert exported.contract.checked["largest_difference"] < smaller.contract.checked["largest_difference"] < 0.5
    assert smaller.path.stat().st_size < 0.7 * exported.path.stat().st_size
    assert Policy(smaller.path).contract.precision == precision


@pytest.mark.slow
def test_an_encoder_inside_the_policy_with_two_cameras_in_millimetres(tmp_path):
    env = vec_env(cameras=("depth", "belly"), millimetres=True)
    kwargs = {**FEATURES, "unit": "mm", "size": (24, 40), "trainable": ["layer2"], "latent_dim": 4}
    policy_kwargs = {"features_extractor_class": DefmExtractor, "features_extractor_kwargs": kwargs}
    model = PPO("MultiInputPolicy", env, policy_kwargs=policy_kwargs, **PPO_SETTINGS).learn(8)
    exported = export(model, tmp_path / "policy.onnx")
    assert exported.contract.checked["largest_difference"] < 1e-4
    raw = env.reset()
    raw["depth"][:, :, :3] = 65535
    expected = model.predict(raw, deterministic=True)[0]
    assert Policy(exported.path, clock=None).act(**raw) == pytest.approx(expected, abs=1e-4)
    metres = {key: np.where(x == 65535, 0, x / 1000) if key != "state" else x for key, x in raw.items()}
    policy = Policy(exported.path, clock=None, depth_unit="m")
    assert policy.act(**metres) == pytest.approx(expected, abs=1e-4)


LSTM = {"policy_kwargs": {"lstm_hidden_size": 6, "n_lstm_layers": 2}}
ALGORITHMS = [
    (PPO, "CartPole-v1", PPO_SETTINGS),
    (PPO, "Pendulum-v1", {**PPO_SETTINGS, "use_sde": True}),
    (SAC, "Pendulum-v1", REPLAY_SETTINGS),
    (TD3, "Pendulum-v1", REPLAY_SETTINGS),
    (DQN, "CartPole-v1", REPLAY_SETTINGS),
    (RecurrentPPO, "Pendulum-v1", {**PPO_SETTINGS, **LSTM}),
]


def trained(algorithm, env_id, settings):
    policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
    return algorithm(policy, make_vec_env(env_id, 2), **settings).learn(8)


@pytest.mark.parametrize(("algorithm", "env_id", "settings"), ALGORITHMS)
def test_the_graph_of_every_algorithm_acts_as_its_policy(algorithm, env_id, settings):
    whole = sb3.exportable(trained(algorithm, env_id, settings))
    frames = whole.record(5)
    checked = check(whole, Run(whole, whole.graph()), frames)
    assert checked["largest_difference"] < 1e-5
    assert len({whole.act(frame).tobytes() for frame in frames}) > 1 or algorithm in (DQN, PPO)


@pytest.mark.parametrize(
    ("algorithm", "env_id", "settings"),
    [*(pytest.param(*row, marks=pytest.mark.slow) for row in ALGORITHMS[:-1]), ALGORITHMS[-1]],
)
def test_every_algorithm(algorithm, env_id, settings, tmp_path):
    model = trained(algorithm, env_id, settings)
    exported = export(model, tmp_path / "policy.onnx")
    checked = exported.contract.checked
    assert (checked["frames"] > 30, checked["largest_difference"] < 1e-4) == (True, True)
    assert bool(exported.contract.memory) == (algorithm is RecurrentPPO)
    (name,) = (wanted.name for wanted in exported.contract.inputs)
    policy, state, begins = Policy(exported.path, clock=None), None, np.array([True])
    for _ in range(4):
        observation = model.observation_space.sample()
        action, state = model.predict(observation[None], state, begins, deterministic=True)
        begins[:] = False
        got = policy.act(**{name: observation})
        assert got.shape == model.action_space.shape
        assert got == pytest.approx(action[0], abs=1e-4)


def test_several_choices_and_observed_choices(tmp_path):
    env = vec_env(discrete_key=True)
    env.action_space = spaces.MultiDiscrete([3, 2])
    model = PPO("MultiInputPolicy", env, policy_kwargs={"net_arch": [8]}, **PPO_SETTINGS)
    frames = [env.reset()]
    exported = export(model, tmp_path / "policy.onnx", frames=frames)
    got = Policy(exported.path, clock=None).act(**frames[0])
    assert (got == model.predict(frames[0], deterministic=True)[0]).all()
    assert got.dtype == np.int64


def runner(env, **settings):
    torch.manual_seed(0)
    model = {"class_name": "defm_rl.rsl_rl:DefmModel", "hidden_dims": [8], "latent_dim": 4, **settings}
    groups = ["depth", "state"]
    config = {
        "num_steps_per_env": 4,
        "save_interval": 1000,
        "obs_groups": {"actor": groups, "critic": groups},
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution"}},
        "critic": model,
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 1},
    }
    made = OnPolicyRunner(env, config)
    made.learn(1)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoded", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["features-lstm", "inside-gru"]
)
def test_rsl_rl_with_a_memory(encoded, tmp_path):
    env = vector_env(2)
    if encoded:
        env = EncodeDepth(env, device="cpu", **FEATURES)
        settings = {"obs_normalization": True, "rnn_type": "lstm", "rnn_hidden_dim": 6}
    else:
        settings = {"encoder": {**FEATURES, "trainable": ["layer2"]}, "rnn_type": "gru", "rnn_hidden_dim": 6}
    made = runner(RslRlVecEnv(env, seed=0), **settings)
    exported = export(made, tmp_path / "policy.onnx", facts=FACTS)
    assert [part.name for part in exported.contract.memory] == (["h", "c"] if encoded else ["h"])
    assert exported.contract.checked["largest_difference"] < 1e-4
    policy, rng = Policy(exported.path, clock=None), np.random.default_rng(0)
    frame = observed(rng)
    first = policy.act(**frame)
    assert np.abs(policy.act(**frame) - first).max() > 1e-4  # it remembers
    policy.reset()
    assert policy.act(**frame) == pytest.approx(first)


@pytest.mark.slow
@pytest.mark.parametrize(
    "card",
    [
        pytest.param(card, marks=() if card.name == "defm_regnet_y_400mf" else pytest.mark.slow, id=card.name)
        for card in CARDS.values()
    ],
)
def test_every_encoder_alone(card, tmp_path):
    level = card.levels[0]
    few = {"features": level, "bifpn": False} if card.name == "defm_regnet_y_400mf" else {"features": ["global", level]}
    side = 28 if card.family == "vit" else 32
    settings = {**few, "weights": "random", "image_size": (side + 5, side), "grid": (1, 2)}
    if card.family != "vit":
        settings["size"] = (32, 32)
    exported = export_encoder(card.name, tmp_path / "encoder.onnx", **settings)
    assert exported.contract.checked["largest_difference"] < 1e-4
    encoder = DepthEncoder(card.name, **settings)
    depth = np.random.default_rng(1).uniform(0.5, 9, (3, side + 5, side)).astype(np.float32)
    expected = encoder.encode(depth).numpy()
    got = Policy(exported.path, clock=None).act(depth=depth)
    assert np.abs(got - expected).max() < 1e-4 * max(1, np.abs(expected).max())


def test_what_cannot_be_exported_says_why_and_leaves_nothing(encoded_before, tmp_path, monkeypatch):
    frames = [observed(np.random.default_rng(0))]
    path = tmp_path / "policy.onnx"
    with pytest.raises(ValueError, match=r"format must be one of onnx.*got 'trt'"):
        export(encoded_before, path, "trt")
    with pytest.raises(ValueError, match="pass format='onnx'"):
        export(encoded_before, path, "torchscript", "int8")
    with pytest.raises(ExportError, match="A dict cannot be exported: pass a run's folder"):
        export({}, path)
    with pytest.raises(ExportError, match="belly is none of it"):
        export(encoded_before, path, frames=frames, facts=Facts(entries={"belly": ("a",)}))
    with pytest.raises(ExportError, match="3 entries, and 1 names"):
        export(encoded_before, path, frames=frames, facts=Facts(entries={"state": ("a",)}))
    with pytest.raises(ExportError, match="MaskablePPO"):
        export(MaskablePPO("MlpPolicy", make_vec_env("CartPole-v1", 1), **PPO_SETTINGS), path)
    stacked = VecFrameStack(VecEncodeDepth(vec_env(), **FEATURES), 2)
    with pytest.raises(ExportError, match="VecFrameStack"):
        export(PPO("MultiInputPolicy", stacked, **PPO_SETTINGS), path)
    monkeypatch.setattr("defm_rl.deploy.sb3.Acting.__call__", lambda self, obs: np.full((2, 2), 0.5, np.float32))
    with pytest.raises(ExportError, match=r"does not do what the policy does.*Nothing was written"):
        export(encoded_before, path, frames=frames)
    assert list(tmp_path.iterdir()) == []


def test_no_function_of_the_package_is_hidden_by_a_module():
    modules = {module.name for module in pkgutil.iter_modules(deploy.__path__)}
    assert not modules & set(deploy.__all__)
    assert all(callable(getattr(deploy, name)) for name in deploy.__all__)
