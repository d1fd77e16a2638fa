"""Depth-camera tasks for Isaac Lab: `import defm_rl.envs.isaaclab` registers them with gymnasium."""

import gymnasium

_AGENTS = f"{__name__}.agents"
_TASKS = {"": "", "-Flat": "Flat", "-Image": "Image", "-Dict": "Dict", "-Blind": "Blind"}

for _suffix, _name in _TASKS.items():
    gymnasium.register(
        id=f"defm_rl/Isaac-Navigation{_suffix}-v0",
        entry_point="isaaclab.envs:ManagerBasedRLEnv",
        disable_env_checker=True,
        kwargs={"env_cfg_entry_point": f"{__name__}.navigation:Navigation{_name}EnvCfg"},
    )
