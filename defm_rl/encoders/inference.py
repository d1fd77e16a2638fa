"""A frozen encoder on a processor: one traced graph, a share of the batch on every core."""

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch
from torch import Tensor, nn

_logger = logging.getLogger(__name__)

# Below this many images a share is too small to be worth handing to another thread.
_SMALLEST_SHARE = 2


class FrozenRunner:
    """Runs a frozen function of a batch with as many threads as PyTorch has, each on its share of the batch.

    Depth encoders are made of many small operations, which one core each finishes sooner than all cores together: a
    share per core keeps every core busy without their waiting for each other after each operation. The traced graph
    keeps Python, which only one thread can run at a time, out of it.

    Args:
        function: From (B, H, W) float32 depth to (B, D) features; each image's features depend on that image alone.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._graphs: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {}
        self._threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, depth: Tensor) -> Tensor:
        """(B, H, W) depth to (B, D) features."""
        depth = depth.float()
        size = (depth.shape[-2], depth.shape[-1])
        if size not in self._graphs:
            self._graphs[size] = _trace(self._function, *size)
        graph = self._graphs[size]
        shares = min(self._threads, len(depth) // _SMALLEST_SHARE)
        if shares < 2:
            return graph(depth)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "encode", initializer=torch.set_num_threads, initargs=(1,))
        return torch.cat(list(self._pool.map(_without_gradients(graph), depth.chunk(shares))))


def _without_gradients(graph: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Gradient mode belongs to a thread: the pool's threads must be told."""

    def run(depth: Tensor) -> Tensor:
        with torch.no_grad():
            return graph(depth)

    return run


def _trace(function: Callable[[Tensor], Tensor], height: int, width: int) -> Callable[[Tensor], Tensor]:
    """A frozen graph of the function for images of this size, any number of them; or the function itself.

    The graph is held against the function on a batch of another size before it is trusted.
    """
    probe = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 5.0
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every Python number, which the check below makes harmless
        try:
            graph = torch.jit.freeze(torch.jit.trace(_Traceable(function).eval(), probe[:2], check_trace=False))
            expected, got = function(probe), graph(probe)
        except (RuntimeError, ValueError) as error:
            _logger.debug("Encoding without a graph: %s", error)
            return function
    if got.shape != expected.shape or not torch.allclose(got, expected, rtol=1e-3, atol=1e-3):
        _logger.debug("Encoding without a graph: it gave other features than the network.")
        return function
    return cast(Callable[[Tensor], Tensor], graph)


class _Traceable(nn.Module):
    """A function as the module that the freezing of a graph asks for; the weights it uses become constants."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, depth: Tensor) -> Tensor:
        return self.function(depth)
