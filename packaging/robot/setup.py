"""Takes the robot's modules, and no others, out of the tree that `defm-rl` is built from."""

import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = "../.."
RUNTIME = "defm_rl.deploy.runtime"


class RobotModules(build_py):
    """The runtime as a whole, and of the packages above it only what makes them packages."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """(package, module, file) of each."""
        modules = super().find_package_modules(package, package_dir)
        return [entry for entry in modules if package == RUNTIME or entry[1] == "__init__"]


setup(
    version=tomllib.loads(Path(ROOT, "pyproject.toml").read_text())["project"]["version"],
    packages=["defm_rl", "defm_rl.deploy", RUNTIME],
    package_dir={"": ROOT},
    package_data={"defm_rl": ["py.typed"]},
    cmdclass={"build_py": RobotModules},
    options={"egg_info": {"egg_base": "."}},
)
