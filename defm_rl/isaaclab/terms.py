"""Observation terms and events for Isaac Lab's manager-based tasks, and the same for its direct ones."""

from typing import Any

from isaaclab.managers import EventTermCfg, ManagerTermBase, ObservationGroupCfg, ObservationTermCfg
from torch import Tensor

from defm_rl.isaaclab.sensors import DepthCamera
from defm_rl.terms.sharing import SharedDepth, changed_images
from defm_rl.terms.terms import (
    DepthTerm,
    FeaturesTerm,
    TermConfigs,
    make_delay,
    settings_of,
    step_of,
    with_defaults,
)


class DefmFeatures(FeaturesTerm, ManagerTermBase):
    """Observation term: DeFM features of one of Isaac Lab's cameras, see `FeaturesTerm`."""

    camera_class = DepthCamera

    def __init__(self, cfg: ObservationTermCfg, env: Any) -> None:
        ManagerTermBase.__init__(self, cfg, env)
        self._place = _where(cfg, env)
        FeaturesTerm.__init__(self, cfg.params, env, self._place)

    def _shown(self, env: Any, observation: Tensor) -> Tensor:
        return _as_leapp_input(self._place, env, observation)


class DefmDepth(DepthTerm, ManagerTermBase):
    """Observation term: the images of one of Isaac Lab's cameras, see `DepthTerm`."""

    camera_class = DepthCamera

    def __init__(self, cfg: ObservationTermCfg, env: Any) -> None:
        ManagerTermBase.__init__(self, cfg, env)
        self._place = _where(cfg, env)
        DepthTerm.__init__(self, cfg.params, env, self._place)

    def _shown(self, env: Any, observation: Tensor) -> Tensor:
        return _as_leapp_input(self._place, env, observation)


_configs: TermConfigs[ObservationTermCfg] = TermConfigs(DefmFeatures, DefmDepth, ObservationTermCfg)
defm_features, defm_depth, depth_image = _configs.defm_features, _configs.defm_depth, _configs.depth_image


def fresh_images_after_reset() -> EventTermCfg:
    """The event that ends the stale image after an automatic reset; it must be the last of the reset events.

    Without it, the observation of a step that resets an environment shows what the camera saw from where the robot was.
    """
    return EventTermCfg(func=refresh_kinematics, mode="reset")


def refresh_kinematics(env: Any, env_ids: Tensor | None) -> None:
    """Moves all bodies, and the cameras on them, to where the reset put them; see `fresh_images_after_reset`."""
    env.scene.write_data_to_sim()
    env.sim.forward()


def add_depth_features(
    cfg: Any,
    camera: Any,
    encoder: str = "defm_resnet18",
    *,
    name: str = "camera",
    group: str = "depth",
    **settings: Any,
) -> None:
    """Adds to an environment's configuration a camera, a group of its features, and the event against stale images.

    ```python
    class MyDepthEnvCfg(MyEnvCfg):
        def __post_init__(self):
            super().__post_init__()
            add_depth_features(self, CameraCfg(...), "defm_resnet18", features="P4", pool="columns")
    ```

    Args:
        cfg: The configuration of a manager-based environment; changed in place.
        camera: The configuration of a camera or a ray-caster camera.
        encoder: A published model's name.
        name: The camera's name in the scene.
        group: The observation group's name.
        **settings: See `defm_features`.
    """
    features = ObservationGroupCfg()
    features.features = defm_features(name, encoder, **settings)
    setattr(cfg.scene, name, camera)
    setattr(cfg.observations, group, features)
    cfg.events.fresh_images = fresh_images_after_reset()
    # Isaac Sim's renderer has to draw again, too: a setting of 3.0 and one of 2.3.
    if hasattr(cfg, "num_rerenders_on_reset"):
        cfg.num_rerenders_on_reset = max(1, cfg.num_rerenders_on_reset)
    elif hasattr(cfg, "rerender_on_reset"):
        cfg.rerender_on_reset = True


def encode_depth(env: Any, sensor: str = "camera", encoder: str = "defm_resnet18", **params: Any) -> Tensor:
    """Features of a depth camera in a direct task, for its `_get_observations`; shared and counted as the term's.

    ```python
    def _get_observations(self):
        return {"policy": torch.cat([self.joint_pos, encode_depth(self, "camera", "defm_resnet18")], dim=-1)}
    ```

    Args:
        env: The environment.
        sensor: The camera's name in `env.scene.sensors`.
        encoder: A published model's name.
        **params: The other parameters of `defm_features`.

    Returns:
        (N, feature_dim) float32.

    Raises:
        TypeError: For a parameter that there is not.
        ValueError: At the first call, where anything is wrong with the parameters.
    """
    params = with_defaults(DefmFeatures, {**params, "sensor": sensor, "encoder": encoder})
    latency_steps = params.pop("latency_steps")
    shared, settings, step = SharedDepth.of(env), settings_of(params), step_of(env)
    encoded = shared.encode(env, DepthCamera, *settings, "encode_depth")
    begun, seen = env.episode_length_buf == 0, encoded.camera
    if step == seen.step:  # an episode that has been seen to begin begins again only where the image is another
        begun = begun & changed_images(seen.camera.read(), seen.depth)
    seen.reset(begun)
    features = encoded.features(step)
    if latency_steps == 0:
        return features
    key = (*settings, latency_steps)
    if key not in shared.delays:
        shared.delays[key] = make_delay(latency_steps, env, "encode_depth")
    shared.delays[key].reset(env.episode_length_buf == 0)
    return shared.delays[key](features, step)


def _as_leapp_input(place: str, env: Any, observation: Tensor) -> Tensor:
    """The observation, as an input of the policy where Isaac Lab exports it with LEAPP.

    LEAPP follows what a term reads through the environment that it is given. Ours share cameras and encodings, and what
    comes of them would be numbers of the graph: those of the first frame, whatever the camera sees.
    """
    if type(env).__module__ != "isaaclab.utils.leapp.proxy":
        return observation
    from leapp import annotate
    from leapp.utils.tensor_description import TensorSemantics

    name = place.removeprefix("observations.").removesuffix(".params").replace(".", "_")
    semantics = TensorSemantics(name=name, ref=observation, kind=None, element_names=None)
    traced: Tensor = annotate.input_tensors(str(env.spec.id), semantics)
    return traced


def _where(cfg: ObservationTermCfg, env: Any) -> str:
    """The configuration key of a term's parameters.

    Isaac Lab's managers copy their configuration: of terms that are equal, the first is the first that is asked for.
    """
    groups = getattr(getattr(env, "cfg", None), "observations", None)
    equal = [
        f"observations.{group_name}.{term_name}.params"
        for group_name, group in (vars(groups) if groups is not None else {}).items()
        for term_name, term in getattr(group, "__dict__", {}).items()
        if isinstance(term, ObservationTermCfg) and (term.func, term.params) == (cfg.func, cfg.params)
    ]
    if not equal:
        return "params"
    places = SharedDepth.of(env).places
    place = next((place for place in equal if place not in places), equal[0])
    places.add(place)
    return place
