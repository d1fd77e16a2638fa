"""Tasks of Isaac Lab; it is imported where an environment is made, and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from defm_rl.experiments.config import IsaaclabNavigationEnvConfig
from defm_rl.experiments.tasks.managed import DEPTH, ManagedTask


class IsaaclabNavigation(ManagedTask[IsaaclabNavigationEnvConfig]):
    """The navigation task."""

    package = "isaaclab"
    install = (
        "Isaac Lab, which is not installed: pip install isaaclab==3.0.0 'defm-rl[isaaclab]' into an environment of its "
        "own, or `make venv-isaaclab` in a checkout; see docs/isaaclab.md."
    )
    groups = {"state": "policy", "privileged": "privileged", DEPTH: DEPTH}

    @property
    def step_s(self) -> float:
        """The control step."""
        return 0.2

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
        from defm_rl.envs.isaaclab.mdp import layouts_of
        from defm_rl.envs.isaaclab.navigation import FeaturesCfg, ImageCfg, NavigationEnvCfg
        from defm_rl.isaaclab import defm_features, depth_image
        from defm_rl.terms.vector_env import ManagerVectorEnv

        cfg = NavigationEnvCfg()
        cfg.seed = seed
        cfg.scene.num_envs = num_envs
        cfg.sim.device = self.device
        # Isaac Lab rounds the number of steps up: half a step less leaves no room for what floats add.
        cfg.episode_length_s = (self.config.max_episode_steps - 0.5) * cfg.sim.dt * cfg.decimation
        cfg.events.layout.params = {"numbers": list(layouts)}
        if "privileged" not in observations:
            cfg.observations.privileged = None
        if DEPTH not in observations:
            cfg.observations.depth = cfg.scene.camera = None
        else:
            cfg.scene.camera.height, cfg.scene.camera.width = self.config.depth_size
            if features is None:
                cfg.observations.depth = ImageCfg(image=depth_image("camera", **sight))
            else:
                cfg.observations.depth = FeaturesCfg(features=defm_features("camera", **sight, **features))
        groups = {name: self.groups[name] for name in observations}
        task = gymnasium.make(self.config.id, cfg=cfg).unwrapped
        worlds = layouts_of(task)
        return ManagerVectorEnv(task, groups, compact=(DEPTH,), numbers=lambda: worlds.numbers)


make_task = IsaaclabNavigation
