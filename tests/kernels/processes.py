"""Python processes of their own, for what one can do only once."""

import os
import subprocess
import sys

PYTHON = sys.executable


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with some other variables."""
    return {**os.environ, **variables}


def run(*arguments: str, **variables: str) -> str:
    """What a Python process prints, which must end well."""
    result = subprocess.run(
        [PYTHON, *arguments], env=environment(**variables), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    return result.stdout + result.stderr
