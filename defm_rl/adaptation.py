"""Adapting an encoder to a camera: a copy learns to make of the noisy frame what the encoder makes of the clean one.

The policy that was trained on the encoder's features stays as it is, and needs no reinforcement learning again.
"""

import contextlib
import copy
import csv
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from defm_rl.depth import DepthFormat, DepthImages, Unit
from defm_rl.encoders import DepthEncoder
from defm_rl.encoders.weights import ADAPTATION, InvalidWeightsError, tensors_sha256
from defm_rl.encoders.zoo import tensor_names
from defm_rl.sensors import Sensor, check_depth, make_sensor, simulate

__all__ = ["Adapted", "Frames", "Settings", "Standardization", "adapt", "lost_shares", "network_sha256"]

_logger = logging.getLogger(__name__)

IDEAL = "ideal"
PAIRS = "pairs"
"""What recorded pairs are called among the sensors."""

CLIP = 5.0  # standard deviations; as the experiments clip features before the policy sees them
_LARGEST_MM = np.iinfo(np.uint16).max
_BLIND = 0.5  # share of the pixels whose loss makes a camera blind to a task
_CHUNK = 256  # frames that are encoded at once
_VALIDATION_SEED = 0x56414C49  # of the noise on held-out frames; that of training begins with the settings' seed


@dataclass(frozen=True)
class Frames:
    """Clean depth of a task's scenes, two bytes a pixel.

    Attributes:
        depth_mm: (N, H, W) uint16, holes 0; what is beyond 65.5 m counts as that far.
        scenes: Which scene each is of, (N,) integers: frames of one scene are not held out from each other.
        views: Which camera each is of, (N,) integers from 0, where a policy sees with several.
        source: How they were come by, where a simulator need not give the very same twice: an interrupted adaptation
            goes on with frames of the same source. Without it, with the same pixels.
    """

    depth_mm: NDArray[np.uint16]
    scenes: NDArray[np.int64]
    views: NDArray[np.int64]
    source: str = ""

    @classmethod
    def of(
        cls,
        depth: DepthImages,
        scenes: Sequence[int] | NDArray[Any] | None = None,
        views: Sequence[int] | NDArray[Any] | None = None,
        *,
        unit: Unit = "m",
        source: str = "",
    ) -> "Frames":
        """Keeps depth compactly.

        Args:
            depth: As `defm_rl.depth.as_depth` accepts it: (N, H, W), (N, 1, H, W) or (N, H, W, 1).
            scenes: See the class. Default: blocks of 32 frames in a row, or half of them where there are fewer than 64.
            views: See the class. Default: all of one camera.
            unit: "m", "mm", or the metres of one count.
            source: See the class.

        Raises:
            TypeError: See `as_depth`: integers are millimetres only where the caller says so.
            ValueError: See `as_depth`; or the depth is not in metres, or there are no frames.
        """
        images = check_depth(depth, unit, check_values=True)
        count = len(images)
        if count < 2:
            raise ValueError(f"an adaptation needs frames, hundreds at the least; got {count}.")
        scenes = np.arange(count) // min(32, count // 2) if scenes is None else np.asarray(scenes)
        views = np.zeros(count, int) if views is None else np.asarray(views)
        for name, numbers in (("scenes", scenes), ("views", views)):
            if numbers.shape != (count,):
                raise ValueError(f"{name} must name one for each of the {count} frames, got shape {numbers.shape}.")
        depth_mm = (images * 1000).round().clamp(0, _LARGEST_MM).cpu().numpy().astype(np.uint16)
        return cls(depth_mm, scenes.astype(np.int64), views.astype(np.int64), source)

    def __len__(self) -> int:
        return len(self.depth_mm)

    @property
    def sha256(self) -> str:
        """Which they are: by their source, or else by every pixel."""
        if self.source:
            return hashlib.sha256(self.source.encode()).hexdigest()
        arrays = {"depth_mm": self.depth_mm, "scenes": self.scenes, "views": self.views}
        return tensors_sha256({name: torch.from_numpy(array) for name, array in arrays.items()})

    def metres(self, index: NDArray[np.int64] | slice, device: torch.device) -> Tensor:
        """(B, H, W) float32 metres of some frames."""
        return torch.from_numpy(self.depth_mm[index].astype(np.float32)).to(device).div_(1000.0)


