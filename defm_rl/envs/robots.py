"""Robots as MJCF: those that come with the tasks, a user's own, and those of the package robot_descriptions."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco

from defm_rl.names import hint

ROBOTS = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.xml"))}
"""The robots that come with the tasks: names and files."""

_COLLECTION = "robot_descriptions"
_KINDS = ("bodies", "joints", "geoms", "sites", "cameras", "actuators", "sensors")


def load_robot(robot: str) -> mujoco.MjSpec:
    """Load a robot to which a task can add its world.

    Args:
        robot: A name in `ROBOTS`; the path of an MJCF file; or `robot_descriptions:NAME`, such as
            `robot_descriptions:go1`, which that package downloads when it is first asked for.

    Raises:
        ValueError: No such name, or a file that MuJoCo cannot read.
        FileNotFoundError: No such file.
        ImportError: robot_descriptions is not installed.
        RuntimeError: The download failed.
    """
    if robot in ROBOTS:
        path = ROBOTS[robot]
    elif robot.startswith(f"{_COLLECTION}:"):
        path = _described(robot.removeprefix(f"{_COLLECTION}:"))
    elif robot.endswith(".xml"):
        path = Path(robot).expanduser()
    else:
        raise ValueError(
            f"unknown robot {robot!r}{hint(robot, ROBOTS)}; a path must end in .xml, "
            f"and {_COLLECTION}:NAME stands for a robot of that package"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no robot file {path}")
    try:
        return mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise ValueError(f"MuJoCo cannot read the robot {path}: {error}") from error


def check_robot(
    spec: mujoco.MjSpec,
    robot: str,
    *,
    bodies: Sequence[str] = (),
    joints: Sequence[str] = (),
    geoms: Sequence[str] = (),
    sites: Sequence[str] = (),
    cameras: Sequence[str] = (),
    actuators: Sequence[str] = (),
    sensors: Sequence[str] = (),
) -> None:
    """Check that a robot has what a task asks for, by name.

    Args:
        spec: The robot.
        robot: What to call it in the error.
        bodies: Names of the bodies needed.
        joints: Of the joints.
        geoms: Of the geoms.
        sites: Of the sites.
        cameras: Of the cameras.
        actuators: Of the actuators.
        sensors: Of the sensors.

    Raises:
        ValueError: Something is missing; says all that is, and what there is instead.
    """
    needed = dict(zip(_KINDS, (bodies, joints, geoms, sites, cameras, actuators, sensors), strict=True))
    complaints = []
    for kind, names in needed.items():
        there = [element.name for element in getattr(spec, kind) if element.name]
        missing = [name for name in names if name not in there]
        if missing:
            complaints.append(f"{kind} {', '.join(missing)} (there are: {', '.join(there) or 'none with a name'})")
    if complaints:
        raise ValueError(f"robot {robot!r} lacks {'; '.join(complaints)}")


def _described(name: str) -> Path:
    """The MJCF file of a robot of robot_descriptions, which downloads it when its module is imported."""
    module_name = f"{_COLLECTION}.{name if name.endswith('_description') else f'{name}_mj_description'}"
    try:
        importlib.import_module(_COLLECTION)
        module: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name:
            raise ValueError(
                f"{_COLLECTION} has no MJCF of {name!r}; `python -m {_COLLECTION} list` lists all"
            ) from error
        raise ImportError(f"{_COLLECTION}:{name} needs a package: pip install {_COLLECTION} ({error})") from error
    except Exception as error:  # git, network and disk fail each in their own way
        raise RuntimeError(
            f"{_COLLECTION} could not fetch {name!r} ({type(error).__name__}: {error}); "
            "fetch the robot where there is a network, and give the path of its .xml file instead"
        ) from error
    if not hasattr(module, "MJCF_PATH"):
        raise ValueError(f"{module_name} has no MJCF, which MuJoCo needs; `python -m {_COLLECTION} list` lists all")
    return Path(module.MJCF_PATH)
