"""Episodes are counted and reported whatever the task and whoever acts in it."""

import csv
import dataclasses

import numpy as np
import pytest
from fake_envs import vector_env
from gymnasium.vector import VectorWrapper

from defm_rl.experiments.config import ConfigError, NavigationEnvConfig
from defm_rl.experiments.episodes import Episode, WatchEpisodes, run_episodes
from defm_rl.experiments.evaluation import describe, summarize, write_episodes
from defm_rl.experiments.progress import Curves, Progress
from defm_rl.experiments.tasks import make_task


class Forward:
    """Drives straight ahead, and remembers of whom it was told to forget."""

    def __init__(self):
        self.forgotten = []

    def act(self, observations):
        return np.tile(np.float32([1.0, 0.0]), (len(observations["state"]), 1))

    def reset(self, dones=None):
        self.forgotten.append(dones)


def navigation(sensor=None, num_envs=3, observations=("depth", "state"), **kwargs):
    config = NavigationEnvConfig(
        id="defm_rl/Navigation-v0", level="two_walls", depth_size=(24, 48), renderer="rays", num_envs=num_envs
    )
    return make_task(config).make(observations, sensor=sensor, **kwargs)


def test_a_policy_drives_every_layout_once_whatever_the_number_of_environments():
    episodes = {}
    for num_envs in (2, 5):
        env, policy = navigation(num_envs=num_envs, observations=("state",), layouts=range(50, 59)), Forward()
        episodes[num_envs] = sorted(run_episodes(policy, env, range(50, 59)), key=lambda episode: episode.layout)
        env.close()
        assert policy.forgotten[0] is None
        assert sum(dones.sum() for dones in policy.forgotten[1:]) >= 9
    assert [episode.layout for episode in episodes[2]] == list(range(50, 59))
    assert episodes[2] == episodes[5]
    assert {episode.failure for episode in episodes[2]} == {"collision"}
    assert all(isinstance(episode.measures["collision"], bool) for episode in episodes[2])
    assert episodes[2][0].measures["path_length_m"] > 0


class BySight(Forward):
    """Turns by what the camera shows, down to the last bit of it."""

    def act(self, observations):
        depth = observations["depth"]
        turn = [np.sin(1e3 * image.astype(np.float64).sum()) for image in depth]
        return np.stack([np.full(len(depth), 0.8), turn], 1).astype(np.float32)


@pytest.mark.parametrize("sensor", ["stereo_ladder", "realsense_parkour"])
def test_figures_behind_a_sensor_depend_neither_on_the_number_of_environments_nor_on_the_layouts_order(sensor):
    layouts = list(range(50, 56))
    played = {}
    for num_envs, order in ((1, layouts), (4, layouts), (3, layouts[::-1]), (1, layouts[3:])):
        env = navigation(sensor, num_envs=num_envs, layouts=order)
        episodes = run_episodes(BySight(), env, order)
        played[num_envs, *order] = {episode.layout: episode for episode in episodes}
        env.close()
    alone, *others = played.values()
    assert len({episode.reward for episode in alone.values()}) == 6
    for episodes in others:
        assert episodes == {layout: alone[layout] for layout in episodes}


def test_environments_that_ignore_the_layouts_are_an_error_that_says_so():
    env = navigation(num_envs=2, observations=("state",))
    with pytest.raises(ConfigError, match=r"never played the layouts 50, 51, 52, \.\.\.: they ignore `layout_seeds`"):
        list(run_episodes(Forward(), env, range(50, 59)))
    env.close()


def test_environments_that_do_not_report_their_episodes_are_an_error_that_says_what_is_missing():
    env = vector_env(episode_steps=2)
    with pytest.raises(ConfigError, match="do not report layout_seed, failure of an episode"):
        list(run_episodes(Forward(), env, [1]))
    env.close()


def test_the_account_of_an_episode_is_the_sum_of_its_steps():
    class Rewards(VectorWrapper):
        def step(self, actions):
            observations, rewards, *rest = self.env.step(actions)
            seen.append(rewards.copy())
            return observations, rewards, *rest

    seen = []
    env = WatchEpisodes(Rewards(navigation(num_envs=1, observations=("state",))))
    env.reset(seed=0)
    while not env.ended:
        env.step(np.float32([[1.0, 0.0]]))
    (episode,) = env.ended
    assert episode.steps == len(seen)
    assert episode.reward == pytest.approx(np.sum(seen))
    assert list(env.recent) == [episode]
    env.close()


