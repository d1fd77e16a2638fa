"""How an encoder computes: on a processor by one traced graph with a share of the batch on every core, or compiled."""

import ctypes
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)

# Bytes beyond which glibc asks the kernel for each allocation anew, page by page; it takes no more than this.
_LARGEST_KEPT = 32 << 20

# Pixels of a share of a large batch: it keeps a core busy for long, and its activations are smaller than what is kept.
_PIXELS_PER_SHARE = 150_000
# Pixels that a share must have for a thread of its own: by measurement in rollouts, where other work lies between the
# encodings. Right after an operation of PyTorch's own threads, which spin for milliseconds, small shares are slower.
_LEAST_PIXELS = 4_000


def share_count(pixels: int, threads: int) -> int:
    """Number of shares to split a batch into: one, which PyTorch's own threads work on, or a multiple of the threads.

    Args:
        pixels: Of all images of the batch.
        threads: Number of threads.
    """
    if pixels < threads * _LEAST_PIXELS:
        return 1
    return -(-max(round(pixels / _PIXELS_PER_SHARE), 1) // threads) * threads


class FrozenRunner:
    """Runs a frozen function of a batch on several threads, each on its share of the batch.

    Depth encoders are made of many small operations, which one core each finishes sooner than all cores together:
    shares keep every core busy without their waiting for each other after each operation. The traced graph keeps
    Python, which only one thread can run at a time, out of it.

    Args:
        prepare: From (B, H, W) depth to (B, 3, H', W') channels; runs as it is.
        network: From channels to (B, D) features, each image's depending on that image alone; becomes a graph, which
            keeps the weights as they are now.
        threads: Number of threads.
    """

    def __init__(
        self,
        prepare: Callable[[Tensor], Tensor],
        network: Callable[[Tensor], Tensor],
        threads: int,
    ) -> None:
        _keep_freed_memory()
        self._prepare, self._network = prepare, network
        self._graphs: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {}
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def __call__(self, depth: Tensor) -> Tensor:
        """(B, H, W) depth to (B, D) features."""
        if self._process != (process := os.getpid()):
            # Forked: threads stay behind, the pool's as well as PyTorch's own, for which it would wait forever.
            torch.set_num_threads(1)
            self._pool = None
            self._process = process
        size = (depth.shape[-2], depth.shape[-1])
        if size not in self._graphs:
            self._graphs[size] = _trace(self._network, self._prepare(depth[:1]))
        shares = self._shares(depth)
        if len(shares) == 1:
            return self._run(depth)
        if self._threads < 2:
            return torch.cat([self._run(share) for share in shares])
        if self._pool is None:
            self._pool = _start_pool(self._threads)
        return torch.cat(list(self._pool.map(self._run, shares)))

    def _shares(self, depth: Tensor) -> tuple[Tensor, ...]:
        """The batch, or where it is large parts of it, the same number for each thread."""
        pixels = len(depth) * depth.shape[-2] * depth.shape[-1]
        return depth.chunk(share_count(pixels, self._threads))

    def _run(self, depth: Tensor) -> Tensor:
        # Gradient mode and autocast belong to a thread: the pool's must be told, and do the same as the caller's.
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self._graphs[depth.shape[-2], depth.shape[-1]](self._prepare(depth))


def _start_pool(threads: int) -> ThreadPoolExecutor:
    """Threads that compute by themselves.

    PyTorch takes the number that one thread sets for that of all threads that come later, and now and then for that of
    those there are: it is put back once all have set theirs.
    """
    before = torch.get_num_threads()
    ready = threading.Barrier(threads + 1)

    def compute_alone() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, "encode", initializer=compute_alone)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool


@cache
def _keep_freed_memory() -> None:
    """Has glibc keep up to 256 MB of freed memory for each thread, unless thresholds have been chosen for the process.

    It would give an encoding's activations back to the kernel at its end, to get them anew in the next one, page by
    page: a tenth to a third of the time.
    """
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if sys.platform != "linux" or chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        library.mallopt(trim_threshold, 256 << 20)
        library.mallopt(mmap_threshold, _LARGEST_KEPT)


class Compiled:
    """A network compiled by TorchInductor, for each size of the batch and the images when it first comes.

    On a GPU its operations are recorded as CUDA graphs, which launch at once. Inductor keeps what it has compiled on
    disk: the next process only loads it. How long it took is logged.

    Args:
        network: From channels to features.
        name: For the log.
        cuda_graphs: Whether to record CUDA graphs on a GPU; where no gradients are needed.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], name: str, *, cuda_graphs: bool) -> None:
        self._run = torch.compile(network, mode="reduce-overhead" if cuda_graphs else None)
        self._name = name
        self._seen: set[tuple[torch.Size, bool]] = set()

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) channels to (B, D) features."""
        key = x.shape, torch.is_grad_enabled()
        if key in self._seen:
            return self._run(x).clone()  # a CUDA graph writes its next result over this one
        self._seen.add(key)
        start = time.perf_counter()
        features = self._run(x).clone()
        size = "x".join(map(str, x.shape))
        _logger.info("Compiling %s for %s took %.1f s.", self._name, size, time.perf_counter() - start)
        return features


def _trace(function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """A frozen graph of the function for images of the example's size, any number of them; or the function itself.

    The graph is compared with the function on a batch of another size before it is used.
    """
    probe = torch.randn(3, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example)
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        warnings.simplefilter("ignore")  # the tracer warns of every Python number, which the check below makes harmless
        try:
            # As `torch.jit.trace` and `freeze` do it, who keep what they make, and the weights, until the process ends.
            graph, _ = torch._C._create_graph_by_tracing(function, (probe[:2],), lambda _: "", True, False)
            torch._C._jit_pass_constant_propagation(graph)
            torch._C._jit_pass_optimize_frozen_graph(graph, True)
            run: Callable[[Tensor], Tensor] = torch._C._create_function_from_graph("encode", graph)
            expected, got = function(probe), run(probe)
        except (RuntimeError, ValueError) as error:
            _logger.debug("Encoding without a graph: %s", error)
            return function
    if got.shape != expected.shape or not torch.allclose(got, expected, rtol=1e-3, atol=1e-3):
        _logger.debug("Encoding without a graph: it gave other features than the network.")
        return function
    return run
