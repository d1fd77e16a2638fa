"""The Python in the documents: fragments, and whole scripts, whose first line is a comment with their file's name."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def blocks(document: str) -> list[str]:
    """All blocks of Python in a document."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)


def scripts(document: str) -> dict[str, str]:
    """The whole scripts, by the name of their file."""
    named = ((re.match(r"# (\w+\.py)\n", block), block) for block in blocks(document))
    return {name[1]: block for name, block in named if name}


def shortened(script: str, constants: dict[str, int]) -> str:
    """A script with other values of the constants that stand alone on a line, as in `STEPS = 200_000`."""
    for name, value in constants.items():
        script = re.sub(rf"^{name} = [\d_]+$", f"{name} = {value}", script, flags=re.MULTILINE)
    return script
