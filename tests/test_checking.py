"""An environment with a fault is told of this fault, one without is told of none."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from defm_rl import check_env
from defm_rl.checking import Severity
from defm_rl.depth import ZBuffer

HEIGHT, WIDTH, FOV_DEG = 48, 64, 90.0
NEAR_M, FAR_M = 0.1, 50.0


def rays():
    """Tangents of the pixels' angles, (H, W) each: to the right and down."""
    scale = np.tan(np.radians(FOV_DEG) / 2) / (WIDTH / 2)
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    return (u - (WIDTH - 1) / 2) * scale, (v - (HEIGHT - 1) / 2) * scale


def room(wall_m, box_m, side):
    """Planar depth above a floor 0.5 m below, before a wall, with a box on one side."""
    x, y = rays()
    floor = np.where(y > 0, 0.5 / np.maximum(y, 1e-9), np.inf)
    depth = np.minimum(floor, wall_m)
    beside = (x * side > 0.1) & (x * side < 0.6) & (y > -0.3) & (0.5 / np.maximum(y, 1e-9) > box_m)
    return np.where(beside, np.minimum(depth, box_m), depth).astype(np.float32)


class Room(gym.Env):
    """A robot before a wall; every fault can be switched on."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, fault="", dtype=np.float32, high=100.0):
        self.fault, self.steps, self.shown = fault, 0, None
        depth = spaces.Box(-high if fault == "negative" else 0, high, (1, HEIGHT, WIDTH), dtype)
        self.observation_space = spaces.Dict({"depth": depth, "state": spaces.Box(-1, 1, (2,), np.float32)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        random = np.random.default_rng() if self.fault == "unseeded" else self.np_random
        self.wall, self.box = random.uniform(3, 6), random.uniform(1, 2)
        self.side, self.steps = random.choice([-1, 1]), 0
        stale = self.shown if self.fault == "stale after reset" else None
        return self.observed(stale), {}

    def step(self, action):
        self.steps += 1
        self.wall -= 0.05
        last = {"is_success": bool(self.steps == 9)} if self.fault != "no success" else {}
        return self.observed(), 0.0, self.steps == 9, False, last

    def observed(self, shown=None):
        state = np.full(2, np.nan if self.fault == "nan" else 0, np.float32)
        self.shown = self.depth() if shown is None else shown
        return {"depth": self.shown[None], "state": state}

    def depth(self):
        x, y = rays()
        box = self.observation_space["depth"]
        depth = room(self.wall, self.box, self.side)
        if self.fault == "stale":
            depth = room(4.0, 1.5, 1)
        depth = {
            "euclidean": lambda: depth * np.sqrt(1 + x**2 + y**2),
            "flipped": lambda: depth[::-1],
            "negative": lambda: -depth,
            "scaled": lambda: depth / 10,
            "z-buffer": lambda: (FAR_M - NEAR_M * FAR_M / depth) / (FAR_M - NEAR_M),
            "millimetres": lambda: depth * 1000,
            "empty": lambda: depth * 0,
            "background": lambda: np.where(depth > 2.9, 20.0, depth),
        }.get(self.fault, lambda: depth)()
        return depth.astype(box.dtype)


def test_an_environment_without_fault_is_told_so():
    report = check_env(Room(), horizontal_fov_deg=FOV_DEG, steps=40)
    assert report.findings == []
    assert report.ok
    figures = report.cameras["depth"]
    assert (figures["height"], figures["width"], figures["hole_share"]) == (HEIGHT, WIDTH, 0.0)
    assert 0.5 < figures["nearest_m"] < 2 < figures["farthest_m"] <= 6
    assert report.frames["depth"].shape[1:] == (HEIGHT, WIDTH)
    assert report.seconds_per_step > 0


@pytest.mark.parametrize(
    ("fault", "name", "said"),
    [
        ("euclidean", "euclidean", "planar depth"),
        ("flipped", "flipped", "upside"),
        ("negative", "sign", "flip its sign"),
        ("scaled", "scale", "[0, 1]"),
        ("z-buffer", "z-buffer", "env.near"),
        ("millimetres", "units", "unit='mm'"),
        ("empty", "holes", "sees nothing"),
        ("background", "background", "max_depth_m="),
        ("stale", "stale", "never changes"),
        ("stale after reset", "stale after reset", "after a reset"),
        ("unseeded", "seeds", "np_random"),
        ("no success", "success", "success_key"),
        ("nan", "nan", "state"),
    ],
)
def test_every_fault_is_found_and_no_other(fault, name, said):
    report = check_env(Room(fault, high=10_000.0 if fault == "millimetres" else 100.0), steps=40)
    (finding,) = report.findings
    assert finding.name == name
    assert said in finding.message
    assert report.ok == (finding.severity is Severity.NOTE)


def test_episodes_in_which_nothing_moves_may_look_alike():
    class Still(Room):
        def depth(self):
            return room(4.0, 1.5, self.side)

    assert "stale after reset" not in [finding.name for finding in check_env(Still(), steps=60).findings]


def test_what_is_taken_for_a_z_buffer_is_converted_and_has_to_be_one():
    planes = ZBuffer(NEAR_M, FAR_M)
    report = check_env(Room("z-buffer"), z_buffer=planes, horizontal_fov_deg=FOV_DEG, steps=40)
    assert report.findings == []
    assert 0.5 < report.cameras["depth"]["nearest_m"] < 2 < report.cameras["depth"]["farthest_m"] <= 6.01
    (finding,) = (f for f in check_env(Room(), z_buffer=planes, steps=40).errors if f.name == "z-buffer")
    assert "is no z-buffer" in finding.message
    with pytest.raises(ValueError, match="near one first"):
        ZBuffer(3.0, 2.0)


def test_a_success_key_that_is_named_has_to_be_there():
    (finding,) = check_env(Room(), success_key="won", steps=40).errors
    assert "is_success" in finding.message


def test_euclidean_depth_is_found_with_a_known_field_of_view_and_planar_depth_is_not_taken_for_it():
    assert [f.name for f in check_env(Room("euclidean"), horizontal_fov_deg=FOV_DEG, steps=20).findings] == [
        "euclidean"
    ]
    assert check_env(Room(), horizontal_fov_deg=60.0, steps=20).ok


def test_integers_need_a_unit():
    env = Room("millimetres", dtype=np.uint16, high=65535)
    (finding,) = check_env(env, steps=20).findings
    assert finding.name == "units"
    assert "unit='mm'" in finding.message
    assert check_env(env, unit="mm", steps=20).findings == []


def test_no_depth_and_a_wrong_space_are_said():
    assert next(f.name for f in check_env(gym.make("CartPole-v1"), steps=10).findings) == "depth"

    class Wrong(Room):
        def observed(self, shown=None):
            return {**super().observed(shown), "depth": np.zeros((1, 3, 3), np.float32)}

    (finding,) = check_env(Wrong(), steps=10).findings
    assert finding.name == "space"
    assert "(1, 3, 3)" in finding.message


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_are_asked_how_they_reset(mode):
    report = check_env(SyncVectorEnv([Room, Room], autoreset_mode=mode), steps=25)
    assert [f.name for f in report.findings] == ([] if mode == AutoresetMode.SAME_STEP else ["autoreset"])
    stale = SyncVectorEnv([lambda: Room("stale after reset")] * 2, autoreset_mode=mode)
    assert "stale after reset" in [f.name for f in check_env(stale, steps=25).findings]


def test_what_is_no_environment_of_gymnasium_is_refused():
    with pytest.raises(TypeError, match="gymnasium"):
        check_env(DummyVecEnv([Room]))
