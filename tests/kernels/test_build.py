"""What is built for processors is kept, once for all processes; where it cannot be built."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import PYTHON, environment, run

from defm_rl.kernels import build, cpu_depth

# A process loads a library once and for all: each of these is one of its own.
NORMALIZE = """
import logging, torch
from defm_rl import normalize_depth
from defm_rl.kernels import cpu_depth
logging.basicConfig(level=logging.INFO)
depth = torch.rand(2, 8, 8)
available = cpu_depth.available()
channels = normalize_depth(depth)
torch.testing.assert_close(channels, normalize_depth(depth.double()).float(), rtol=1e-4, atol=1e-4)
print("available:", available)
"""
ENCODE = """
import logging, torch
from defm_rl import DepthEncoder
from defm_rl.kernels import cpu
logging.basicConfig(level=logging.INFO)
depth = torch.rand(2, 32, 32)
encoder = DepthEncoder("defm_regnet_y_400mf", weights="random")
torch.testing.assert_close(encoder.encode(depth), encoder(depth), rtol=1e-4, atol=1e-4)
print("available:", cpu.available())
"""
BREAKS = ["for last; do :; done", '[ "$last" = --version ] || echo nothing > "$last"']
"""Of a compiler that gives nothing that could be loaded."""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is built on Linux only")


def needs_compiler() -> None:
    if not cpu_depth.available():
        pytest.skip("no C++ compiler")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "built"),
    [(NORMALIZE, ["depth"]), pytest.param(ENCODE, ["cpu", "depth"], marks=pytest.mark.slow)],
    ids=["normalize", "encode"],
)
def test_what_was_built_is_kept(tmp_path: Path, program: str, built: list[str]) -> None:
    needs_compiler()
    output = run("-c", program, XDG_CACHE_HOME=str(tmp_path))
    for name in built:
        assert f"Building {name}.cpp for this processor took" in output
    assert "available: True" in output
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "defm_rl").iterdir()) == built
    output = run("-c", program, XDG_CACHE_HOME=str(tmp_path), CXX="/missing")
    assert "Building" not in output
    assert "available: True" in output


@pytest.mark.slow
def test_workers_that_start_together_build_once(tmp_path: Path) -> None:
    needs_compiler()
    compiler = script(tmp_path / "c++", f'echo "$@" >> {tmp_path}/calls', "sleep 0.3", 'exec c++ "$@"')
    settings = environment(XDG_CACHE_HOME=str(tmp_path), CXX=compiler)
    workers = [subprocess.Popen([PYTHON, "-c", NORMALIZE], env=settings) for _ in range(3)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0]
    assert len((tmp_path / "calls").read_text().splitlines()) == 3  # to ask its version, to compile and to link


def test_another_header_makes_another_library(tmp_path: Path) -> None:
    source, header = tmp_path / "a.cpp", tmp_path / "b.h"
    source.write_text('#include <cmath>\n#include "b.h"\n')
    header.write_text("int one = 1;")
    before = build._library(source, [])
    assert build._library(source, []) == before
    header.write_text("int one = 2;")
    assert build._library(source, []) != before


@pytest.mark.slow
def test_what_cannot_be_loaded_is_built_again(tmp_path: Path) -> None:
    needs_compiler()
    compiler = script(tmp_path / "c++", *BREAKS)
    assert "available: False" in run("-c", NORMALIZE, XDG_CACHE_HOME=str(tmp_path), CXX=compiler)
    assert "available: True" in run("-c", NORMALIZE, XDG_CACHE_HOME=str(tmp_path), CXX="c++ -O2")


@pytest.mark.slow
@pytest.mark.parametrize("lines", [["echo no >&2", "exit 1"], pytest.param(BREAKS, marks=pytest.mark.slow)])
def test_a_failure_is_remembered_until_its_file_or_the_compiler_is_another(tmp_path: Path, lines: list[str]) -> None:
    needs_compiler()
    log = f'[ "$1" = --version ] && cat {tmp_path}/version && exit; echo "$@" >> {tmp_path}/calls'
    compiler = script(tmp_path / "c++", log, *lines)

    def tries() -> int:
        before = len(calls.read_text().splitlines())
        output = run("-c", NORMALIZE, XDG_CACHE_HOME=str(tmp_path), CXX=compiler)
        assert "available: False" in output
        outputs.append(output)
        return len(calls.read_text().splitlines()) - before

    calls, version, outputs = tmp_path / "calls", tmp_path / "version", list[str]()
    calls.write_text("")
    version.write_text("1.0")
    assert tries() > 0
    assert tries() == 0
    (failure,) = (tmp_path / "defm_rl").iterdir()
    assert f"to try again, delete {failure}" in outputs[-1]
    failure.unlink()
    assert tries() > 0
    version.write_text("2.0")
    assert tries() > 0
    assert "available: True" in run("-c", NORMALIZE, XDG_CACHE_HOME=str(tmp_path))


@pytest.mark.slow
def test_the_lock_is_free_again_though_a_process_was_forked(tmp_path: Path) -> None:
    code = """
import fcntl, os, sys
from pathlib import Path
from defm_rl.kernels import build
folder = Path(sys.argv[1])
with build._locked(folder):
    child = os.fork()
    if child == 0:
        os.read(0, 1)  # lives on with what it inherited
        os._exit(0)
descriptor = os.open(folder, os.O_RDONLY)
fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.kill(child, 9)
"""
    run("-c", code, str(tmp_path))


@pytest.fixture(params=["normalize", pytest.param("both", marks=pytest.mark.slow)])
def programs(request: pytest.FixtureRequest) -> list[str]:
    """What meets a failure, in one process: the normalization alone, or the encoder's operations too."""
    return [NORMALIZE] if request.param == "normalize" else [NORMALIZE, ENCODE]


@pytest.mark.slow
class TestWherePytorchsOperationsDoTheWork:
    def test_without_a_compiler(self, tmp_path: Path) -> None:
        assert_refused("would be faster with a C++ compiler", [NORMALIZE, ENCODE], tmp_path, CXX="/missing")

    def test_with_a_compiler_that_fails(self, tmp_path: Path, programs: list[str]) -> None:
        compiler = script(tmp_path / "c++", "printf 'no such header \\351' >&2", "exit 1")
        assert_refused("PyTorch's operations take its place: no such header", programs, tmp_path, CXX=compiler)

    def test_with_a_file_where_the_cache_should_be(self, tmp_path: Path, programs: list[str]) -> None:
        (tmp_path / "defm_rl").write_text("")
        assert_refused("PyTorch's operations take its place", programs, tmp_path)

    def test_with_a_library_that_cannot_be_loaded(self, tmp_path: Path, programs: list[str]) -> None:
        compiler = script(tmp_path / "c++", *BREAKS)
        assert_refused("PyTorch's operations take its place", programs, tmp_path, CXX=compiler)


def assert_refused(message: str, programs: list[str], cache: Path, **variables: str) -> None:
    output = run("-c", "".join(programs), XDG_CACHE_HOME=str(cache), **variables)
    assert output.count(message) == output.count("available: False") == len(programs)


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)
