"""`defm-rl probe [DATA] encoders=[resnet18,vit_s14]`: whether an encoder is any good for a camera, before any training.

DATA is a folder of labelled depth, a Hugging Face dataset with the columns depth and label (a folder or
hf://OWNER/NAME), or "builtin", scenes of our own simulator: what object stands there, how far it is, where the gap in
the wall is, and which surface each pixel shows. Heads learn on ideal (or recorded) frames; they are tested behind each
of the cameras.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from defm_rl import probes
from defm_rl.commands import experiment_settings as settings
from defm_rl.commands.running import command
from defm_rl.encoders import DepthEncoder
from defm_rl.encoders.weights import find_weights, read_adaptation
from defm_rl.experiments import statistics
from defm_rl.experiments.config import ConfigError
from defm_rl.experiments.progress import progress_bar
from defm_rl.experiments.provenance import provenance
from defm_rl.probes import LabelledDepth, Maps, labelled
from defm_rl.probes.baselines import BASELINES, baseline_features, baseline_maps
from defm_rl.probes.features import Frames
from defm_rl.recordings import huggingface
from defm_rl.sensors import simulate

_logger = logging.getLogger(__name__)

_BUILTIN = "builtin"
_PROBES = ("knn", "linear", "segmentation")
_IDEAL = "ideal"
_SHOWN_NEIGHBOURS = 20  # "is usually working the best", as DINOv2's script says
_TOP_5_FROM = 10  # classes on: as published accuracies of many classes are

Vectors = Callable[[Frames], torch.Tensor]
Cells = Callable[[Frames], Maps]


@dataclass
class Settings:
    """What can be said as key=value."""

    encoders: Any = "resnet18"  # a name, or a list of names: any that there is, see `defm-rl encoders`
    weights: str = "hub"  # hub, random, or a file
    adapted: Any = None  # a file that `defm-rl adapt` made, or a list: held against the encoders they are made of
    features: Any = "global"  # of the classes: global, a map, or a list
    maps: Any = None  # of the segmentation: a list of maps; all that the encoder has without it
    bifpn: bool = True  # whether a CNN's maps are those after its BiFPN; an adapted encoder says what it was made for
    sensors: Any = "ideal"  # cameras to test behind: a list of names, or all
    probes: Any = "all"  # or a list of knn, linear, segmentation
    frames: int = 800  # at the most; the built-in scenes are so many
    size: Any = None  # height and width to resize to, such as [224,224]; needed where frames are of many sizes
    recorded_unit: Any = None  # m, mm, the metres of one count, or inverse (of the ImageNet benchmark)
    recorded_max_depth_m: float | None = None  # beyond it a pixel is a hole
    steps: int = 1000  # of the linear probe's training
    segmentation_steps: int = 400  # of that of the segmentation
    cache: str | None = None  # a folder for features; without it one in ~/.cache/defm_rl; none: keeps nothing
    output: str | None = None  # a .json file with all figures and what made them
    seed: int = 0


@dataclass(frozen=True)
class _Encoded:
    """What gives features: what heads learn on, and what is tested, which is another where it was adapted."""

    name: str
    weights: str
    sha256: str
    learn: tuple[Vectors, Cells | None]
    test: tuple[Vectors, Cells | None]


@command(
    "probe",
    lambda: settings.usage("defm-rl probe [DATA]", Settings, __doc__ or ""),
    *(TypeError, ValueError, ImportError),
)
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    source, chosen = parse(arguments)
    _run(source, chosen)
    return 0


def parse(arguments: Sequence[str]) -> tuple[str, Settings]:
    """The data and the settings.

    Raises:
        ConfigError: For an unknown key or a value that does not fit.
    """
    sources = [argument for argument in arguments if "=" not in argument]
    if len(sources) > 1:
        raise ConfigError(f"Name one source of labelled depth, got {', '.join(sources)}.")
    chosen = settings.parse(Settings, [argument for argument in arguments if "=" in argument])
    chosen.encoders, chosen.adapted = _listed(chosen.encoders), _listed(chosen.adapted)
    chosen.features = _listed(chosen.features)
    chosen.probes = list(_PROBES) if chosen.probes == "all" else _listed(chosen.probes)
    for name in chosen.probes:
        if name not in _PROBES:
            raise ConfigError(f"probes={name}: there is no such probe. There is: {', '.join(_PROBES)}.")
    chosen.sensors = settings.sensor_names(chosen.sensors)
    settings.at_least(frames=(chosen.frames, 20), steps=(chosen.steps, 1))
    if chosen.output is not None and not chosen.output.endswith(".json"):
        raise ConfigError(f"output={chosen.output}: figures are a .json file.")
    source = sources[0] if sources else _BUILTIN
    if source != _BUILTIN and not huggingface.is_hub(source) and not Path(source).is_dir():
        raise ConfigError(f"{source} is no folder of labelled depth and no dataset; {_BUILTIN} needs neither.")
    return source, chosen


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _run(source: str, chosen: Settings) -> None:
    encoded = [*_encoders(chosen), *_baselines()]
    tasks = load_data(source, chosen)
    rows = []
    jobs = [(task, which) for task in tasks for which in encoded]
    for task, which in progress_bar(jobs, desc="probing", unit="encoder", leave=False, disable=None):
        rows += list(_probe(task, which, chosen))
    for task in tasks:
        _logger.info("%s\n", table(task, [row for row in rows if row["task"] == task.name]))
    if chosen.weights == "random":
        _logger.info("RANDOM weights, not the published ones.")
    if chosen.output is not None:
        content = {"data": source, "settings": vars(chosen), "tasks": [_facts(task) for task in tasks], "rows": rows}
        Path(chosen.output).parent.mkdir(parents=True, exist_ok=True)
        Path(chosen.output).write_text(json.dumps({**content, "made_by": provenance()}, indent=1) + "\n")
        _logger.info("Figures: %s", chosen.output)


def load_data(source: str, chosen: Settings) -> list[LabelledDepth]:
    """The tasks that a source's labels make.

    Raises:
        ConfigError: Where there are none, or their frames are unlike.
    """
    if source == _BUILTIN:
        return [task for task in _builtin(chosen.frames, chosen.seed) if _asked_for(task, chosen)]
    unit, limit = chosen.recorded_unit, chosen.frames
    kwargs = {"unit": unit, "max_depth_m": chosen.recorded_max_depth_m, "limit": limit, "seed": chosen.seed}
    if huggingface.is_hub(source) or huggingface.reads(Path(source)):
        task = labelled.read_dataset(source, **kwargs)
    else:
        task = labelled.read_folder(Path(source), **kwargs)
    sizes = {frame.shape for frame in task.frames}
    if len(sizes) > 1 and chosen.size is None:
        raise ConfigError(f"{source} has frames of {len(sizes)} sizes: pass size=[224,224] to have all resized.")
    if not _asked_for(task, chosen):
        what = "pixels" if task.masks is not None else "frames"
        raise ConfigError(f"probes={chosen.probes} are not of classes of {what}, which {source} has.")
    return [task]


def _asked_for(task: LabelledDepth, chosen: Settings) -> bool:
    fitting = {"segmentation"} if task.masks is not None else {"knn", "linear"}
    return bool(fitting & set(chosen.probes))


def _builtin(count: int, seed: int) -> Iterator[LabelledDepth]:
    from defm_rl.envs.labelled import SURFACES, labelled_scenes

    scenes = labelled_scenes(count, seed=seed)
    test = np.arange(count) >= round((1 - labelled.TEST_SHARE) * count)
    for name, labels in scenes.labels.items():
        yield LabelledDepth(name, scenes.depth, scenes.classes[name], test, labels=labels)
    yield LabelledDepth("surfaces", scenes.depth, SURFACES, test, masks=scenes.masks)


def _encoders(chosen: Settings) -> Iterator[_Encoded]:
    cache = _cache(chosen)
    found = 0
    for name in chosen.encoders:
        frozen = _made(name, chosen.weights, chosen)
        source = frozen[0].provenance.source
        functions = _functions(*frozen, cache)
        yield _Encoded(frozen[0].encoder_name, source, frozen[0].provenance.sha256, functions, functions)
        for file in chosen.adapted:
            path = find_weights("", file).path
            adaptation = None if path is None else read_adaptation(path)
            if adaptation is None:
                raise ConfigError(f"adapted={file} is no adaptation, which names its parent: see `defm-rl adapt`.")
            if adaptation.parent != frozen[0].provenance.sha256:
                continue
            found += 1
            student = _made(name, str(file), chosen)
            if adaptation.features != student[0].feature_settings:
                _logger.info(
                    "%s was adapted for %s; nobody looked at what became of %s until now.",
                    file,
                    adaptation.features,
                    student[0].feature_settings,
                )
            yield _Encoded(
                f"{frozen[0].encoder_name} adapted",
                str(file),
                student[0].provenance.sha256,
                functions,
                _functions(*student, cache),
            )
    if found < len(chosen.adapted):
        raise ConfigError(
            f"adapted={','.join(map(str, chosen.adapted))}: not every one was made of one of the encoders with "
            f"weights={chosen.weights}."
        )


def _made(name: str, weights: str, chosen: Settings) -> tuple[DepthEncoder, DepthEncoder | None]:
    """An encoder for vectors and, where it has maps and they are asked for, one of the same network for maps."""
    size = tuple(chosen.size) if isinstance(chosen.size, list) else chosen.size
    kwargs: dict[str, Any] = {"weights": weights, "size": size, "bifpn": chosen.bifpn, "seed": chosen.seed}
    encoder = DepthEncoder(name, features=chosen.features, **kwargs)
    levels = _listed(chosen.maps) or list(encoder.card.levels)
    if "segmentation" not in chosen.probes or not levels:
        return encoder, None
    return encoder, DepthEncoder(name, features=levels, network=encoder.net, **kwargs)


def _functions(vectors: DepthEncoder, cells: DepthEncoder | None, cache: Path | None) -> tuple[Vectors, Cells | None]:
    def encode(frames: Frames) -> torch.Tensor:
        return probes.encode_frames(vectors, frames, cache=cache)

    def encode_maps(frames: Frames) -> Maps:
        assert cells is not None
        return probes.encode_maps(cells, frames, cache=cache)

    return encode, None if cells is None else encode_maps


def _baselines() -> Iterator[_Encoded]:
    for name in BASELINES:

        def encode(frames: Frames, name: str = name) -> torch.Tensor:
            return baseline_features(name, frames)

        def encode_maps(frames: Frames, name: str = name) -> Maps:
            return baseline_maps(name, frames)

        yield _Encoded(name, "none", "", (encode, encode_maps), (encode, encode_maps))


def _cache(chosen: Settings) -> Path | None:
    if chosen.cache is None:
        return probes.default_cache()
    return None if chosen.cache == "none" else Path(chosen.cache)


def _probe(task: LabelledDepth, which: _Encoded, chosen: Settings) -> Iterator[dict[str, Any]]:
    """A row for each camera and probe."""
    train, test = _split(task)
    seen = {name: _behind(test, name, chosen.seed) for name in chosen.sensors}
    about = {"task": task.name, "encoder": which.name, "weights": which.weights, "sha256": which.sha256}
    if task.masks is not None:
        if which.learn[1] is None or which.test[1] is None:
            return
        masks = torch.from_numpy(task.masks.astype(np.int64))
        known, held = masks[torch.from_numpy(~task.test)], masks[torch.from_numpy(task.test)]
        count = len(task.classes)
        head = probes.fit_segmentation(
            which.learn[1](train), known, count, steps=chosen.segmentation_steps, seed=chosen.seed
        )
        for sensor, frames in seen.items():
            counts = probes.confusion(head, which.test[1](frames), held, count)
            iou = probes.miou_interval(counts, seed=chosen.seed)
            yield {**about, "camera": sensor, "probe": "segmentation", "mean_iou": iou._asdict()}
        return
    assert task.labels is not None
    labels = torch.from_numpy(task.labels)
    known, held = labels[torch.from_numpy(~task.test)], labels[torch.from_numpy(task.test)]
    features = which.learn[0](train)
    linear = None
    if "linear" in chosen.probes:
        linear = probes.fit_linear(features, known, len(task.classes), steps=chosen.steps, seed=chosen.seed)
    for sensor, frames in seen.items():
        queries = which.test[0](frames)
        if "knn" in chosen.probes:
            for k, votes in probes.knn(features, known, queries, len(task.classes)).items():
                yield {**about, "camera": sensor, "probe": "knn", "neighbours": k, **_accuracies(votes, held)}
        if linear is not None:
            rate = {"learning_rate": linear.learning_rate}
            yield {**about, "camera": sensor, "probe": "linear", **rate, **_accuracies(linear(queries), held)}


def _split(task: LabelledDepth) -> tuple[Frames, Frames]:
    if isinstance(task.frames, np.ndarray):
        return task.frames[~task.test], task.frames[task.test]
    parts = ([frame for frame, held in zip(task.frames, task.test, strict=True) if held == side] for side in (0, 1))
    train, test = parts
    return train, test


def _behind(frames: Frames, sensor: str, seed: int) -> Frames:
    if sensor == _IDEAL:
        return frames
    return [
        simulate(torch.from_numpy(frame)[None], sensor, seed=seed, step=index).numpy()[0]
        for index, frame in enumerate(frames)
    ]


def _accuracies(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    tops = (1, 5) if scores.shape[1] > _TOP_5_FROM else (1,)
    return {f"top_{k}": dict(statistics.rate(probes.top_k_correct(scores, labels, k).numpy())) for k in tops}


def _facts(task: LabelledDepth) -> dict[str, Any]:
    return {
        "task": task.name,
        "classes": list(task.classes),
        "train_frames": int((~task.test).sum()),
        "test_frames": int(task.test.sum()),
        "image_sizes": sorted({tuple(map(int, frame.shape)) for frame in task.frames}),
    }


def table(task: LabelledDepth, rows: Sequence[dict[str, Any]]) -> str:
    """A task's figures as aligned text: percent, with 95 % intervals."""
    columns: dict[str, dict[tuple[str, str], str]] = {}
    for row in rows:
        if row["probe"] == "knn" and row["neighbours"] != _shown_neighbours(rows):
            continue
        title = f"k-NN, k = {row['neighbours']}" if row["probe"] == "knn" else row["probe"]
        for figure in ("top_1", "top_5", "mean_iou"):
            if figure in row:
                named = {"top_1": title, "top_5": f"{title}, top 5", "mean_iou": "mean IoU"}[figure]
                columns.setdefault(named, {})[row["encoder"], row["camera"]] = _percent(row[figure])
    keys = list(dict.fromkeys((row["encoder"], row["camera"]) for row in rows))
    lines = [["encoder", "camera", *columns]]
    lines += [[*key, *(column.get(key, "-") for column in columns.values())] for key in keys]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    what = "classes of pixels" if task.masks is not None else "classes"
    head = (
        f"{task.name}: {len(task.classes)} {what}, {int((~task.test).sum())} frames to learn from, "
        f"{int(task.test.sum())} to test on; percent (95 % interval)"
    )
    aligned = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return "\n".join([head, *aligned])


def _shown_neighbours(rows: Sequence[dict[str, Any]]) -> int:
    there = [row["neighbours"] for row in rows if row["probe"] == "knn"]
    return _SHOWN_NEIGHBOURS if _SHOWN_NEIGHBOURS in there else max(there)


def _percent(figure: dict[str, Any]) -> str:
    value = figure["mean"] if "mean" in figure else figure["value"]
    return f"{100 * value:.1f} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"
