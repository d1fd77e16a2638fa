"""RSL-RL's policies as exporters see them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor, nn

from defm_rl.deploy.graph import Bound, encode_exactly
from defm_rl.deploy.policies import Exportable, ExportError, about
from defm_rl.deploy.recording import by_name, play
from defm_rl.deploy.wrappers import encoding_in
from defm_rl.depth import DepthFormat
from defm_rl.encoders import DepthEncoder
from defm_rl.observations import Transform
from defm_rl.rsl_rl import DefmModel, RslRlVecEnv
from defm_rl.rsl_rl.exported import StatelessModel


class Network(nn.Module):
    """A `DefmModel` on observations by name.

    Args:
        model: The model; it is copied.
    """

    def __init__(self, model: DefmModel) -> None:
        super().__init__()
        self.model = StatelessModel(model).cpu()

    def forward(self, observations: dict[str, Tensor], memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Observations by name, (B, ...), and (layers, B, size) memory, to the output and the next memory."""
        vectors = [observations[name] for name in self.model.vectors]
        images = [observations[name] for name in self.model.images]
        output, after = self.model(torch.cat(vectors, 1) if vectors else images[0].new_zeros(0), images, memory)
        return output, after

    @property
    def memory(self) -> list[tuple[str, tuple[int, int]]]:
        """Names and shapes of what it remembers."""
        layers, _, size = self.model.state_shape
        return [(name, (layers, size)) for name in self.model.state_names]


class Acting:
    """A model as it is, on observations before anything is encoded.

    Args:
        model: The model.
        names: What it sees.
        encode: What encodes before it, if anything does.
        actions: The actions of the environment, which clips to their bounds.
    """

    def __init__(self, model: DefmModel, names: Sequence[str], encode: Any, actions: spaces.Box) -> None:
        self._model, self._names, self._encode, self._actions = model, names, encode, actions

    def reset(self) -> None:
        """Begins new episodes."""
        with torch.inference_mode():
            self._model.reset()

    def __call__(self, observations: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Actions of a batch of observations."""
        seen: Any = dict(observations)
        if self._encode is not None:
            seen = self._encode(seen)
        device = next(self._model.parameters()).device
        groups = {name: torch.as_tensor(seen[name], device=device) for name in self._names}
        batch = len(next(iter(groups.values())))
        training = self._model.training
        self._model.eval()
        with torch.inference_mode():
            actions = self._model(TensorDict(groups, batch_size=[batch])).cpu().numpy()
        self._model.train(training)
        shaped = actions.reshape(-1, *self._actions.shape)
        return np.clip(shaped, self._actions.low, self._actions.high)


def exportable(model: DefmModel, env: Any) -> Exportable:
    """A model with what stands between its environment and it.

    Args:
        model: The actor or student.
        env: Its environments, an `RslRlVecEnv` or the vector environment in it.

    Raises:
        ExportError: Where the environments do not say what the model sees, or a wrapper is not known here.
    """
    env = env.env if isinstance(env, RslRlVecEnv) else env
    if getattr(env, "single_observation_space", None) is None:
        raise ExportError(
            f"The observations of {type(env).__name__} are not known: pass env=, an RslRlVecEnv or a gymnasium vector "
            "environment. (Of Isaac Lab's, RSL-RL's own exporters take the model: `as_onnx`, `as_jit`.)"
        )
    encoding = encoding_in(env)
    inner = env if encoding is None else encoding.env
    transform = None if encoding is None else encoding.transform
    whole = describe(model, transform, inner.single_observation_space, inner.single_action_space)
    names = list(whole.space)
    whole.record = lambda steps: [
        {name: observations[name] for name in names}
        for observations in map(by_name, play(inner, whole.act, whole.reset, steps))
    ]
    return whole


def describe(
    model: DefmModel, transform: Transform | None, space: spaces.Space[Any], actions: spaces.Space[Any]
) -> Exportable:
    """A model, and what encodes before it, on observations of a space."""
    network = Network(model)
    stateless = network.model
    seen = [*stateless.vectors, *stateless.images]
    if not isinstance(space, spaces.Dict) or not isinstance(actions, spaces.Box) or not set(seen) <= set(space.spaces):
        raise ExportError(f"The model sees {', '.join(seen)}, the environment gives {space} and takes {actions}.")
    encoder: Any = None
    layouts = {}
    if transform is not None:
        encoder = transform.encoder  # type: ignore[attr-defined]
        layouts = {name: layout for name, layout in transform.layouts.items() if name in seen}
    if stateless.encoding is not None:
        encoder = stateless.encoding.encoder
        layouts = dict(stateless.encoding.layouts)
    encode = None if transform is None else encode_exactly(encoder, layouts)
    acting = Acting(model, seen, encode, actions)
    is_defm = isinstance(encoder, DepthEncoder)
    return Exportable(
        space={name: space[name] for name in space.spaces if name in seen},
        action_space=actions,
        network=network,
        bound=Bound(actions),
        layouts=layouts,
        act=acting,
        reset=acting.reset,
        depth_format=encoder.depth_format if is_defm else DepthFormat(),
        memory=network.memory,
        encoder=encoder if transform is not None else None,
        encoded=list(layouts) if transform is not None else (),
        weights=about(encoder),
    )
