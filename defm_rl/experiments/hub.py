"""Runs on the Hugging Face Hub: a repository has the files of a run's folder, its policy as tensors without pickles."""

import contextlib
import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, get_token, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from defm_rl.encoders.weights import first_line
from defm_rl.experiments.card import write_card
from defm_rl.experiments.config import ConfigError
from defm_rl.experiments.runs import Run, write_json
from defm_rl.experiments.trainers import share_policy, shared

_logger = logging.getLogger(__name__)

SCHEME = "hf://"
"""What stands before a repository where a run's folder could stand, too: hf://user/repo@revision."""

_STATE, _POLICY = "checkpoint/state.json", f"checkpoint/{shared.FILE}"
_RESULTS = ("metrics.json", "episodes.csv", "episodes.gif", "history.csv", "learning_curve.png")
_FILES = ("README.md", "config.yaml", *_RESULTS, _STATE, _POLICY)
_ENCODER = "encoder"  # a file of the encoder's weights, where nobody else has them, with its own suffix
_ORIGIN = "hub.json"  # in a folder that was pulled: where from
_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "requests")  # whose errors the Hub's client lets through


@dataclass(frozen=True)
class Place:
    """A repository of the Hub, at a revision: a branch, a tag or a commit."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Reads `user/repo`, `user/repo@revision`, or the same after hf://.

        Raises:
            ConfigError: For something else.
        """
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text.removeprefix(SCHEME))
        if match is None:
            raise ConfigError(f"{text!r}: expected user/repo or user/repo@revision.")
        return cls(match[1], match[2])

    @property
    def folder(self) -> Path:
        """Where it is pulled to if nobody says where."""
        return Path("runs") / "hub" / (self.repository if self.revision is None else str(self))

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision.replace('/', '-')}"


def push(
    run: Run,
    repository: str,
    *,
    private: bool = False,
    update: bool = False,
    encoder: bool = False,
    license_name: str | None = None,
) -> str:
    """Puts a run on the Hub: its policy, its configuration, its figures, its film and a card that says what it is.

    Args:
        run: A run that was evaluated.
        repository: Such as "user/repo"; it is made.
        private: Whether only its owner is to see it.
        update: Whether to add a commit to a repository that is there already.
        encoder: Whether to put the encoder's weights there as well, where they are a file of one's own.
        license_name: Of the policy, as the Hub writes it, such as "apache-2.0".

    Returns:
        The commit's address.

    Raises:
        ConfigError: Where the run has no checkpoint or no metrics, the repository cannot be written, or is there.
    """
    place = Place.parse(repository)
    if place.revision is not None:
        raise ConfigError(f"{repository}: a run is put on the branch main; leave out @{place.revision}.")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_shared(run, folder, repository, encoder=encoder, license_name=license_name)
        if get_token() is None:
            raise ConfigError(
                "The Hub knows nobody here: log in by `hf auth login`, or set HF_TOKEN, with a token that may write."
            )
        api = HfApi()
        with _asking(f"{repository} cannot be written"):
            try:
                api.create_repo(repository, private=private, exist_ok=update)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                raise ConfigError(
                    f"{repository} is there already: update=true adds a commit to it, or name another."
                ) from error
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            commit = api.create_commit(
                repository,
                [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files],
                commit_message=f"A policy after {run.state()['steps']} steps",
            )
    return str(commit.commit_url)


def write_shared(
    run: Run, folder: Path, repository: str, *, encoder: bool = False, license_name: str | None = None
) -> None:
    """Fills a folder with what a repository is to hold.

    Raises:
        ConfigError: Where the run has no checkpoint or no metrics, or was trained on a file of weights that are to be
            left out.
    """
    config, state = run.config(), run.state()
    if not (run.folder / "metrics.json").exists():
        raise ConfigError(
            f"{run.folder} has no metrics.json: it was not evaluated. `defm-rl train resume={run.folder}` trains it "
            "to its end and evaluates it."
        )
    state = {name: state[name] for name in ("steps", "seconds", "encoder", "teacher") if name in state}
    weights = state["encoder"].get("weights")
    if config.encoder.kind == "defm" and weights not in ("hub", "random"):
        if not encoder:
            raise ConfigError(
                f"{run.folder} was trained on an encoder of {weights}, which nobody else has: encoder=true puts it "
                "into the repository as well."
            )
        name = f"{_ENCODER}{Path(weights).suffix}"
        shutil.copyfile(weights, folder / name)
        config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, weights=name))
        state["encoder"] = {**state["encoder"], "weights": name}
    share = Run(folder)
    share.save_config(config, [])
    (folder / "overrides.txt").unlink()  # the command line of a machine that nobody else has
    share.save_checkpoint(lambda to: share_policy(config, run.checkpoint, to), state)
    for name in _RESULTS:
        if (run.folder / name).exists():
            shutil.copyfile(run.folder / name, folder / name)
    write_card(share, repository, license_name, trust=names_code(_read_yaml(folder / "config.yaml")))


