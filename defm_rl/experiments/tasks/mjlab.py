"""Tasks of mjlab; it is imported where an environment is made, and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium.vector import VectorEnv

from defm_rl.experiments.config import MjlabEnvConfig
from defm_rl.experiments.tasks.managed import DEPTH, ManagedTask


class MjlabTask(ManagedTask[MjlabEnvConfig]):
    """One of `defm_rl.envs.mjlab`."""

    package = "mjlab"
    install = (
        "mjlab, which is not installed: pip install mjlab==1.6.0 'defm-rl[mjlab]' into an environment of its own, or "
        "`make venv-mjlab` in a checkout; see docs/mjlab.md."
    )
    groups = {"state": "actor", "privileged": "critic", DEPTH: DEPTH}

    @property
    def step_s(self) -> float:
        """The control step."""
        return 0.02

    def _build(
        self,
        observations: Sequence[str],
        *,
        num_envs: int,
        seed: int,
        layouts: Sequence[int],
        sight: Mapping[str, Any],
        features: Mapping[str, Any] | None,
    ) -> VectorEnv[Any, Any, Any]:
        from mjlab.managers import ObservationGroupCfg
        from mjlab.tasks.registry import load_env_cfg

        import defm_rl.envs.mjlab  # noqa: F401  registers the tasks
        from defm_rl.envs.mjlab.numbered import NumberedEnv
        from defm_rl.mjlab import defm_features, depth_image
        from defm_rl.terms.vector_env import ManagerVectorEnv

        cfg = load_env_cfg(self.config.id)
        cfg.seed = seed
        cfg.scene.num_envs = num_envs
        # mjlab rounds the number of steps up: half a step less leaves no room for what floats add.
        cfg.episode_length_s = (self.config.max_episode_steps - 0.5) * cfg.sim.mujoco.timestep * cfg.decimation
        camera = next(sensor for sensor in cfg.scene.sensors if "depth" in getattr(sensor, "data_types", ()))
        if DEPTH not in observations:
            cfg.scene.sensors = tuple(sensor for sensor in cfg.scene.sensors if sensor is not camera)
            del cfg.observations[DEPTH]
        else:
            camera.height, camera.width = self.config.depth_size
            stock = cfg.observations[DEPTH].terms["features"].params
            limits = {name: stock[name] for name in ("min_depth_m", "max_depth_m")}
            depth = (
                depth_image(camera.name, **limits, **sight)
                if features is None
                else defm_features(camera.name, **limits, **sight, **features)
            )
            cfg.observations[DEPTH] = ObservationGroupCfg(terms={DEPTH: depth})
        if "privileged" not in observations:
            del cfg.observations["critic"]
        groups = {name: self.groups[name] for name in observations}
        task = NumberedEnv(cfg, self.device, layouts)
        return ManagerVectorEnv(
            task,
            groups,
            compact=(DEPTH,),
            numbers=_held(task, "numbers"),
            success=_held(task, "succeeded") if task.knows_success else None,
            max_action=self.config.max_action,
        )


def _held(task: Any, name: str) -> Any:
    """Gives a tensor that the environment writes to in place, without holding the environment."""
    tensor = getattr(task, name)
    return lambda: tensor


make_task = MjlabTask
