"""A run's policy as exporters see it: all that its configuration and its task know goes into the contract."""

import math
from pathlib import Path
from typing import Any

from gymnasium import spaces
from gymnasium.vector import VectorEnv

from defm_rl.deploy.policies import Exportable, ExportError, Facts, Given
from defm_rl.deploy.recording import play
from defm_rl.deploy.runtime.frames import Camera
from defm_rl.encoders.weights import file_sha256, read_adaptation
from defm_rl.experiments.adapted import load_adapted
from defm_rl.experiments.config import Config
from defm_rl.experiments.environments import camera_keys, named_layouts, policy_keys, sees_features
from defm_rl.experiments.evaluation import fingerprint, threads_put_back
from defm_rl.experiments.provenance import provenance
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tasks import Ability, Task, make_task
from defm_rl.observations import EncodingTransform, Transform
from defm_rl.sensors import make_sensor

ENVS = 8
FIRST_LAYOUT = 3_000_000  # neither training nor an evaluation's default draws these


def exportable_run(folder: Path, adapted: Path | None = None) -> tuple[Exportable, Facts]:
    """The policy of a run's newest checkpoint.

    Args:
        folder: The run's.
        adapted: Weights that take the place of the encoder's own.

    Raises:
        ConfigError: Where the folder holds no run, or one without a checkpoint; or the weights are no adaptation of
            its encoder.
        ExportError: Where the policy cannot be exported.
    """
    run = Run(folder)
    with threads_put_back():
        config, policy, encoder = load_adapted(run, adapted)
    task = make_task(config.env)
    task.require(Ability.EXPORT)
    if encoder is not None:
        encoder.precision = "float32"  # what the file computes in, and is held against
    keys = policy_keys(config.encoder, config.algo)
    env = _environments(task, keys)
    space, actions = env.single_observation_space, env.single_action_space
    env.close()
    facts = _facts(run, config, task, adapted)
    transform = None
    if encoder is not None and sees_features(config.encoder):
        transform = EncodingTransform(space, camera_keys(config.encoder), encoder)
    whole = _described(policy, transform, space, actions)

    def record(steps: int) -> Any:
        env = _environments(task, keys)
        try:
            return play(env, whole.act, whole.reset, steps)
        finally:
            env.close()

    whole.record = record
    return whole, facts


def _environments(task: Task[Any], keys: tuple[str, ...]) -> VectorEnv[Any, Any, Any]:
    """As the policy's sensor sees them, before anything is encoded."""
    layouts = named_layouts(FIRST_LAYOUT, ENVS)
    return task.make(keys, num_envs=ENVS, seed=FIRST_LAYOUT, layouts=list(layouts))


def _described(
    policy: Any, transform: Transform | None, space: spaces.Space[Any], actions: spaces.Space[Any]
) -> Exportable:
    kind = type(policy).__name__
    if kind == "SB3Policy":
        from defm_rl.deploy import sb3

        statistics = [] if policy.statistics is None else [policy.statistics]
        return sb3.describe(policy.model, statistics, transform, space)
    if kind == "RslRlPolicy":
        from defm_rl.deploy import rsl_rl

        return rsl_rl.describe(policy.model, transform, space, actions)
    raise ExportError(f"A run with a {kind} cannot be exported.")


def _facts(run: Run, config: Config, task: Task[Any], adapted: Path | None) -> Facts:
    sensor = make_sensor(task.sensor)
    commands = task.commands
    seen = policy_keys(config.encoder, config.algo)
    cameras = {name: camera for name, camera in task.cameras.items() if name in camera_keys(config.encoder)}
    return Facts(
        step_s=task.step_s,
        cameras={
            name: Camera.from_fov(camera.height, camera.width, camera.horizontal_fov_deg)
            for name, camera in cameras.items()
            if camera.horizontal_fov_deg is not None
        },
        given={name: Given(camera.depth_format, camera.z_buffer) for name, camera in cameras.items()},
        entries={
            **{name: entries for name, entries in task.entries.items() if name in seen},
            **({"action": [command.name for command in commands]} if commands else {}),
        },
        units=[command.unit for command in commands] if any(command.unit for command in commands) else [],
        scale=[command.scale for command in commands],
        offset=[command.offset for command in commands],
        sensor={
            "name": task.sensor,
            "latency_s": list(sensor.latency_s),
            "frame_rate_hz": sensor.frame_rate_hz if math.isfinite(sensor.frame_rate_hz) else None,
            "min_depth_m": sensor.nearest_m,
            "max_depth_m": sensor.max_depth_m if math.isfinite(sensor.max_depth_m) else None,
        },
        made_by={
            "run": run.folder.resolve().name,
            "experiment": config.experiment,
            "task": task.name,
            "seed": config.seed,
            "checkpoint": fingerprint(run),
            **({} if adapted is None else {"adapted": _adaptation(adapted)}),
            **provenance(),
        },
    )


def _adaptation(path: Path) -> dict[str, Any]:
    """What the contract says of adapted weights: their file, what they are an adaptation of, and to which cameras."""
    adaptation = read_adaptation(path)
    assert adaptation is not None  # it has been loaded
    sensors = list(adaptation.record["sensors"])
    return {"file": path.name, "sha256": file_sha256(path), "parent": adaptation.parent, "sensors": sensors}