@dataclass(frozen=True)
class Standardization:
    """How a policy sees features: (f - mean) / std, clipped.

    Attributes:
        mean: (D,), or (views, D) where each of several cameras has its own.
        std: The same.
        clip: Standard deviations.
    """

    mean: Tensor
    std: Tensor
    clip: float = CLIP

    @classmethod
    def of(cls, features: Tensor, scale: str = "each", clip: float = CLIP) -> "Standardization":
        """That of a set of features (N, D), where a policy has none.

        Args:
            features: The features.
            scale: "each": every feature by its own deviation, as the experiments standardize what was encoded before a
                policy; "all": by that of all of them, for a network inside a policy, which sees features as they are.
            clip: Standard deviations.
        """
        variance = features.float().var(0, correction=0)
        if scale == "all":
            variance = variance.mean().expand_as(variance)
        return cls(features.float().mean(0), (variance + 1e-8).sqrt(), clip)

    def to(self, device: torch.device) -> "Standardization":
        """On a device, one row for each view."""
        mean, std = (torch.atleast_2d(x.detach().float()).to(device) for x in (self.mean, self.std))
        return Standardization(mean, std, self.clip)

    def __call__(self, features: Tensor, views: Tensor) -> Tensor:
        """Standardizes (B, D) features, each as its view's are; not clipped, so that there is a gradient."""
        views = views.clamp(max=len(self.mean) - 1)
        return (features - self.mean[views]) / self.std[views]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an encoder is adapted.

    Attributes:
        parts: What of the encoder is trained, as far as the features depend on it: "all", "norms" (normalizations and
            biases), or names of stages, such as the first ones, ("stem", "s1").
        minutes: Time limit. The learning rate falls to its end by then.
        steps: Limit of gradient steps; None for the time limit alone.
        batch: Frames a step, all seen by one sensor; sensors take turns.
        learning_rate: Of Adam, at the beginning; falls as a cosine.
        final_learning_rate: At the end.
        max_gradient_norm: Gradients are scaled down to it.
        ideal_share: Share of each step's frames that are seen ideally: they keep what works where the camera is ideal.
        holes: Largest share of a frame that is lost in patches beside what the camera loses, in the training alone: a
            real camera loses what no profile knows.
        held_out_share: Share of the scenes on which nothing is trained: they say which weights are kept.
        validate_every: Steps between two looks at them.
        validation_frames: How many of their frames are looked at, with each sensor.
        patience: Ends after so many looks without a better one.
        seed: Of the noise and the order of frames.
    """

    parts: str | Sequence[str] = "all"
    minutes: float = 5.0
    steps: int | None = None
    batch: int = 64
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    max_gradient_norm: float = 1.0
    ideal_share: float = 0.25
    holes: float = 0.0
    held_out_share: float = 0.1
    validate_every: int = 100
    validation_frames: int = 128
    patience: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"minutes": 0, "batch": 1, "validate_every": 1, "validation_frames": 1, "patience": 1}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        for name in ("held_out_share", "ideal_share", "holes"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Adapted:
    """An adapted encoder, and what made it.

    Attributes:
        encoder: The adapted copy, frozen.
        record: Parent, sensors, frames, settings, losses before and after: what the file's header says.
        curve: The losses on held-out scenes, a row for each look: step, seconds, and a column for each sensor.
    """

    encoder: nn.Module
    record: dict[str, Any]
    curve: list[dict[str, float]] = field(repr=False)

    def save(self, path: str | os.PathLike[str], *, note: str = "") -> Path:
        """Writes the weights (`.safetensors`, whole or not at all), beside them a card (`.md`) and the curve (`.csv`).

        Args:
            path: The file, which `weights=` takes wherever there are weights.
            note: A line for the card: what it was made for.

        Raises:
            ValueError: Where the path does not end in `.safetensors`.
        """
        from safetensors.torch import save_file

        path = check_output(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _tensors(self.encoder).items()}
        with _whole(path.with_suffix(".csv")) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.curve[0]))
            writer.writeheader()
            writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in self.curve)
        with _whole(path.with_suffix(".md")) as part:
            part.write_text(_card(path, self.record, note))
        with _whole(path) as part:  # last: where it is, the others are
            save_file(tensors, part, metadata={ADAPTATION: json.dumps({**self.record, "note": note})})
        return path


def check_output(path: str | os.PathLike[str]) -> Path:
    """The path as a file of weights.

    Raises:
        ValueError: Where it does not end in `.safetensors`, or is a folder.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors" or path.is_dir():
        raise ValueError(f"adapted weights are a .safetensors file, whose header says what they are; got {path}.")
    return path


