"""Writes `published.npz`: what the published package gives where it is called in all the ways that people call it.

make .venv-bench/.installed && .venv-bench/bin/python tests/reference/make_published.py
"""

import sys
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER.parent / "encoders"))
from reference import load_reference_weights  # noqa: E402

from defm_rl.deploy.upstream import create_defm_model, preprocess_depth_batch  # noqa: E402

from defm.utils import (  # noqa: E402  isort: skip
    convert_to_3channel_metric,
    preprocess_depth_dav2,
    preprocess_depth_image,
)


def main() -> None:
    random = np.random.RandomState(0)  # its stream is frozen across numpy releases
    arrays = {"depth": (10 * random.random_sample((2, 32, 64))).astype(np.float32)}
    depth = arrays["depth"]

    vit = load_reference_weights(create_defm_model("defm_vit_s14"))
    x = preprocess_depth_batch(depth[:1], patch_size=14)
    with torch.no_grad():
        arrays["vit"] = vit(x)
        features = vit(x, is_training=True)
        for key in ("x_norm_clstoken", "x_norm_patchtokens", "x_prenorm"):
            arrays[f"vit/{key}"] = features[key]
        for name, n in (("last", 1), ("three", 3), ("list", [1, 6, 11])):
            for norm in (True, False):
                for i, (maps, token) in enumerate(vit.get_intermediate_layers(x, n, True, True, norm)):
                    arrays[f"blocks/{name}/{norm}/{i}/map"] = maps[:, ::4]
                    arrays[f"blocks/{name}/{norm}/{i}/token"] = token
        (arrays["blocks/patches"],) = vit.get_intermediate_layers(x)

    cnn = load_reference_weights(create_defm_model("defm_regnet_y_400mf"))
    with torch.no_grad():
        x = preprocess_depth_batch(depth[:1])
        for norm in (True, False):
            out, plain = cnn(x, norm=norm), cnn.forward_no_bifpn(x, norm=norm)
            arrays[f"cnn/{norm}/global_backbone"] = out["global_backbone"]
            for level in ("P3", "P4", "P5"):
                arrays[f"cnn/{norm}/dense_bifpn/{level}"] = out["dense_bifpn"][level][:, ::4]
                arrays[f"cnn/{norm}/dense_feats/{level}"] = plain["dense_feats"][level][:, ::8]

    arrays["image/14"] = preprocess_depth_image(depth[0], target_size=(30, 60), patch_size=14)
    arrays["image/square"] = preprocess_depth_image(depth[0], target_size=24)
    arrays["batch/padded"] = preprocess_depth_batch(depth, target_size=(24, 40), cnn_padding=True)
    arrays["dav2"] = preprocess_depth_dav2((25 * depth[0]).astype(np.uint8), target_size=28, patch_size=14)
    arrays["channels"] = convert_to_3channel_metric(depth[0]).astype(np.float32)
    np.savez_compressed(FOLDER / "published.npz", **{key: np.asarray(value) for key, value in arrays.items()})


if __name__ == "__main__":
    main()