def pull(place: Place, folder: Path | None = None, *, trust: bool = False) -> Run:
    """Takes a run from the Hub. It can be evaluated, exported and adapted; there is nothing to go on training with.

    Args:
        place: Where it is.
        folder: Where to; default: runs/hub/user/repo. What was pulled there before makes way.
        trust: Whether code of the repository's choice may run here: pickles, and classes that its configuration names.

    Raises:
        ConfigError: Where the Hub cannot be reached and it is not in the folder, there is no such repository or no run
            in it, it would run code and is not trusted, or the folder holds something else.
    """
    folder = place.folder if folder is None else folder
    origin = _origin(folder)
    if origin != {"repository": place.repository} | {"commit": origin.get("commit")} and _occupied(folder):
        raise ConfigError(f"{folder} holds something else than {place.repository}: name another folder.")
    try:
        with _asking(f"{place} cannot be had"):
            info = HfApi().model_info(place.repository, revision=place.revision)
            commit, names = str(info.sha), [file.rfilename for file in info.siblings or ()]
            found = {
                name: Path(hf_hub_download(place.repository, name, revision=commit))
                for name in _wanted(place, names, trust)
            }
    except UnreachableError as error:
        if "commit" not in origin:
            raise
        _logger.warning("%s What was pulled before is taken, commit %s.", error, origin["commit"][:12])
        return Run(folder)
    _check_trusted(place, found, trust)
    _put(found, folder)
    write_json(folder / _ORIGIN, {"repository": place.repository, "commit": commit})
    _logger.info("%s, commit %s, is in %s", place.repository, commit[:12], folder)
    return Run(folder)


class UnreachableError(ConfigError):
    """The Hub does not answer."""


def names_code(config: Mapping[str, Any]) -> list[str]:
    """Settings of a configuration that have code run which they name, or that are more than they say."""
    env, encoder = (config.get(group) or {} for group in ("env", "encoder"))
    named = {
        "env.id": ":" in str(env.get("id")),
        "env.kwargs": bool(env.get("kwargs")),
        "env.render_depth": isinstance(env.get("render_depth"), str),
        "encoder.class_name": encoder.get("class_name") is not None,
        "encoder.kwargs": bool(encoder.get("kwargs")),
        "encoder.name": ":" in str(encoder.get("name")),
    }
    return [key for key, does in named.items() if does]


def _wanted(place: Place, names: list[str], trust: bool) -> list[str]:
    missing = [name for name in ("config.yaml", _STATE) if name not in names]
    if missing:
        held = ", ".join(sorted(names)[:8]) or "nothing"
        raise ConfigError(f"{place} holds no run that `defm-rl push` put there: no {missing[0]}, but {held}.")
    if _POLICY not in names and not trust:
        pickles = [name for name in names if name.startswith("checkpoint/") and name != _STATE]
        raise ConfigError(
            f"{place} has no {_POLICY}, but {', '.join(pickles) or 'no policy at all'}: to unpickle is to run whatever "
            "code its owner wrote. trust=true does so; or ask for a policy that `defm-rl push` wrote, as tensors."
        )
    other = [name for name in names if _POLICY not in names and re.fullmatch(r"checkpoint/[\w.-]+", name)]
    encoder = [name for name in names if re.fullmatch(rf"{_ENCODER}\.\w+", name)]
    return list(dict.fromkeys([*(name for name in _FILES if name in names), *other, *encoder]))


def _check_trusted(place: Place, found: Mapping[str, Path], trust: bool) -> None:
    """Refuses a configuration that would run code, or read what is not its own, where that is not asked for."""
    config = _read_yaml(found["config.yaml"])
    keys = [] if trust else names_code(config)
    if keys:
        raise ConfigError(
            f"{place}: its configuration runs code that it names ({', '.join(keys)}). Look at its config.yaml; "
            "trust=true does so."
        )
    state = json.loads(found[_STATE].read_text())
    for weights in (config["encoder"].get("weights"), state["encoder"].get("weights")):
        if weights not in ("hub", "random", *found):
            raise ConfigError(f"{place} was trained on an encoder of {weights}, which is not in it.")
    if "${" in found["config.yaml"].read_text():
        raise ConfigError(f"{place}: its config.yaml holds ${{...}}, which would be read from this machine.")


def _put(found: Mapping[str, Path], folder: Path) -> None:
    """Fills the run's folder; its evaluations stay, and are made again where the policy is another."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ORIGIN).unlink(missing_ok=True)
    for name in (*_FILES, *found):
        if not name.startswith("checkpoint/"):
            (folder / name).unlink(missing_ok=True)
            if name in found:
                shutil.copyfile(found[name], folder / name)
    state = json.loads(found[_STATE].read_text())
    weights = state["encoder"].get("weights")
    if weights in found:
        state["encoder"]["weights"] = str(folder / weights)

    def save(to: Path) -> None:
        for name, path in found.items():
            if name.startswith("checkpoint/") and name != _STATE:
                shutil.copyfile(path, to / Path(name).name)

    run = Run(folder)
    run.save_checkpoint(save, state)
    shutil.rmtree(folder / "checkpoint.old", ignore_errors=True)  # another revision's


def _origin(folder: Path) -> dict[str, Any]:
    path = folder / _ORIGIN
    origin: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return origin


def _occupied(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
        if not isinstance(content["encoder"], dict) or not isinstance(content["env"], dict):
            raise TypeError("env and encoder are no groups of settings")
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no run's configuration: {first_line(error)}") from error
    return dict(content)


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turns what the Hub and its client say into a ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except RevisionNotFoundError as error:
        raise ConfigError(f"{what}: there is no such revision.") from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"{what}: there is no such repository, or it is not yours to see ({first_line(error)})"
        ) from error
    except HfHubHTTPError as error:
        reason = f"status {error.response.status_code}, {first_line(error)}"
        if error.response.status_code in (401, 403):
            reason = f"the token may not do that ({reason}); `hf auth login` takes another, which may write"
        raise ConfigError(f"{what}: {reason}.") from error
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _CLIENTS:
            raise
        raise UnreachableError(f"{what}: {type(error).__name__}, {first_line(error)}.") from error
