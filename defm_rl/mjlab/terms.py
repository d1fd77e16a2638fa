"""Observation terms for mjlab's manager-based tasks."""

from typing import Any

from mjlab.managers import ObservationGroupCfg, ObservationTermCfg

from defm_rl.mjlab.sensors import DepthCamera
from defm_rl.terms.terms import DepthTerm, FeaturesTerm, TermConfigs


class DefmFeatures(FeaturesTerm):
    """Observation term: DeFM features of one of mjlab's cameras, see `FeaturesTerm`."""

    camera_class = DepthCamera

    def __init__(self, cfg: ObservationTermCfg, env: Any) -> None:
        super().__init__(cfg.params, env, _where(cfg, env))


class DefmDepth(DepthTerm):
    """Observation term: the images of one of mjlab's cameras, see `DepthTerm`."""

    camera_class = DepthCamera

    def __init__(self, cfg: ObservationTermCfg, env: Any) -> None:
        super().__init__(cfg.params, env, _where(cfg, env))


_configs: TermConfigs[ObservationTermCfg] = TermConfigs(DefmFeatures, DefmDepth, ObservationTermCfg)
defm_features, defm_depth, depth_image = _configs.defm_features, _configs.defm_depth, _configs.depth_image


def add_depth_features(
    cfg: Any, camera: Any, encoder: str = "defm_resnet18", *, group: str = "depth", **settings: Any
) -> None:
    """Adds to an environment's configuration a camera, and a group of its features.

    ```python
    cfg = load_env_cfg("Mjlab-Velocity-Rough-Unitree-Go1")
    camera = CameraSensorCfg("camera", parent_body="robot/trunk", data_types=("depth",), pos=..., quat=...)
    add_depth_features(cfg, camera, "defm_resnet18", features="P4", pool="columns")
    ```

    Args:
        cfg: The configuration of an environment; changed in place.
        camera: The configuration of a camera.
        encoder: A published model's name.
        group: The observation group's name.
        **settings: See `defm_features`.
    """
    cfg.scene.sensors = (*cfg.scene.sensors, camera)
    cfg.observations[group] = ObservationGroupCfg(terms={"features": defm_features(camera.name, encoder, **settings)})


def _where(cfg: ObservationTermCfg, env: Any) -> str:
    """The configuration key of a term's parameters; mjlab makes terms of copies of their configurations."""
    for group_name, group in env.cfg.observations.items():
        for term_name, term in (group.terms if group is not None else {}).items():
            if term is not None and term.func is cfg.func and term.params == cfg.params:
                return f"observations[{group_name!r}].terms[{term_name!r}].params"
    return "params"
