"""Which interface of environments a wrapper takes, and which call to make where an environment has another one."""

from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv


def check_vector_env(env: object, wrapper: str, *, instead: str, same_step: bool = False) -> None:
    """Refuses what is no vector environment of gymnasium.

    Args:
        env: What was passed.
        wrapper: The name of what wants one.
        instead: What to do with a `VecEnv` of Stable-Baselines3.
        same_step: Whether it has to begin the next episode in the step that ends one.

    Raises:
        TypeError: Says what came, and which call makes the right one.
        ValueError: Where the environment resets itself otherwise, or does not say how.
    """
    if not isinstance(env, VectorEnv):
        advice = "gymnasium.make_vec(id, num_envs=...) makes one."
        if is_sb3_vec_env(env):
            advice = instead
        elif isinstance(env, gymnasium.Env) and getattr(env.unwrapped, "num_envs", None) is not None:
            advice = "It is a batch of environments already: put the VectorEnv of its own library around it first."
        elif isinstance(env, gymnasium.Env):
            mode = ", autoreset_mode=AutoresetMode.SAME_STEP" if same_step else ""
            advice = (
                f"Pass gymnasium.make_vec(id, num_envs=...), or gymnasium.vector.SyncVectorEnv([make_env] * n{mode}), "
                "where make_env is a function that makes one such environment."
            )
        raise TypeError(
            f"{wrapper} takes a vector environment (gymnasium.vector.VectorEnv), not {_described(env)}. {advice}"
        )
    if same_step:
        _check_same_step(env, wrapper)


def check_vec_env(venv: object, wrapper: str, *, instead: str = "") -> None:
    """Refuses what is no `VecEnv` of Stable-Baselines3.

    Args:
        venv: What was passed.
        wrapper: The name of what wants one.
        instead: What to do with a gymnasium vector environment without Stable-Baselines3.

    Raises:
        TypeError: Says what came, and which call makes the right one.
    """
    if is_sb3_vec_env(venv):
        return
    advice = "make_vec_env(id, n_envs=...) of stable_baselines3.common.env_util makes one."
    if isinstance(venv, VectorEnv):
        advice = " ".join(["Pass defm_rl.sb3.GymnasiumVecEnv(env).", instead]).rstrip()
    elif isinstance(venv, gymnasium.Env):
        advice = "Pass DummyVecEnv([make_env]), where make_env is a function that makes one such environment."
    raise TypeError(f"{wrapper} takes a VecEnv of Stable-Baselines3, not {_described(venv)}. {advice}")


def is_sb3_vec_env(env: object) -> bool:
    """Whether it is a `VecEnv` of Stable-Baselines3, which need not be installed."""
    return any((c.__module__, c.__name__) == _SB3_VEC_ENV for c in type(env).__mro__)


_SB3_VEC_ENV = ("stable_baselines3.common.vec_env.base_vec_env", "VecEnv")


def _described(env: object) -> str:
    if is_sb3_vec_env(env):
        kind = "a VecEnv of Stable-Baselines3"
    elif isinstance(env, VectorEnv):
        kind = "a vector environment of gymnasium"
    elif isinstance(env, gymnasium.Env):
        kind = "a single environment (gymnasium.Env)"
    else:
        return repr(env)
    return f"{kind}, {type(env).__name__}"


def _check_same_step(env: VectorEnv[Any, Any, Any], wrapper: str) -> None:
    mode = env.metadata.get("autoreset_mode")
    if mode == AutoresetMode.SAME_STEP:
        return
    needs = f"{wrapper} needs same-step autoreset, "
    if mode is None:
        raise ValueError(
            f"{needs}and {env} does not say how it resets. If the step that ends an episode gives the first "
            'one of the next, say so: env.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}.'
        )
    raise ValueError(
        f"{needs}but {env} says {mode}. Pass autoreset_mode=AutoresetMode.SAME_STEP, to gymnasium.make_vec as "
        'vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP} (the tasks of defm_rl.envs take it themselves).'
    )
