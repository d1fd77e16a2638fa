"""Depth-camera tasks for Isaac Lab: `import defm_rl.envs.isaaclab` registers them with gymnasium."""

import importlib.util

import gymnasium

_AGENTS = f"{__name__}.agents"


def _register(task: str, env_cfg: str, **agents: str) -> None:
    """Registers a task with its environment configuration and agent configurations by trainer."""
    gymnasium.register(
        id=f"defm_rl/Isaac-{task}-v0",
        entry_point="isaaclab.envs:ManagerBasedRLEnv",
        disable_env_checker=True,
        kwargs={
            "env_cfg_entry_point": f"{__name__}.{env_cfg}",
            **{f"{trainer}_cfg_entry_point": f"{_AGENTS}{config}" for trainer, config in agents.items()},
        },
    )


_register(
    "Navigation",
    "navigation:NavigationEnvCfg",
    rsl_rl=".rsl_rl:FeaturesPpoCfg",
    rsl_rl_recurrent=".rsl_rl:RecurrentPpoCfg",
    rsl_rl_teacher=".rsl_rl:TeacherPpoCfg",
    rsl_rl_distillation=".rsl_rl:DistillationCfg",
)
_register(
    "Navigation-Flat",
    "navigation:NavigationFlatEnvCfg",
    rsl_rl=".rsl_rl:VectorPpoCfg",
    sb3=":sb3_ppo.yaml",
    skrl=":skrl_ppo.yaml",
    rl_games=":rl_games_ppo.yaml",
)
_register(
    "Navigation-Image",
    "navigation:NavigationImageEnvCfg",
    rsl_rl=".rsl_rl:ImagePpoCfg",
    rl_games=":rl_games_image_ppo.yaml",
)
_register("Navigation-Dict", "navigation:NavigationDictEnvCfg", defm_skrl=":skrl_dict_ppo.yaml")
_register("Navigation-Blind", "navigation:NavigationBlindEnvCfg", rsl_rl=".rsl_rl:VectorPpoCfg")

# Isaac Lab's own tasks with a depth camera; their robots are downloaded when an environment is made.
for _task, _cfg, _ppo in (
    ("Velocity-Rough-AnymalD-Depth", "AnymalDRoughDepth", "StockPpoCfg"),
    ("Navigation-AnymalC-Depth", "AnymalCNavigationDepth", "StockSymmetricPpoCfg"),
    ("Lift-Cube-Franka-Depth", "FrankaLiftDepth", "StockPpoCfg"),
):
    _register(_task, f"stock:{_cfg}EnvCfg", rsl_rl=f".rsl_rl:{_ppo}")
    _register(
        f"{_task}-Flat",
        f"stock:{_cfg}FlatEnvCfg",
        rsl_rl=".rsl_rl:VectorPpoCfg",
        sb3=".stock:sb3_ppo",
        skrl=".stock:skrl_ppo",
    )

if importlib.util.find_spec("rl_games") is not None:
    import defm_rl.rl_games  # noqa: F401  (registers the network that the configurations name)
