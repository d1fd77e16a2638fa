"""Films show what the policy sees, all of it."""

import numpy as np
import pytest
from PIL import Image

from defm_rl.experiments.animation import write_gif
from defm_rl.experiments.config import compose_config
from defm_rl.experiments.episodes import run_episodes
from defm_rl.experiments.recording import filmed
from defm_rl.experiments.runs import to_config

LAYOUTS = range(7, 9)


class Idle:
    def act(self, observations):
        return np.zeros((len(next(iter(observations.values()))), 5))

    def reset(self, dones=None):
        pass


@pytest.mark.parametrize(
    ("encoder", "shown"),
    [("cnn", ["depth", "wrist_depth"]), ("blind", ["depth"])],
    ids=["two cameras", "blind: one for the viewer"],
)
@pytest.mark.slow
def test_a_film_shows_every_camera_of_the_policy(encoder, shown, tmp_path):
    overrides = ["env=manipulation", "env.depth_size=[24,24]", "env.renderer=rays", "env.max_episode_steps=4"]
    config = to_config(compose_config([*overrides, f"encoder={encoder}", "encoder.cameras=[depth,wrist_depth]"]))
    camera = filmed(config, LAYOUTS)
    for episode in run_episodes(Idle(), camera, LAYOUTS):
        recording = camera.finished[episode.layout]
        recording.outcome = episode
        assert list(recording.depth) == shown
        assert recording.frames == episode.steps + 1
        assert all(frame.shape == (24, 24) for frames in recording.depth.values() for frame in frames)
    if encoder == "cnn":
        assert not np.array_equal(recording.depth["depth"][0], recording.depth["wrist_depth"][0])
    write_gif([recording], tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == recording.frames
    camera.close()
