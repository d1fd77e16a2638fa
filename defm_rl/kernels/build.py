"""Builds this folder's C++ for the processor where it is first needed, and keeps it on disk.

It needs a C++ compiler and Linux. Where there is none, or where it fails, PyTorch's operations go on doing the work.
"""

import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# By what PyTorch's own kernels use here, which its vector classes are told in the same way.
_INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "DEFAULT": (),
}
_HEADER = re.compile(r'^#include "(.+)"', re.MULTILINE)  # of this folder
_TIMEOUT_S = 300
_REFUSAL = "%s cannot be built or loaded, PyTorch's operations take its place: %s"


def load(source: str, flags: Sequence[str], loader: Callable[[str], _T]) -> _T | None:
    """What `loader` makes of the library of a source, which is built first where it is not on disk yet.

    Libraries are kept in `$XDG_CACHE_HOME/defm_rl` or `~/.cache/defm_rl`, by source and headers, PyTorch, machine and
    flags. So are failures, for each compiler and its version, so that not every process tries again; the log says how
    to.

    Args:
        source: Name of a file in this folder.
        flags: For the compiler, beside those for optimizing and for this machine's instructions.
        loader: From the path of the library.

    Returns:
        None where there is no compiler, or where anything fails; the log says what.
    """
    if sys.platform != "linux":
        return None
    path = Path(__file__).with_name(source)
    flags = ["-std=c++20", "-O3", "-fno-math-errno", "-fPIC", "-fopenmp", *_INSTRUCTIONS[capability()], *flags]
    try:
        library = _library(path, flags)
        if library.exists():
            try:
                return loader(str(library))
            except OSError as error:  # from another system, or broken: it is built again
                _logger.info("%s cannot be loaded: %s", library, error)
                library.unlink(missing_ok=True)
        compiler = shlex.split(os.environ.get("CXX") or "c++")
        if shutil.which(compiler[0]) is None:
            _logger.info("This processor would be faster with a C++ compiler (g++), which is not here.")
            return None
        library.parent.mkdir(parents=True, exist_ok=True)
        with _locked(library.parent):  # workers that start together need it once
            return _built(compiler, path, flags, library, loader)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # as where there is no place to keep it
        _logger.warning(_REFUSAL, source, error)
        return None


def capability() -> str:
    """The instructions that PyTorch uses on this machine, as far as we know them."""
    name = torch.backends.cpu.get_cpu_capability()
    return name if name in _INSTRUCTIONS else "DEFAULT"


def _library(source: Path, flags: Sequence[str]) -> Path:
    text = source.read_text()
    headers = [source.with_name(name).read_text() for name in _HEADER.findall(text)]
    parts = [text, *headers, torch.__version__, platform.machine(), *flags]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "defm_rl" / f"{source.stem}-{digest[:16]}.so"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl  # not on Windows

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing would leave it to processes that were forked meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _built(
    compiler: Sequence[str], source: Path, flags: Sequence[str], library: Path, loader: Callable[[str], _T]
) -> _T | None:
    """What `loader` makes of the library, which is built where it is not there, unless that has failed before."""
    if not library.exists():
        failure = library.with_suffix(f".{_fingerprint(compiler)}.failed")
        if failure.exists():
            why = f"{failure.read_text(errors='replace')} (It was tried before; to try again, delete {failure}.)"
            _logger.warning(_REFUSAL, source.name, why)
            return None
        try:
            _build(compiler, source, flags, library)
            return loader(str(library))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a full disk or the like; a library that cannot be loaded has no number
            why = str(error.stderr if isinstance(error, subprocess.CalledProcessError) else error).strip()
            library.unlink(missing_ok=True)
            failure.write_text(why, errors="replace")
            _logger.warning(_REFUSAL, source.name, why)
            return None
    return loader(str(library))


def _fingerprint(compiler: Sequence[str]) -> str:
    """Of a compiler's place, arguments and version."""
    command = [str(shutil.which(compiler[0])), *compiler[1:]]
    asked = subprocess.run([*command, "--version"], capture_output=True, check=False, timeout=_TIMEOUT_S)
    return hashlib.sha256("\n".join(command).encode() + asked.stdout).hexdigest()[:16]


def _build(compiler: Sequence[str], source: Path, flags: Sequence[str], library: Path) -> None:
    torch_root = Path(torch.__file__).parent
    start = time.perf_counter()
    # A file is there whole or not at all.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        _run(*compiler, *flags, "-c", str(source), "-o", f"{built}.o")
        # Without -fopenmp: PyTorch brings an OpenMP of its own, and a second one would have threads of its own.
        libraries = ["-Wl,--no-as-needed", f"-L{torch_root / 'lib'}", "-ltorch_cpu", "-lc10"]
        _run(*compiler, "-shared", f"{built}.o", *libraries, "-o", str(built))
        built.replace(library)
    _logger.info("Building %s for this processor took %.1f s.", source.name, time.perf_counter() - start)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
