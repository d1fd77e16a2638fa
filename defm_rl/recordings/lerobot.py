"""Depth in LeRobot datasets, v2.1 and v3.0: images or arrays in Parquet files, or video of quantized depth.

`meta/info.json` says which features are depth, in which unit images are, and how video was quantized: to 12-bit codes
of log(depth + shift), as LeRobot 0.6 writes it (lerobot/datasets/depth_utils.py).
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defm_rl.recordings import files
from defm_rl.recordings.base import Part, RecordingError, below, needed, spread_indices

_LAST_CODE = 4095
_LAST_OF_16_BITS = 65535
_QUANTIZED = {"depth_min": 0.01, "depth_max": 10.0, "shift": 3.5, "use_log": True}
"""LeRobot's defaults, where a dataset has 12-bit video and does not say."""


def reads(path: Path) -> bool:
    """Whether this is one."""
    return (path / "meta" / "info.json").is_file()


def parts(source: str, key: str | None) -> list[Part]:
    """A part for each file of the feature."""
    folder = Path(source)
    features: dict[str, Any] = json.loads((folder / "meta" / "info.json").read_text()).get("features", {})
    depth = [name for name, feature in features.items() if _is_depth(name, feature)]
    if key is None and len(depth) != 1:
        which = f"{', '.join(depth)}: name one by {source}#{depth[0]}" if depth else f"none of {', '.join(features)}"
        raise RecordingError(f"recorded={source} is a LeRobot dataset; of its features depth is {which}.")
    name = key or depth[0]
    if name not in features:
        raise RecordingError(f"recorded={source} has no feature {name!r}; there is: {', '.join(features)}.")
    feature = features[name]
    info = _info(feature)
    if feature.get("dtype") == "video":
        found = below(folder / "videos", f"{name}/*/*", f"*/{name}/*")
        return [Part(f"{file}", _video_reader(file, info), "m") for file in found]
    found = below(folder / "data", "*/*.parquet", "*.parquet")
    if not found:
        raise RecordingError(f"recorded={source}: the dataset's folder data holds no Parquet files.")
    return [Part(f"{file}#{name}", _table_reader(file, name, folder), info.get("depth_unit")) for file in found]


def _info(feature: Mapping[str, Any]) -> dict[str, Any]:
    return {**(feature.get("video_info") or {}), **(feature.get("info") or {})}


def _is_depth(name: str, feature: Mapping[str, Any]) -> bool:
    """Whether the feature says so; arrays, which cannot, are depth where they are called so."""
    info = _info(feature)
    if info.get("is_depth_map") or info.get("video.is_depth_map"):
        return True
    shape = [side for side in feature.get("shape", ()) if side != 1]
    return feature.get("dtype") != "video" and len(shape) == 2 and "depth" in name.lower()


def _table_reader(file: Path, name: str, folder: Path) -> Callable[[int | None], list[NDArray[Any]]]:
    def read(limit: int | None) -> list[NDArray[Any]]:
        parquet = needed("pyarrow.parquet", "reading LeRobot datasets")
        column = parquet.read_table(file, columns=[name]).column(name)
        rows = [column[index].as_py() for index in spread_indices(len(column), limit)]
        return [np.stack([files.stack(_image(row, folder))[0] for row in rows])]

    return read


def _image(row: Any, folder: Path) -> NDArray[Any]:
    """An image as Hugging Face's `datasets` keep it, or an array as nested lists."""
    if isinstance(row, dict):
        return files.picture(row["bytes"] or (folder / row["path"]).read_bytes())
    array = np.asarray(row)
    if array.dtype.kind not in "iu":
        return array.astype(np.float32)
    # Lists do not say of which type their numbers were; those of 16 bits have a hole at their type's largest.
    return array.astype(np.uint16) if array.min() >= 0 and array.max() <= _LAST_OF_16_BITS else array


def _video_reader(file: Path, info: Mapping[str, Any]) -> Callable[[int | None], list[NDArray[Any]]]:
    def read(limit: int | None) -> list[NDArray[Any]]:
        av = needed("av", "reading LeRobot's depth video")
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            bits = stream.codec_context.format.components[0].bits
            said = {key: info[f"video.{key}"] for key in _QUANTIZED if info.get(f"video.{key}") is not None}
            if bits < 12:
                raise RecordingError(
                    f"is video of {bits} bits ({stream.codec_context.pix_fmt}): LeRobot's depth has 12, and nobody can "
                    "say what these stand for. Record depth by LeRobot 0.6 or newer, or keep it as images."
                )
            wanted = set(spread_indices(stream.frames, limit)) if stream.frames else None
            codes = [
                frame.to_ndarray(format="gray12le")
                for index, frame in enumerate(container.decode(stream))
                if wanted is None or index in wanted
            ]
        video = np.stack([codes[index] for index in spread_indices(len(codes), limit)])
        return [dequantized(video, **{**_QUANTIZED, **said})]

    return read


def dequantized(
    codes: NDArray[Any], *, depth_min: float, depth_max: float, shift: float, use_log: bool
) -> NDArray[np.float32]:
    """Metres of LeRobot's 12-bit codes; code 0, which it also writes for holes, is one."""
    if use_log:
        low, high = math.log(depth_min + shift), math.log(depth_max + shift)
        metres = np.exp(codes * ((high - low) / _LAST_CODE) + low) - shift
    else:
        metres = codes * ((depth_max - depth_min) / _LAST_CODE) + depth_min
    return np.where(codes > 0, metres, 0).astype(np.float32)
