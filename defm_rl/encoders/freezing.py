"""Frozen means frozen: parameters that no optimizer, checkpoint or gradient ever sees."""

from collections.abc import Callable, Iterator

from torch import Tensor, nn


def _owners(root: nn.Module, select: Callable[[str], bool]) -> Iterator[tuple[nn.Module, str, str]]:
    for prefix, module in root.named_modules():
        for name in [*module._parameters, *module._buffers]:
            path = f"{prefix}.{name}" if prefix else name
            if select(path):
                yield module, name, path


def freeze(root: nn.Module, select: Callable[[str], bool]) -> None:
    """Turns the selected parameters into non-persistent buffers.

    A buffer is not among `parameters()`, so no optimizer is handed it; a non-persistent one is not in `state_dict()`,
    so no checkpoint holds it; and it moves with the module like any other tensor.

    Args:
        root: The network.
        select: Whether to freeze the parameter of this (dotted) name.
    """
    for module, name, _ in list(_owners(root, select)):
        parameter = module._parameters.get(name)
        if parameter is not None:
            del module._parameters[name]
            module.register_buffer(name, parameter.detach(), persistent=False)


def unfreeze(root: nn.Module, select: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    """Turns selected frozen tensors back into parameters.

    Args:
        root: The network.
        select: Whether to unfreeze the tensor of this (dotted) name.

    Returns:
        The new parameters by name. What was a parameter already is not among them.
    """
    thawed: dict[str, nn.Parameter] = {}
    for module, name, path in list(_owners(root, select)):
        buffer = module._buffers.get(name)
        if isinstance(buffer, Tensor):
            del module._buffers[name]
            module._non_persistent_buffers_set.discard(name)
            parameter = nn.Parameter(buffer.clone())
            module.register_parameter(name, parameter)
            thawed[path] = parameter
    return thawed
