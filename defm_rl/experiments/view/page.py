"""One page of HTML, whole by itself: it works in a browser without a network."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defm_rl.experiments.templates import template
from defm_rl.experiments.view.looks import Cells, Look

_FARTHEST_MM = 65535


def write_page(
    path: Path, title: str, names: Sequence[str], looks: Mapping[str, Sequence[Look]], facts: Mapping[str, Any]
) -> None:
    """Writes the page.

    Args:
        path: The file.
        title: Of the page.
        names: Of the frames.
        looks: By camera, what is seen of each frame.
        facts: Shown below the title, by name.
    """
    depth = np.concatenate([look.depth.ravel() for seen in looks.values() for look in seen])
    known = depth[depth > 0]
    data = {
        "frames": list(names),
        "cameras": {camera: [_look(look) for look in seen] for camera, seen in looks.items()},
        "far": float(np.percentile(known, 98)) if len(known) else 1.0,
        "farthest": float(known.max()) if len(known) else 1.0,
        "colours": [_hex(colour) for colour in matplotlib.colormaps["viridis_r"](np.linspace(0, 1, 32))],
        "heat": [_hex(colour) for colour in matplotlib.colormaps["magma"](np.linspace(0, 1, 32))],
    }
    # "<" could end the script's element, as in a file's name.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = template("defm_rl.experiments.view", "view.html.jinja").render(title=title, facts=facts, data=text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _look(look: Look) -> dict[str, Any]:
    height, width = look.depth.shape
    return {
        "size": [height, width],
        "depth": _png(_packed(look.depth)),
        "channels": _png(look.channels),
        "maps": {level: _cells(cells) for level, cells in look.maps.items()},
    }


def _cells(cells: Cells) -> dict[str, Any]:
    return {
        "size": list(cells.colours.shape[:2]),
        "cell": list(cells.cell_px),
        "colours": _png(cells.colours),
        "dims": cells.vectors.shape[2],
        "vectors": base64.b64encode(np.ascontiguousarray(cells.vectors).tobytes()).decode(),
    }


def _packed(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Millimetres as red (times 256) and green: browsers decode no more than 8 bits of a channel."""
    millimetres = np.clip(np.rint(depth * 1000), 0, _FARTHEST_MM).astype(np.uint16)
    return np.dstack([millimetres >> 8, millimetres & 255, np.zeros_like(millimetres)]).astype(np.uint8)


def _png(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _hex(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])
