"""policy.safetensors: what of a policy acts, as tensors and JSON. Unlike a pickle, it runs nobody's code when read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from defm_rl.experiments.config import ConfigError

FILE = "policy.safetensors"

_FACTS = "defm_rl.policy"  # the key of the file's metadata, whose values are texts


def write(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes a policy's tensors, and what is to be known of it beside them.

    Args:
        folder: Where to.
        tensors: By name; those that share their memory are written once.
        facts: As JSON takes them.

    Raises:
        ConfigError: For a state that is no tensor.
    """
    names: dict[tuple[Any, ...], str] = {}
    same, kept = {}, {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ConfigError(f"{name} of the policy is a {type(tensor).__name__}: only tensors are shared.")
        memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else (name,)
        first = names.setdefault(memory, name)
        if first == name:
            kept[name] = tensor.detach().cpu().contiguous().clone()
        else:
            same[name] = first
    save_file(kept, folder / FILE, {_FACTS: json.dumps({**facts, "same": same})})


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote.

    Raises:
        ConfigError: Where the file is damaged, or another's.
    """
    path = folder / FILE
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[_FACTS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
        tensors |= {name: tensors[first] for name, first in facts.pop("same").items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged, or no policy of this library's: {error}") from error
    return tensors, facts


def describe_space(space: spaces.Space[Any], name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A space as JSON; the bounds of boxes, which say whose features they hold, are added to `tensors`.

    Raises:
        ConfigError: For a kind of space that no task here has.
    """
    if isinstance(space, spaces.Dict):
        return {key: describe_space(part, f"{name}/{key}", tensors) for key, part in space.items()}
    if isinstance(space, spaces.Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.Box):
        for end in ("low", "high"):
            tensors[f"{name}/{end}"] = torch.from_numpy(np.array(getattr(space, end)))
        return {"dtype": str(space.dtype)}
    raise ConfigError(f"A policy with a space of {type(space).__name__} cannot be shared: there are boxes and numbers.")


def make_space(facts: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor]) -> spaces.Space[Any]:
    """What `describe_space` described."""
    if "n" in facts:
        return spaces.Discrete(facts["n"], start=facts["start"])
    if isinstance(facts.get("dtype"), str):
        low, high = (tensors[f"{name}/{end}"].numpy() for end in ("low", "high"))
        return spaces.Box(low, high, dtype=np.dtype(facts["dtype"]).type)
    return spaces.Dict({key: make_space(part, f"{name}/{key}", tensors) for key, part in facts.items()})