def test_another_sensor_takes_the_place_of_the_configurations():
    frames = {}
    for sensor in (None, "ideal", "stereo"):
        env = navigation(sensor, seed=1)
        frames[sensor] = env.reset(seed=5)[0]["depth"]
        env.close()
    assert np.array_equal(frames[None], frames["ideal"])
    seen = (frames["ideal"] > 0) & (frames["ideal"] < 3)
    assert 0.0005 < np.abs(frames["stereo"] - frames["ideal"])[seen & (frames["stereo"] > 0)].mean() < 0.2


def test_a_sensors_latency_is_counted_in_the_tasks_steps():
    env = navigation("realsense_parkour")  # 0.20 to 0.26 s: one or two steps of 0.2 s
    first = env.reset(seed=0)[0]["depth"]
    forward = np.tile(np.float32([1.0, 0.0]), (3, 1))
    second, _, _, fifth = (env.step(forward)[0]["depth"] for _ in range(4))
    env.close()
    assert np.array_equal(second, first)
    assert not np.array_equal(fifth, first)


def test_a_wrong_sensor_is_refused_even_where_nothing_is_seen():
    with pytest.raises(ValueError, match="did you mean 'stereo'"):
        navigation("sterio", observations=("state",))


EPISODES = [
    Episode(7, True, "", 12, 3.5, {"spl": 0.9, "stuck": False}),
    Episode(8, False, "fall", 30, -1.0, {"spl": 0.0, "stuck": True}),
]


def test_every_measure_and_every_failure_is_summarized_with_its_interval(tmp_path):
    figures = summarize(EPISODES)
    assert figures["success_rate"]["mean"] == 0.5
    assert figures["spl"]["mean"] == pytest.approx(0.45)
    assert figures["stuck_rate"] == figures["failures"]["fall"] == figures["success_rate"]
    assert "fall 50.0%" in describe(figures)
    write_episodes(tmp_path / "episodes.csv", EPISODES)
    with (tmp_path / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        **{"layout": "8", "success": "False", "failure": "fall", "steps": "30", "reward": "-1.0"},
        **{"spl": "0.0", "stuck": "True"},
    }


def test_a_figure_that_only_some_episodes_have_is_averaged_over_those():
    episodes = [dataclasses.replace(EPISODES[0], measures={"time_s": value}) for value in (2.0, float("nan"), 4.0)]
    assert summarize(episodes)["time_s"]["mean"] == 3.0
    assert summarize(episodes)["time_s"]["episodes"] == 2
    assert "time_s" not in summarize(episodes[1:2])


def test_the_history_has_a_column_for_every_measure_and_checkpoints_are_due(tmp_path):
    env = WatchEpisodes(navigation(num_envs=1, observations=("state",)))
    env.recent.extend(EPISODES)
    saved = []
    curves = Curves(tmp_path / "curves")
    progress = Progress(
        tmp_path / "history.csv", env, curves, 300, time_limit_s=1e6, save=lambda: saved.append(1), save_every=100
    )
    for steps in (80, 160, 240):
        assert progress.on_step(steps)
        progress.on_rollout(steps)
    progress.close()
    curves.close()
    env.close()
    assert len(saved) == 1  # at 160; the next one is due at 260
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["steps"] for row in rows] == ["80", "160", "240"]
    assert (rows[0]["success_rate"], rows[0]["spl"], rows[0]["stuck_rate"]) == ("0.5", "0.45", "0.5")


def test_the_history_of_rollouts_of_single_steps_has_a_thousand_rows_and_ends_with_the_last(tmp_path):
    """As SAC's, which ends a rollout at every step of its environments."""
    env = WatchEpisodes(navigation(num_envs=1, observations=("state",)))
    env.recent.extend(EPISODES)
    curves = Curves(tmp_path / "curves")
    progress = Progress(tmp_path / "history.csv", env, curves, 20_000, save=lambda: None, save_every=20_000)
    for steps in range(4, 20_001, 4):
        progress.on_rollout(steps)
    progress.close()
    curves.close()
    env.close()
    with (tmp_path / "history.csv").open() as file:
        steps = [int(row["steps"]) for row in csv.DictReader(file)]
    assert len(steps) in (1000, 1001)
    assert (steps[0], steps[-1]) == (4, 20_000)
