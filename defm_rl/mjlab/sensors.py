"""Depth in metres from mjlab's cameras."""

from torch import Tensor

from defm_rl.terms.cameras import SceneCamera

DEPTH = "depth"
"""The data type that is depth along the optical axis, 0 where nothing is hit."""


class DepthCamera(SceneCamera):
    """A camera of an mjlab scene (a `CameraSensor`) as metric depth; see `SceneCamera`."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self._sensor.cfg.height), int(self._sensor.cfg.width)

    def _choose_data_type(self, name: str, asked: str, where: str) -> str:
        given = getattr(self._sensor.cfg, "data_types", None)
        if given is None:
            raise ValueError(
                f"{where}.sensor: {name!r} is a {type(self._sensor).__name__}, which gives no images: name a "
                "CameraSensor."
            )
        if asked not in ("auto", DEPTH):
            raise ValueError(f"{where}.data_type: {asked!r} is not depth; it must be {DEPTH!r} or 'auto'.")
        if DEPTH not in given:
            raise ValueError(
                f"{where}.sensor: {name!r} gives no depth but {', '.join(given)}: add 'depth' to its data_types."
            )
        return DEPTH

    def _image(self) -> Tensor:
        image: Tensor = self._sensor.data.depth
        return image[..., 0]
