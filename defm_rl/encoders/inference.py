"""A frozen encoder on a processor: one traced graph, a share of the batch on every core."""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch
from torch import Tensor, nn

_logger = logging.getLogger(__name__)

# Two shares for each thread: one that is done early helps with the rest, and smaller shares stay in the cache. Below so
# many images, a share is too small to be worth handing over.
_SHARES_PER_THREAD = 2
_SMALLEST_SHARE = 4


class FrozenRunner:
    """Runs a frozen function of a batch on several threads, each on its share of the batch.

    Depth encoders are made of many small operations, which one core each finishes sooner than all cores together: a
    share per core keeps every core busy without their waiting for each other after each operation. The traced graph
    keeps Python, which only one thread can run at a time, out of it.

    Args:
        prepare: From (B, H, W) depth to (B, 3, H', W') channels; runs as it is.
        network: From channels to (B, D) features, each image's depending on that image alone; becomes a graph.
        weights: The network's weights. A graph keeps what it has computed from them, and is made anew when they change.
        threads: Number of threads.
    """

    def __init__(
        self,
        prepare: Callable[[Tensor], Tensor],
        network: Callable[[Tensor], Tensor],
        weights: Sequence[Tensor],
        threads: int,
    ) -> None:
        self._prepare, self._network = prepare, network
        self._weights = [weight for weight in weights if not weight.is_inference()]  # those cannot be changed in place
        self._graphs: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {}
        self._version = self._weights_version()
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def __call__(self, depth: Tensor) -> Tensor:
        """(B, H, W) depth to (B, D) features."""
        if self._version != (version := self._weights_version()):
            self._graphs.clear()
            self._version = version
        if self._process != (process := os.getpid()):
            # Forked: threads stay behind, the pool's as well as PyTorch's own, for which it would wait forever.
            torch.set_num_threads(1)
            self._pool = None
            self._process = process
        size = (depth.shape[-2], depth.shape[-1])
        if size not in self._graphs:
            self._graphs[size] = _trace(self._network, self._prepare(depth[:1]))
        shares = min(_SHARES_PER_THREAD * self._threads, len(depth) // _SMALLEST_SHARE)
        if self._threads < 2 or shares < 2:
            return self._run(depth)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "encode", initializer=torch.set_num_threads, initargs=(1,))
        return torch.cat(list(self._pool.map(self._run, depth.chunk(shares))))

    def _weights_version(self) -> int:
        """A number that PyTorch raises with each change in place."""
        return sum(weight._version for weight in self._weights)

    def _run(self, depth: Tensor) -> Tensor:
        # Gradient mode and autocast belong to a thread: the pool's must be told, and do the same as the caller's.
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self._graphs[depth.shape[-2], depth.shape[-1]](self._prepare(depth))


def _trace(function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """A frozen graph of the function for images of the example's size, any number of them; or the function itself.

    The graph is held against the function on a batch of another size before it is trusted.
    """
    probe = torch.randn(3, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example)
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast("cpu", enabled=False):
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

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
