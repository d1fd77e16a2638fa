"""An encoder alone as exporters see it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from defm_rl.deploy.graph import in_float32
from defm_rl.deploy.policies import Exportable, ExportError, Facts, about
from defm_rl.depth import MAX_DEPTH_M
from defm_rl.encoders import DepthEncoder
from defm_rl.observations import ONLY_KEY, DepthLayout


class _Features(nn.Module):
    def __init__(self, encoder: DepthEncoder) -> None:
        super().__init__()
        self.encoder = in_float32(encoder)

    def forward(self, observations: dict[str, Tensor], memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self.encoder(observations[ONLY_KEY]), memory


def exportable_encoder(encoder: str | DepthEncoder, settings: Mapping[str, Any]) -> tuple[Exportable, Facts]:
    """An encoder, or the name of one with its settings, with its features in the place of actions.

    Raises:
        ExportError: Where the size of the images is not known.
    """
    settings = dict(settings)
    size = settings.get("image_size") or settings.get("size")
    if size is None:
        raise ExportError("An exported encoder takes images of one size: pass image_size=(height, width).")
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if isinstance(encoder, str):
        encoder = DepthEncoder(encoder, **settings)
    network = _Features(encoder)

    def act(observations: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        with torch.no_grad():
            features: NDArray[Any] = network.encoder(torch.from_numpy(observations[ONLY_KEY])).numpy()
        return features

    whole = Exportable(
        space={ONLY_KEY: spaces.Box(0.0, MAX_DEPTH_M, (1, height, width), np.float32)},
        action_space=spaces.Box(-np.inf, np.inf, (encoder.feature_dim,), np.float32),
        network=network,
        bound=None,
        layouts={ONLY_KEY: DepthLayout(1, height, width)},
        act=act,
        reset=lambda: None,
        depth_format=encoder.depth_format,
        weights=about(encoder),
    )
    return whole, Facts()


def made_up_frames(whole: Exportable, count: int = 4) -> list[dict[str, NDArray[Any]]]:
    """Slopes with noise and holes: an encoder alone has no task to record."""
    rng = np.random.default_rng(0)
    shape = whole.space[ONLY_KEY].shape
    assert shape is not None
    slope = np.linspace(0.5, 8.0, shape[-2])[:, None]
    depth = slope + rng.normal(0, 0.2, (count, *shape))
    depth[rng.random(depth.shape) < 0.05] = 0.0
    return [{ONLY_KEY: depth.clip(0).astype(np.float32)}]
