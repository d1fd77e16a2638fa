"""Labelled depth in folders: how many of its frames are taken, and which classes there are."""

import numpy as np
import pytest
from PIL import Image

from defm_rl.probes.labelled import read_folder
from defm_rl.recordings import RecordingError

RNG = np.random.default_rng(0)


def write_depth(file, *shape):
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, RNG.uniform(1, 3, shape).astype(np.float32))


def test_the_limit_is_of_all_frames_however_many_a_file_holds(tmp_path):
    for name in ("box/1", "box/2", "box/3", "ball/1", "ball/2", "ball/3"):
        write_depth(tmp_path / f"{name}.npy", 30, 8, 10)
    found = read_folder(tmp_path, limit=40)
    assert np.bincount(found.labels).tolist() == [20, 20]
    assert len(read_folder(tmp_path, limit=4).frames) == 4
    assert len(read_folder(tmp_path).frames) == 180


@pytest.mark.parametrize("lacking", ["train", "test"])
def test_a_split_whose_masks_lack_the_highest_class_is_read(tmp_path, lacking):
    for split in ("train", "test"):
        write_depth(tmp_path / split / "depth" / "0.npy", 8, 10)
        (tmp_path / split / "masks").mkdir()
        mask = np.arange(80, dtype=np.uint8).reshape(8, 10) % (2 if split == lacking else 3)
        Image.fromarray(mask).save(tmp_path / split / "masks" / "0.png")
    assert read_folder(tmp_path).classes == ("0", "1", "2")


def test_splits_of_other_classes_are_refused(tmp_path):
    for name in ("train/box", "train/ball", "test/box", "test/cone"):
        write_depth(tmp_path / name / "0.npy", 8, 10)
    with pytest.raises(RecordingError, match="only one of them has ball, cone"):
        read_folder(tmp_path)
