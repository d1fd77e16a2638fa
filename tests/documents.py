"""The code in the documents: by language, with the reason where a block cannot run on any machine."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """Code in a document.

    Attributes:
        document: Where it stands, below the repository's root.
        language: As the fence says.
        code: What is between the fences.
        reason: Why it is not run, as `<!-- not run: reason -->` above it says.
    """

    document: str
    language: str
    code: str
    reason: str | None

    @property
    def script(self) -> str | None:
        """The file's name, of a whole script: its first line is a comment with it."""
        named = re.match(r"# (\w+\.py)\n", self.code)
        return named[1] if named else None


def documents() -> list[str]:
    """All that people read, below the repository's root."""
    others = ("README.md", "CONTRIBUTING.md", "examples/README.md", "packaging/robot/README.md")
    return [*others, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def all_blocks(document: str) -> list[Block]:
    """All code of a document, in its order."""
    found = _BLOCK.finditer((ROOT / document).read_text())
    return [Block(document, each["language"], each["code"], each["reason"]) for each in found]


def blocks(document: str, language: str = "python") -> list[str]:
    """The code of a language in a document that runs here."""
    return [each.code for each in all_blocks(document) if each.language == language and each.reason is None]


def scripts(document: str) -> dict[str, str]:
    """The whole scripts that run here, by the name of their file."""
    return {each.script: each.code for each in all_blocks(document) if each.script and each.reason is None}


def shortened(script: str, constants: dict[str, int]) -> str:
    """A script with other values of the constants that stand alone on a line, as in `STEPS = 200_000`."""
    for name, value in constants.items():
        script = re.sub(rf"^{name} = [\d_]+$", f"{name} = {value}", script, flags=re.MULTILINE)
    return script
