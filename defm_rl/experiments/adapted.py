"""A trained policy on an adapted encoder: what it accepts, and what it refuses."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from defm_rl.adaptation import feature_settings, load_into, network_sha256
from defm_rl.encoders import DepthEncoder
from defm_rl.encoders.files import read_state
from defm_rl.encoders.weights import find_weights, read_adaptation
from defm_rl.experiments import environments
from defm_rl.experiments.config import Config, ConfigError
from defm_rl.experiments.episodes import Seeing
from defm_rl.experiments.evaluation import load
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tasks import make_task


def load_adapted(run: Run, path: Path | None) -> tuple[Config, Seeing, DepthEncoder | None]:
    """A run's configuration and policy, with the adapted encoder in the place of the one it was trained with.

    Args:
        run: The run.
        path: The adapted weights; None: as it was trained.

    Raises:
        ConfigError: Where the file is no adaptation of exactly that encoder and those features.
        WeightsNotFoundError, InvalidWeightsError: Where it is not there, or damaged.
    """
    config, policy, encoder = load(run)
    if path is None:
        return config, policy, encoder
    network = seeing_network(config, policy, encoder)
    check_adaptation(run, path, network)
    if network is not policy.network:
        settings = replace(config.encoder, weights=str(path))
        return config, policy, environments.make_encoder(settings, make_task(config.env).depth_size(settings))
    load_into(network, read_state(path), path)
    return config, policy, encoder


def seeing_network(config: Config, policy: Seeing, encoder: DepthEncoder | None) -> nn.Module:
    """What makes features of depth for a policy: the frozen encoder before it, or a network inside it.

    Raises:
        ConfigError: Where it is blind.
    """
    network = encoder if environments.sees_features(config.encoder) else policy.network
    if network is None:
        raise ConfigError(f"The policy (encoder={config.encoder.kind}) sees no depth: there is nothing to adapt.")
    return network


def check_adaptation(run: Run, path: Path, network: nn.Module) -> None:
    """Checks that a file is an adaptation of the network that a policy was trained with.

    Raises:
        ConfigError: Where it declares no parent, another parent, or other features.
        WeightsNotFoundError, InvalidWeightsError: Where it is not there, or damaged.
    """
    adaptation = read_adaptation(_file(path))
    if adaptation is None:
        raise ConfigError(
            f"adapted={path} is no adaptation, which names its parent. Make one by "
            f"`defm-rl adapt {run.folder} sensors=...`."
        )
    parent = network_sha256(network)
    if adaptation.parent != parent:
        raise ConfigError(
            f"adapted={path} was adapted from weights of sha256 {adaptation.parent}, and {run.folder} was trained with "
            f"{parent}: a policy means nothing on another encoder's features. Adapt its own by `defm-rl adapt "
            f"{run.folder} sensors=...`."
        )
    features = feature_settings(network)
    if adaptation.features != features:
        raise ConfigError(
            f"adapted={path} was adapted for {adaptation.features}, and {run.folder} sees {features}: nobody looked at "
            "what became of these."
        )


def _file(path: Path) -> Path:
    found = find_weights("", path).path
    assert found is not None
    return found
