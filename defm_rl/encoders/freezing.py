"""Frozen means frozen: parameters that no optimizer, checkpoint or gradient ever sees."""

import operator
from collections.abc import Callable, Iterator

from torch import Tensor, nn

_RECORD = "_defm_frozen"
"""Attribute of a module: what its frozen tensors were, by name; see `freeze`."""

_BUFFER = ""  # stands in the record for what was a buffer of checkpoints


def _tensors(root: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Each module with each name of a parameter or buffer of it, and that name from the root on."""
    for prefix, module in root.named_modules():
        for name in [*module._parameters, *module._buffers]:
            yield module, name, f"{prefix}.{name}" if prefix else name


def _record(module: nn.Module) -> dict[str, str]:
    record: dict[str, str] = module.__dict__.setdefault(_RECORD, {})
    return record


def freeze(root: nn.Module, select: Callable[[str], bool]) -> None:
    """Turns the selected parameters into non-persistent buffers, and selected buffers into such ones.

    A buffer is not among `parameters()`, so no optimizer is handed it; a non-persistent one is not in `state_dict()`,
    so no checkpoint holds it; and it moves with the module like any other tensor. What a tensor was is recorded in its
    module, of a parameter the first name that it has: parameters that are one under several names are frozen together,
    and are one again when they are unfrozen.

    Args:
        root: The network.
        select: Whether to freeze the parameter or buffer of this (dotted) name.
    """
    named = dict(root.named_parameters(remove_duplicate=False))
    first_names = {parameter: path for path, parameter in reversed(named.items())}
    frozen = {parameter: parameter.detach() for path, parameter in named.items() if select(path)}
    for module, name, path in list(_tensors(root)):
        parameter = module._parameters.get(name)
        if parameter is not None and parameter in frozen:
            del module._parameters[name]
            module.register_buffer(name, frozen[parameter], persistent=False)
            _record(module)[name] = first_names[parameter]
        elif name in module._buffers and name not in module._non_persistent_buffers_set and select(path):
            module._non_persistent_buffers_set.add(name)
            _record(module)[name] = _BUFFER


def unfreeze(root: nn.Module, select: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    """Turns selected frozen tensors back into what they were.

    Args:
        root: The network.
        select: Whether to unfreeze the tensor of this (dotted) name.

    Returns:
        The new parameters by (first) name. What was a parameter already is not among them, and neither are buffers.
    """
    chosen = {
        _record(module)[name] for module, name, path in _tensors(root) if is_frozen(module, name) and select(path)
    }
    thawed: dict[str, nn.Parameter] = {}
    for module, name, path in list(_tensors(root)):
        if not is_frozen(module, name):
            continue
        first = _record(module)[name]
        if first not in chosen or (first == _BUFFER and not select(path)):
            continue
        del _record(module)[name]
        module._non_persistent_buffers_set.discard(name)
        if first == _BUFFER:
            continue
        buffer = module._buffers.pop(name)
        assert buffer is not None
        module.register_parameter(name, thawed.setdefault(first, nn.Parameter(buffer.clone())))
    return thawed


def is_frozen(module: nn.Module, name: str) -> bool:
    """Whether `freeze` has made this (undotted) tensor of a module what it is."""
    return name in module.__dict__.get(_RECORD, {})


def frozen_names(root: nn.Module) -> list[str]:
    """The dotted names of all frozen tensors inside a module, which need not be the one that was frozen."""
    return [path for module, name, path in _tensors(root) if is_frozen(module, name)]


def full_state(root: nn.Module) -> dict[str, Tensor]:
    """The state dict as it would be if nothing were frozen."""
    state: dict[str, Tensor] = root.state_dict()
    for module, name, path in _tensors(root):
        if is_frozen(module, name):
            state[path] = module.get_buffer(name)
    return state


class FrozenWeights:
    """Tells whether a network's buffers are what they were: the same tensors, unwritten.

    It is asked at every step of a rollout, and so looks at the places of the buffers without walking through the
    network, which takes as long as a block of it.

    Args:
        network: A network without parameters.
    """

    def __init__(self, network: nn.Module) -> None:
        places = [(m._buffers, name, x) for m in network.modules() for name, x in m._buffers.items() if x is not None]
        self._buffers, self._names = [place[0] for place in places], [place[1] for place in places]
        self._tensors = [place[2] for place in places]
        # Tensors made in inference mode have no version, and cannot be written outside of it.
        self._versioned = [x for x in self._tensors if not x.is_inference()]
        self._versions = [x._version for x in self._versioned]

    def unchanged(self) -> bool:
        """Whether no buffer was replaced, turned into a parameter, or written since."""
        are_there = all(map(operator.is_, map(dict.get, self._buffers, self._names), self._tensors))
        return are_there and [x._version for x in self._versioned] == self._versions
