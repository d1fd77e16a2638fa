"""`defm-rl doctor`: what is installed and works here, what is missing, how to get it; for bug reports, too."""

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from packaging.requirements import Requirement

_USAGE = """\
usage: defm-rl doctor

{summary}
The exit status is 1 where something that is needed is broken. What an optional part lacks is a note.
"""
_DISTRIBUTION = "defm-rl"
_NOT_FOR_USERS = ("all", "dev")
_MISSING = "is missing"
_HUB_TIMEOUT_S = 5.0
_RENDERING_TIMEOUT_S = 120.0
# Each looks at a box whose top is 2 m below the camera.
_RENDERING = """
import sys
import mujoco
import numpy as np
from defm_rl.envs.rendering import DepthRenderer

xml = '<mujoco><worldbody><geom type="box" size="1 1 1"/><camera name="eye" pos="0 0 3"/></worldbody></mujoco>'
model = mujoco.MjModel.from_xml_string(xml)
data, kind = mujoco.MjData(model), mujoco.mjtState.mjSTATE_INTEGRATION
state = np.empty((1, mujoco.mj_stateSize(model, kind.value)))
mujoco.mj_getState(model, data, state[0], kind.value)
depth = np.zeros((1, 32, 32), np.float32)
renderer = DepthRenderer(sys.argv[1], model, ["eye"], (32, 32), 1, 1)
renderer.render([model], state, [depth])
renderer.close()
if abs(depth[0, 16, 16] - 2.0) > 1e-3:
    raise RuntimeError(f"the depth of a box 2 m away came out as {depth[0, 16, 16]:.4g} m")
"""
_ENCODER = "defm_resnet18"
# Of features computed in another order, and on a GPU, which multiplies in TF32 at best.
_MAX_RELATIVE_ERROR = {"cpu": 1e-3, "cuda": 2e-2}


class Status(Enum):
    """What a finding means."""

    OK = "ok"
    NOTE = "note"  # something optional is not there
    BROKEN = "BROKEN"  # something needed does not work


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        status: Whether anything is wrong.
        name: Of what was looked at.
        text: What was found, and what to do about it.
    """

    status: Status
    name: str
    text: str


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(_USAGE.format(summary=__doc__))
        return 0
    if arguments:
        sys.stderr.write(f"defm-rl doctor: takes no arguments, got {' '.join(arguments)}\n")
        return 2
    broken = []
    for finding in examine():
        sys.stdout.write(f"{finding.status.value:<7} {finding.name:<16} {finding.text}\n")
        sys.stdout.flush()
        if finding.status is Status.BROKEN:
            broken.append(finding.name)
    sys.stdout.write(f"\nBroken: {', '.join(broken)}.\n" if broken else "\nAll that is needed works.\n")
    return 1 if broken else 0


def examine() -> Iterator[Finding]:
    """All findings, each as soon as it is there."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": versions,
        "GPU": gpu,
        "rendering": rendering,
        "kernels": kernels,
        "Hub": hub,
        "extras": extras,
        "self-test": self_test,
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # the one who looks for what is broken must not break
            yield Finding(Status.BROKEN, name, f"{type(error).__name__}: {error}")


def versions() -> Iterator[Finding]:
    """This library, Python, and what the library cannot do without."""
    yield Finding(Status.OK, "system", f"{platform.platform()}, {os.cpu_count()} cores")
    yield Finding(Status.OK, "python", f"{platform.python_version()} ({sys.executable})")
    try:
        here = Path(__file__).parents[1]
        yield Finding(Status.OK, _DISTRIBUTION, f"{importlib.metadata.version(_DISTRIBUTION)} ({here})")
    except importlib.metadata.PackageNotFoundError:
        yield Finding(Status.BROKEN, _DISTRIBUTION, "is imported but not installed: pip install -e . in its folder")
        return
    for requirement in requirements():
        wrong = lack(requirement)
        if wrong:
            yield Finding(
                Status.BROKEN, requirement.name, f"{wrong}: pip install '{requirement.name}{requirement.specifier}'"
            )
        else:
            yield Finding(Status.OK, requirement.name, importlib.metadata.version(requirement.name))


