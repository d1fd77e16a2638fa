"""The recorded outputs of the published models, and the weights they were recorded with."""

import json
import math
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "reference"


def reference_weights(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights that anyone can draw again: they follow from the parameter's name and shape alone.

    Args:
        name: The parameter's name in the state dict.
        shape: Its shape.

    Returns:
        float32: matrices and kernels with He's variance, biases around 0, layer scales around 0.5, the rest around 1.
    """
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    noise = generator.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        fan_in = math.prod(shape[1:])
        return torch.from_numpy(noise * np.float32(math.sqrt(2.0 / fan_in)))
    center = 0.0 if name.endswith("bias") else 0.5 if name.endswith("gamma") else 1.0
    return torch.from_numpy(np.float32(center) + np.float32(0.1) * noise)


def load_reference_weights(net: nn.Module) -> nn.Module:
    """Gives a network the reference weights, and puts it into evaluation mode."""
    net.load_state_dict({name: reference_weights(name, tuple(t.shape)) for name, t in net.state_dict().items()})
    return net.eval()


@cache
def reference_facts(name: str) -> dict[str, int | dict[str, list[int]]]:
    """What is known of a published model: parameter names and shapes, their number, channels of the outputs."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def reference_outputs(name: str) -> dict[str, dict[str, np.ndarray]]:
    """Inputs ("depth", metres) and outputs of a published model by image size. Some outputs hold every n-th channel."""
    sizes: dict[str, dict[str, np.ndarray]] = {}
    with np.load(FOLDER / f"{name}.npz") as arrays:
        for key in arrays.files:
            size, output = key.split("/", 1)
            sizes.setdefault(size, {})[output] = arrays[key]
    return sizes
