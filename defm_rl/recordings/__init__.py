"""Recorded depth, wherever it comes from, as metres with holes 0: one reader for each form, and one door to them."""

from defm_rl.recordings.base import Frame, Part, Recording, RecordingError, spread
from defm_rl.recordings.loading import find_parts, load_recording, read_frames

__all__ = ["Frame", "Part", "Recording", "RecordingError", "find_parts", "load_recording", "read_frames", "spread"]