def gpu() -> Iterator[Finding]:
    """The GPUs that PyTorch sees."""
    import torch

    if not torch.cuda.is_available():
        build = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is a CPU build"
        has_driver = shutil.which("nvidia-smi") is not None
        advice = ", though there is an NVIDIA driver: see https://pytorch.org/get-started" if has_driver else ""
        yield Finding(Status.NOTE, "GPU", f"none that PyTorch can use ({build}){advice}")
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        text = (
            f"{card.name}, {card.total_memory / 1e9:.0f} GB, compute capability {card.major}.{card.minor}, "
            f"CUDA {torch.version.cuda}"
        )
        yield Finding(Status.OK, f"GPU {index}", text)
    if not _installed("triton"):
        yield Finding(
            Status.NOTE, "triton", "is not there: PyTorch's operations take the place of our kernels on the GPU"
        )


def rendering() -> Iterator[Finding]:
    """How MuJoCo's cameras see, each way in a process of its own, which a driver may crash."""
    if not _installed("mujoco"):
        yield Finding(Status.NOTE, "rendering", "MuJoCo is not there: pip install 'defm-rl[envs]'")
        return
    no_egl = _renders("egl")
    if not no_egl:
        yield Finding(Status.OK, "rendering", "by OpenGL (EGL)")
        return
    no_rays = _renders("rays")
    if no_rays:
        yield Finding(Status.BROKEN, "rendering", f"neither by EGL ({no_egl}) nor by rays ({no_rays})")
    else:
        yield Finding(Status.NOTE, "rendering", f"by rays, which is several times slower than EGL: {no_egl}")


def kernels() -> Iterator[Finding]:
    """The compiler, and what was built with it."""
    from defm_rl.kernels import build, cpu, cpu_depth, cpu_sensors

    if sys.platform != "linux":
        yield Finding(Status.NOTE, "kernels", "are built on Linux only; PyTorch's operations take their place")
        return
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    path = shutil.which(compiler[0])
    if path is None:
        text = f"no C++ compiler ({compiler[0]}): the CNNs are slower on this processor; sudo apt install g++"
        yield Finding(Status.NOTE, "compiler", text)
    else:
        asked = subprocess.run([*compiler, "--version"], capture_output=True, text=True, errors="replace", check=False)
        version = (asked.stdout.splitlines() or ["says no version"])[0]
        text = f"{path}: {version}; at first, it builds our kernels for some twenty seconds"
        yield Finding(Status.OK, "compiler", text)
    start = time.perf_counter()
    built = {
        "encoders": cpu.available(),
        "normalization": cpu_depth.available(),
        "sensors": cpu_sensors.available(),
    }
    took = f"{build.capability()}, ready in {time.perf_counter() - start:.1f} s"
    missing = [name for name, there in built.items() if not there]
    if missing:
        text = f"those of {' and '.join(missing)} are not there: PyTorch's operations take their place, slower"
        yield Finding(Status.NOTE, "kernels", text)
    else:
        yield Finding(Status.OK, "kernels", f"those of encoders, normalization and sensors ({took})")


