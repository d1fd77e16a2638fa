"""Draws the learning curves of several runs into one picture.

python docs/figures/learning_curves.py docs/images/quickstart.png "with depth=runs/a,runs/b" "blind=runs/c,runs/d"
"""

import sys
from pathlib import Path

from defm_rl.experiments.plots import learning_curves
from defm_rl.experiments.runs import Run

if __name__ == "__main__":
    picture, *arms = sys.argv[1:]
    groups = {}
    for arm in arms:
        label, _, folders = arm.partition("=")
        groups[label] = [Run(Path(folder)) for folder in folders.split(",")]
    learning_curves(groups, Path(picture))
