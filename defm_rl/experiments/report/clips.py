"""Short films for the report: an episode that succeeds and one that fails, as each policy sees and does them."""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments import animation, environments
from defm_rl.experiments.config import Config
from defm_rl.experiments.episodes import Policy, run_episodes
from defm_rl.experiments.evaluation import Options
from defm_rl.experiments.recording import Recording, filmed

WIDTH_PX = 540
COLOURS = 128


@dataclass(frozen=True)
class Clip:
    """One episode.

    Attributes:
        policy: The arm's name.
        sensor: What the policy sees with.
        layout: The episode's number.
        outcome: "success", or why it failed; its reward where the task knows of neither.
        gif: The film.
    """

    policy: str
    sensor: str
    layout: int
    outcome: str
    gif: bytes


def film(
    name: str, config: Config, policy: Policy, encoder: DepthEncoder | None, options: Options, sensor: str, count: int
) -> list[Clip]:
    """Films up to `count` successes and as many failures among the evaluation's first layouts."""
    recordings: dict[bool, list[Recording]] = {True: [], False: []}
    for recording in _record(config, policy, encoder, options, sensor):
        assert recording.outcome is not None
        recordings[recording.outcome.success is not False].append(recording)
    clips = []
    for recording in (*recordings[True][:count], *recordings[False][:count]):
        outcome = recording.outcome
        assert outcome is not None
        gif = _gif(recording, f"{name}\nsensor {sensor}, layout {outcome.layout}")
        ended = "success" if outcome.success is not None else f"reward {outcome.reward:.3g}"
        clips.append(Clip(name, sensor, outcome.layout, outcome.failure or ended, gif))
    return clips


def _record(
    config: Config, policy: Policy, encoder: DepthEncoder | None, options: Options, sensor: str
) -> list[Recording]:
    """The first layouts, each environment's first: these see the same noise as in the evaluation."""
    num_envs = min(options.num_envs, options.episodes)
    layouts = range(options.first_layout, options.first_layout + num_envs)
    camera = filmed(config, layouts, sensor=sensor)
    recordings = []
    try:
        for episode in run_episodes(policy, environments.encode_once(camera, config.encoder, encoder), layouts):
            recording = camera.finished.pop(episode.layout)
            recording.outcome = episode
            recordings.append(recording)
    finally:
        camera.close()
    return sorted(recordings, key=lambda recording: recording.outcome.layout if recording.outcome else 0)


def _gif(recording: Recording, title: str) -> bytes:
    """Drawn as the run's own animation is, and made small: a report holds many."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.gif"
        animation.write_gif([recording], path, title=title)
        with Image.open(path) as film:
            frames, durations = [], []
            for frame in ImageSequence.Iterator(film):
                height = round(frame.height * WIDTH_PX / frame.width)
                frames.append(frame.convert("RGB").resize((WIDTH_PX, height), Image.Resampling.LANCZOS))
                durations.append(frame.info["duration"])
    # One palette for the whole film, from its beginning, middle and end: one for each frame would make colours flicker.
    telling = np.concatenate([np.asarray(frames[index]) for index in (0, len(frames) // 2, -1)])
    palette = Image.fromarray(telling).quantize(COLOURS)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    small[0].save(buffer, "GIF", save_all=True, append_images=small[1:], duration=durations, loop=0)
    return buffer.getvalue()