def hub() -> Iterator[Finding]:
    """Whether the published weights can be had."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    from defm_rl.encoders.weights import REPOSITORY, first_line
    from defm_rl.encoders.zoo import CARDS

    files = {name: f"{name}.pth" for name in CARDS}
    held = [name for name, file in files.items() if isinstance(try_to_load_from_cache(REPOSITORY, file), str)]
    cache = Path(constants.HF_HUB_CACHE)
    have = f"{len(held)} of {len(files)} weights in {cache}" + (f" ({', '.join(held)})" if held else "")
    place = next((folder for folder in (cache, *cache.parents) if folder.exists()), cache)
    writable = os.access(place, os.W_OK)
    yield Finding(
        Status.OK if writable else Status.NOTE,
        "cache",
        have + ("" if writable else f"; {place} cannot be written to: set HF_HOME to a folder that can"),
    )
    if constants.HF_HUB_OFFLINE:
        yield Finding(Status.NOTE, "Hub", "is not asked: HF_HUB_OFFLINE is set")
        return
    try:
        # Of weights: the Hub counts who asks for config.json as a download.
        get_hf_file_metadata(hf_hub_url(REPOSITORY, files[_ENCODER]), timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # of requests, httpx or httpx2, as huggingface_hub's version has it
        text = (
            f"{constants.ENDPOINT} does not answer ({type(error).__name__}: {first_line(error)}): beyond what the "
            "cache has, pass weights='/path/to/file.pth' or weights='random'"
        )
        yield Finding(Status.NOTE, "Hub", text)
    else:
        yield Finding(Status.OK, "Hub", f"{constants.ENDPOINT} has {REPOSITORY}")


def extras() -> Iterator[Finding]:
    """Which of the optional parts are whole."""
    try:
        offered = importlib.metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:  # which `versions` has said
        return
    for extra in sorted(set(offered) - set(_NOT_FOR_USERS)):
        wrong = {needed.name: lack(needed) for needed in requirements(extra)}
        lacks = [name if what == _MISSING else f"{name} ({what})" for name, what in wrong.items() if what]
        if lacks:
            text = f"lacks {', '.join(lacks)}: pip install '{_DISTRIBUTION}[{extra}]'"
            yield Finding(Status.NOTE, f"[{extra}]", text)
        else:
            yield Finding(Status.OK, f"[{extra}]", "whole")


def self_test() -> Iterator[Finding]:
    """Depth goes through an encoder of random weights, frozen and trained, on each kind of device."""
    import torch

    from defm_rl import DepthEncoder, load_encoder, normalize_depth

    depth = 0.5 + 5.0 * torch.rand(16, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = load_encoder(_ENCODER, "random")(normalize_depth(depth), features=("global",)).global_features
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        frozen = DepthEncoder(_ENCODER, weights="random").to(device)
        frozen.encode(depth.to(device))  # recorded and packed at first
        start = time.perf_counter()
        features = frozen.encode(depth.to(device)).float().cpu()
        took_ms = (time.perf_counter() - start) * 1e3
        error = float((features - expected).abs().max() / expected.abs().max())
        if not error <= _MAX_RELATIVE_ERROR[device]:
            raise RuntimeError(f"features on {device} are off by {error:.2g} of the largest")
        trained = DepthEncoder(_ENCODER, weights="random", trainable="all").to(device)
        trained(depth[:2].to(device)).square().mean().backward()
        gradients = [p.grad for p in trained.parameters() if p.requires_grad]
        if not all(g is not None and bool(g.isfinite().all()) for g in gradients):
            raise RuntimeError(f"gradients on {device} are missing or not finite")
        text = f"{_ENCODER} on {device}: 16 frames of 64x64 in {took_ms:.0f} ms, features and gradients are right"
        yield Finding(Status.OK, "self-test", text)


def requirements(extra: str = "") -> list[Requirement]:
    """What the library needs on this machine; what an extra needs beside that, those that it names included."""
    found: dict[str, Requirement] = {}
    for line in importlib.metadata.requires(_DISTRIBUTION) or []:
        requirement = Requirement(line)
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        wanted = not always and requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
        if not (wanted if extra else always):
            continue
        if requirement.name == _DISTRIBUTION:
            found.update((r.name, r) for inner in sorted(requirement.extras) for r in requirements(inner))
        else:
            found[requirement.name] = requirement
    return list(found.values())


def lack(requirement: Requirement) -> str:
    """What is wrong with an installed package; nothing where it is as required."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return _MISSING
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{version} is here, not {requirement.specifier}"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it was taken out of sys.modules by None
        return False


def _renders(renderer: str) -> str:
    """Why a renderer does not work; nothing where it does."""
    command = [sys.executable, "-c", _RENDERING, renderer]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_RENDERING_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_RENDERING_TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines() or ["it said nothing"]
    return said[-1] if done.returncode > 0 else f"its process was ended by signal {-done.returncode}"