def network_sha256(encoder: nn.Module) -> str:
    """Which weights an encoder has: the sha256 of their file, or of the values where a policy trained them."""
    if isinstance(encoder, DepthEncoder) and not encoder.trainable:
        return encoder.provenance.sha256
    return tensors_sha256(_tensors(encoder))


def feature_settings(encoder: nn.Module) -> str:
    """Which features an encoder gives, in one line."""
    return encoder.feature_settings if isinstance(encoder, DepthEncoder) else type(encoder).__name__


def load_into(encoder: nn.Module, state: Mapping[str, Tensor], origin: object) -> None:
    """Copies adapted weights into a policy's encoder, in place, whether its tensors are trained or frozen.

    Args:
        encoder: The encoder.
        state: Tensors by name, as `Adapted.save` wrote them.
        origin: Where they come from, for messages.

    Raises:
        InvalidWeightsError: Where they are another network's.
    """
    own = _tensors(encoder)
    fits = own.keys() == state.keys() and all(own[name].shape == state[name].shape for name in own)
    if not fits:
        raise InvalidWeightsError(f"{origin} does not hold weights of the {type(encoder).__name__} of this policy.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def check_parts(encoder: nn.Module, parts: str | Sequence[str]) -> None:
    """Says what is wrong with the choice of parts before frames are collected.

    Raises:
        ValueError: For stages that the encoder does not have, or its features do not depend on.
    """
    _trained(_frozen_copy(encoder, torch.device("cpu")), parts)


def adapt(
    encoder: nn.Module,
    frames: Frames,
    sensors: Sequence[str | Sensor] | Mapping[str, Sensor] = (),
    *,
    pairs: tuple[Frames, Frames] | None = None,
    standardization: Standardization | str = "each",
    held_out_sensors: Sequence[str] = (),
    settings: Settings | None = None,
    device: str | torch.device | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Adapted:
    """Adapts an encoder to cameras: smooth L1 between the standardized features of what a camera sees and of the truth.

    Args:
        encoder: Whose features are to be kept: a `DepthEncoder`, or a module that makes (B, D) of (B, H, W) metres. It
            stays as it is.
        frames: Clean frames of the task.
        sensors: Simulated cameras, see `defm_rl.sensors.SENSORS`; or sensors of one's own by name.
        pairs: Clean frames, and the same as a real camera recorded them: one more camera.
        standardization: How the policy sees features; or the scale of that of the clean frames' features, see
            `Standardization.of`.
        held_out_sensors: Cameras that are not trained on, and looked at with the held-out scenes.
        settings: How.
        device: Where. Default: the encoder's, or a GPU where there is one.
        checkpoint: A file to go on from where it is there and of the same adaptation, and to keep on the way; removed
            at the end.
        progress: Whether to show a bar.

    Returns:
        The copy that did best on held-out scenes.

    Raises:
        ValueError: For unknown sensors or stages, no camera at all, or frames that do not fit.
        KeyboardInterrupt: On Ctrl-C; the checkpoint is kept.
    """
    settings = settings or Settings()
    cameras = _cameras(sensors)
    others = {name: sensor for name, sensor in _cameras(held_out_sensors).items() if name not in cameras}
    if not cameras and pairs is None:
        raise ValueError("name at least one sensor to adapt to, or pass recorded pairs.")
    where = torch.device(device) if device is not None else _device(encoder)
    _warn_of_blind(frames, cameras)
    teacher = _frozen_copy(encoder, where)
    work = _Work(teacher, frames, cameras, others, pairs, standardization, settings, where)
    record = {
        "parent": network_sha256(encoder),
        "encoder": getattr(encoder, "encoder_name", type(encoder).__name__),
        "weights": encoder.provenance.source if isinstance(encoder, DepthEncoder) else "trained with the policy",
        "features": feature_settings(encoder),
        "sensors": {name: repr(sensor) for name, sensor in cameras.items()} | ({PAIRS: "recorded"} if pairs else {}),
        "held_out_sensors": list(others),
        "frames": len(frames),
        "image_size": list(frames.depth_mm.shape[1:]),
        "scenes": len(np.unique(frames.scenes)),
        "pairs": 0 if pairs is None else len(pairs[0]),
        "settings": {**asdict(settings), "parts": _listed(settings.parts)},
        "trained_parameters": sum(p.numel() for p in work.parameters),
    }
    made_of = "" if checkpoint is None else _made_of(record, [frames, *(pairs or ())], standardization)
    return work.run(record, checkpoint, made_of, progress)


def lost_shares(frames: Frames, sensor: str | Sensor) -> dict[int, float]:
    """The share of the pixels seen by clean frames that a sensor loses, for each of the frames' views.

    Args:
        frames: Clean frames; 64 of each view are looked at.
        sensor: A sensor or its name.
    """
    shares = {}
    for view in np.unique(frames.views).tolist():
        ours = np.flatnonzero(frames.views == view)
        clean = frames.metres(ours[:: max(1, len(ours) // 64)][:64], torch.device("cpu"))
        seen = clean > 0
        lost = seen & (simulate(clean, sensor) == 0)
        shares[view] = float(lost.sum() / seen.sum().clamp(min=1))
    return shares


class _Work:
    """The student, what it learns from, and how far it is."""

    def __init__(
        self,
        teacher: nn.Module,
        frames: Frames,
        cameras: Mapping[str, Sensor],
        others: Mapping[str, Sensor],
        pairs: tuple[Frames, Frames] | None,
        standardization: Standardization | str,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.settings, self.device = settings, device
        self.student = copy.deepcopy(teacher)
        self.parameters = _trained(self.student, settings.parts)
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate)
        features = _encode_all(teacher, frames, device)
        width = features.shape[1]
        if isinstance(standardization, str):
            standardization = Standardization.of(features, standardization)
        self.standard = standardization.to(device)
        if self.standard.mean.shape[1] != width:
            raise ValueError(
                f"the policy sees {self.standard.mean.shape[1]} features and the encoder gives {width}: another pool, "
                "other features or another size of image."
            )
        train, held = _split(frames.scenes, settings.held_out_share, settings.seed)
        simulated = _Source(frames, None, self._targets(features, frames), train, held)
        self.sources: dict[str, tuple[_Source, Sensor | None]] = {
            name: (simulated, sensor) for name, sensor in cameras.items()
        }
        if pairs is not None:
            clean, seen = pairs
            if clean.depth_mm.shape != seen.depth_mm.shape:
                raise ValueError(f"pairs must be of one shape, got {clean.depth_mm.shape} and {seen.depth_mm.shape}.")
            targets = self._targets(_encode_all(teacher, clean, device), clean)
            self.sources[PAIRS] = (
                _Source(clean, seen, targets, *_split(clean.scenes, settings.held_out_share, settings.seed)),
                None,
            )
        self.trained = tuple(self.sources)
        self.sources.setdefault(IDEAL, (simulated, make_sensor(IDEAL)))
        self.sources |= {name: (simulated, sensor) for name, sensor in others.items()}
        self.step, self.seconds_before = 0, 0.0
        self.curve: list[dict[str, float]] = []
        self.best: tuple[float, dict[str, Tensor]] = (math.inf, {})
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of training, interruptions not counted."""
        return self.seconds_before + time.perf_counter() - self._started

    @property
    def share(self) -> float:
        """How much of the adaptation is done, from 0 to 1: of its time, or of its steps where these end first."""
        by_time = self.seconds / max(60 * self.settings.minutes, 1e-9)
        by_steps = self.step / self.settings.steps if self.settings.steps else 0.0
        return min(max(by_time, by_steps), 1.0)

    def run(self, record: dict[str, Any], checkpoint: Path | None, made_of: str, progress: bool) -> Adapted:
        """Trains to the end; the best weights, and the record with what came of it."""
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint, made_of)
        else:
            self._look()
        self._started = time.perf_counter()
        bar = tqdm(total=100, initial=round(100 * self.share), unit="%", desc="adapting", disable=not progress)
        try:
            while self.share < 1 and not self._is_at_its_end():
                self._learn()
                bar.update(round(100 * self.share) - bar.n)
                if self.step % self.settings.validate_every == 0 or self.share >= 1:
                    self._look()
                    bar.set_postfix(loss=f"{self._judged(self.curve[-1]):.3f}", refresh=False)
                    if checkpoint is not None:
                        self._keep(checkpoint, made_of)
        except KeyboardInterrupt:
            if checkpoint is not None:
                self._keep(checkpoint, made_of)
            raise
        finally:
            bar.close()
        with torch.no_grad():
            for name, tensor in _tensors(self.student).items():
                tensor.copy_(self.best[1][name])
        if isinstance(self.student, DepthEncoder):
            self.student.freeze()
        self.student.requires_grad_(False)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        kept = min(self.curve, key=self._judged)
        losses = {"loss_before": _losses(self.curve[0]), "loss_after": _losses(kept)}
        done = {"steps": self.step, "kept_step": int(kept["step"]), "seconds": round(self.seconds, 1)}
        return Adapted(self.student, {**record, **done, **losses}, self.curve)

    def _learn(self) -> None:
        """One step of the optimizer, with one camera."""
        settings = self.settings
        name = self.trained[self.step % len(self.trained)]
        source, _ = self.sources[name]
        rng = np.random.default_rng((settings.seed, self.step))
        index = rng.choice(source.train, settings.batch)
        cosine = 0.5 * (1 + math.cos(math.pi * self.share))
        for group in self.optimizer.param_groups:
            fall = settings.learning_rate - settings.final_learning_rate
            group["lr"] = settings.final_learning_rate + fall * cosine
        seen = self._seen(name, index, settings.seed, self.step)
        if settings.holes:
            seen = _with_holes(seen, settings.holes, rng)
        ideal = round(settings.ideal_share * len(index))
        seen[:ideal] = source.clean.metres(index[:ideal], self.device)
        out = self.standard(self.student(seen), source.views(index, self))
        loss = F.smooth_l1_loss(out, source.targets[torch.from_numpy(index)].to(self.device).float())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, settings.max_gradient_norm)
        self.optimizer.step()
        self.step += 1

    def _look(self) -> None:
        """The losses on held-out scenes, and the weights where they are the best so far."""
        row = {"step": float(self.step), "seconds": round(self.seconds, 1)}
        for name, (source, _) in self.sources.items():
            index = source.held[: self.settings.validation_frames]
            row[name] = self._loss(name, source, index)
        self.curve.append(row)
        if self._judged(row) < self.best[0]:
            state = {name: tensor.detach().cpu().clone() for name, tensor in _tensors(self.student).items()}
            self.best = (self._judged(row), state)

    @torch.no_grad()
    def _loss(self, name: str, source: "_Source", index: NDArray[np.int64]) -> float:
        """As the policy sees features: clipped."""
        total = 0.0
        for part in np.array_split(index, math.ceil(len(index) / _CHUNK)):
            out = self.standard(self.student(self._seen(name, part, _VALIDATION_SEED, 0)), source.views(part, self))
            target = source.targets[torch.from_numpy(part)].to(self.device).float()
            clipped = out.clamp(-self.standard.clip, self.standard.clip)
            total += len(part) * float(F.smooth_l1_loss(clipped, target))
        return total / len(index)

    def _judged(self, row: Mapping[str, float]) -> float:
        """What says which weights are kept: the mean over all cameras, those that nothing is trained on included."""
        return float(np.mean([row[name] for name in self.sources]))

    def _is_at_its_end(self) -> bool:
        best = min(range(len(self.curve)), key=lambda index: self._judged(self.curve[index]))
        return len(self.curve) - 1 - best >= self.settings.patience

    def _seen(self, name: str, index: NDArray[np.int64], seed: int, step: int) -> Tensor:
        """Frames as a camera sees them."""
        source, sensor = self.sources[name]
        if sensor is None:
            assert source.seen is not None
            return source.seen.metres(index, self.device)
        envs = torch.arange(len(index), device=self.device)
        return simulate(source.clean.metres(index, self.device), sensor, seed=seed, step=step, envs=envs)

    def _targets(self, features: Tensor, frames: Frames) -> Tensor:
        views = torch.from_numpy(frames.views).to(self.device)
        parts = [
            self.standard(part.to(self.device).float(), view)
            .clamp(-self.standard.clip, self.standard.clip)
            .half()
            .cpu()
            for part, view in zip(features.split(_CHUNK), views.split(_CHUNK), strict=True)
        ]
        return torch.cat(parts)

    def _keep(self, checkpoint: Path, made_of: str) -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "made_of": made_of,
            "student": {name: tensor.detach().cpu() for name, tensor in _tensors(self.student).items()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "best": list(self.best),
        }
        with _whole(checkpoint) as part:
            torch.save(state, part)

    def _resume(self, checkpoint: Path, made_of: str) -> None:
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            is_ours = state["made_of"] == made_of
        except Exception as error:  # whatever a damaged archive makes the reader stumble over
            raise ValueError(f"{checkpoint} is no adaptation under way: remove it to start anew ({error}).") from error
        if not is_ours:
            raise ValueError(
                f"{checkpoint} is of an adaptation with other settings, frames or weights: remove it to start anew, or "
                "repeat the command that it is of."
            )
        load_into(self.student, state["student"], checkpoint)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds_before, self.curve = state["step"], state["seconds"], state["curve"]
        self.best = (state["best"][0], state["best"][1])


@dataclass(frozen=True)
class _Source:
    """Frames to learn from, and those that are held out; `seen` is what a real camera recorded of them."""

    clean: Frames
    seen: Frames | None
    targets: Tensor
    train: NDArray[np.int64]
    held: NDArray[np.int64]

    def views(self, index: NDArray[np.int64], work: _Work) -> Tensor:
        """Which camera each frame is of."""
        return torch.from_numpy(self.clean.views[index]).to(work.device)


def _with_holes(depth: Tensor, largest_share: float, rng: np.random.Generator) -> Tensor:
    """Depth (B, H, W) without patches, of one size for all and of another share for each frame.

    Patches are where a smooth random field is low: numbers on a coarse grid, between which is interpolated.
    """
    count, height, width = depth.shape
    size_px = height / 3 * rng.uniform() ** 2 + 1
    grid = (count, 1, math.ceil(height / size_px) + 1, math.ceil(width / size_px) + 1)
    numbers = torch.from_numpy(rng.standard_normal(grid, np.float32))
    field = F.interpolate(numbers, (height, width), mode="bicubic")[:, 0].flatten(1)
    shares = torch.from_numpy(rng.uniform(0, largest_share, count))
    cuts = field.sort(1).values.gather(1, (shares * height * width).long()[:, None])
    return depth.where((field >= cuts).view(depth.shape).to(depth.device), 0.0)


def _warn_of_blind(frames: Frames, cameras: Mapping[str, Sensor]) -> None:
    """Warns of cameras that lose most of what the frames show."""
    for name, sensor in cameras.items():
        for view, share in lost_shares(frames, sensor).items():
            if share > _BLIND:
                _logger.warning(
                    "Behind %s, which sees from %.2g to %.2g m, %.0f %% of what camera %d of the task shows is lost. "
                    "No weights bring that back, and learning to do without it is paid for behind the others: leave it "
                    "out.",
                    *(name, sensor.nearest_m, sensor.max_depth_m, 100 * share, view),
                )


def _cameras(sensors: Sequence[str | Sensor] | Mapping[str, Sensor]) -> dict[str, Sensor]:
    """Sensors by name.

    Raises:
        ValueError: For an unknown one, or two of one name.
    """
    if isinstance(sensors, Mapping):
        return dict(sensors)
    if isinstance(sensors, str):
        sensors = [sensors]
    named = [(s, make_sensor(s)) if isinstance(s, str) else (type(s).__name__.lower(), s) for s in sensors]
    found = dict(named)
    for name, sensor in named:
        if found[name] != sensor:
            raise ValueError(
                f"several sensors would be called {name!r}: pass them by names of your own, {{name: sensor}}."
            )
    return found


def _split(scenes: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames to train on, and those of held-out scenes in a random order: at least one scene on either side."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(scenes))
    if len(names) < 2:
        raise ValueError("the frames are all of one scene: some scenes have to be held out, so there must be several.")
    held = np.isin(scenes, names[: min(max(round(share * len(names)), 1), len(names) - 1)])
    return np.flatnonzero(~held), rng.permutation(np.flatnonzero(held))


def _device(encoder: nn.Module) -> torch.device:
    here = next(iter(_tensors(encoder).values())).device
    return torch.device("cuda") if here.type == "cpu" and torch.cuda.is_available() else here


def _frozen_copy(encoder: nn.Module, device: torch.device) -> nn.Module:
    """A copy that gives the same features of depth in metres, nothing of it trained."""
    twin = copy.deepcopy(encoder).to(device)
    if isinstance(twin, DepthEncoder):
        twin.depth_format = DepthFormat("m", twin.depth_format.max_depth_m)
        twin.freeze()
    return twin.eval().requires_grad_(False)


def _trained(student: nn.Module, parts: str | Sequence[str]) -> list[nn.Parameter]:
    """Makes the chosen parts trainable, as far as the features depend on them.

    Raises:
        ValueError: For stages that there are not.
    """
    stages = "all" if parts in ("all", "norms") else parts
    if isinstance(student, DepthEncoder):
        student.unfreeze(stages)
        network: nn.Module = student.net
    else:
        network = student
        known = [name for name, _ in network.named_children()]
        wanted = known if stages == "all" else [stages] if isinstance(stages, str) else list(stages)
        if not set(wanted) <= set(known):
            raise ValueError(f'parts must be "all", "norms", or one or more of {", ".join(known)}; got {parts!r}.')
        for name in wanted:
            network.get_submodule(name).requires_grad_(True)
    if parts == "norms":
        norms = {f"{name}." for name, module in network.named_modules() if isinstance(module, _NORMS)}
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.endswith("bias") or name.startswith(tuple(norms)))
    chosen = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not chosen:
        raise ValueError(f"parts={parts!r}: the network has none of them.")
    return chosen


_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)


def _tensors(encoder: nn.Module) -> dict[str, Tensor]:
    """The network's weights by name, trained or frozen, as a file of weights has them."""
    if not isinstance(encoder, DepthEncoder):
        return encoder.state_dict()
    named = {**dict(encoder.net.named_parameters()), **dict(encoder.net.named_buffers())}
    return {name: named[name] for name in tensor_names(encoder.encoder_name)}


@torch.no_grad()
def _encode_all(teacher: nn.Module, frames: Frames, device: torch.device) -> Tensor:
    """(N, D) float32 on the CPU."""
    run: Callable[[Tensor], Tensor] = teacher.encode if isinstance(teacher, DepthEncoder) else teacher
    starts = range(0, len(frames), _CHUNK)
    return torch.cat([run(frames.metres(slice(start, start + _CHUNK), device)).float().cpu() for start in starts])


def role(record: Mapping[str, Any], camera: str) -> str:
    """What a camera had to do with an adaptation, from its record."""
    if camera in record["sensors"]:
        return "trained on"
    return "in the mix" if camera == IDEAL and record["settings"]["ideal_share"] else "not trained on"


def _losses(row: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in row.items() if name not in ("step", "seconds")}


def _made_of(record: Mapping[str, Any], given: Sequence[Frames], standardization: Standardization | str) -> str:
    """Which adaptation a checkpoint is of: by its record, its frames, and how the policy sees features."""
    seen: Any = standardization  # statistics of the frames' own features are as these frames are
    if isinstance(standardization, Standardization):
        statistics = {"mean": standardization.mean, "std": standardization.std}
        seen = [tensors_sha256(statistics), standardization.clip]
    content = {**record, "given": [frames.sha256 for frames in given], "standardization": seen}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _listed(parts: str | Sequence[str]) -> str | list[str]:
    return parts if isinstance(parts, str) else list(parts)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write beside the one that is meant, which takes its place when it is whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _card(path: Path, record: Mapping[str, Any], note: str) -> str:
    """What the weights are for, for people."""
    before, after = record["loss_before"], record["loss_after"]
    rows = [f"| {name} | {role(record, name)} | {before[name]:.3f} | {after[name]:.3f} |" for name in before]
    random = ["", "The parent's weights are RANDOM, not the published ones."] if record["weights"] == "random" else []
    return "\n".join(
        [
            f"# {path.name}",
            "",
            f"Weights of `{record['encoder']}`, adapted to {', '.join(record['sensors'])}: what it makes of these "
            "cameras' frames is to equal what its parent makes of ideal ones.",
            *([note] if note else []),
            *random,
            "",
            f"- parent: sha256 `{record['parent']}`",
            f"- for these features alone: `{record['features']}`; others were not looked at",
            f"- learned from {record['frames']} frames of {'x'.join(map(str, record['image_size']))} pixels of "
            f"{record['scenes']} scenes, {record['pairs']} recorded pairs; {record['steps']} steps, "
            f"{record['seconds']:.0f} s; parts: {record['settings']['parts']}",
            "",
            "Loss on held-out scenes (smooth L1 of standardized features):",
            "",
            "| camera | | before | after |",
            "|---|---|---:|---:|",
            *rows,
            "",
            f'Use: `DepthEncoder("{record["encoder"]}", weights="{path.name}", ...)` with the features above; '
            f"`defm-rl evaluate RUN adapted={path.name}`. What a camera does in time (latency, frame rate), and what "
            "lies beyond its range, no weights can mend.",
            "",
        ]
    )
