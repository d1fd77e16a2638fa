"""Weights from the Hub, from files and from nowhere. The Hub is a local server; its client is the real one."""

import hashlib
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, HubServer
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from defm_rl.encoders import weights as weights_module
from defm_rl.encoders.weights import (
    REPOSITORY,
    InvalidWeightsError,
    WeightsNotFoundError,
    WeightsUnavailableError,
    file_sha256,
)
from defm_rl.encoders.zoo import build_encoder, load_encoder

NAME = "defm_efficientnet_b0"
FILE = f"{NAME}.pth"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return load_encoder(NAME, "random", seed=7).state_dict()


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, Tensor]) -> bytes:
    return saved({"model": state, "epoch": 3})


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def run(script: str, *arguments: Path, **environment: str) -> str:
    """Output of a script in a process of its own, where huggingface_hub reads its settings anew."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    ).stdout


def equal(network: torch.nn.Module, state: dict[str, Tensor]) -> bool:
    loaded = network.state_dict()
    return loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


class TestHub:
    @pytest.fixture
    def hub(self, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
        """The Hub as this process sees it, with an empty cache."""
        with HubServer(REPOSITORY, {FILE: checkpoint}) as server:
            self.point_to(server.url, monkeypatch)
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
            yield server

    @staticmethod
    def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")

    @pytest.fixture
    def no_network(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Makes the Hub unreachable."""

        def cut() -> None:
            self.point_to("http://127.0.0.1:9", monkeypatch)  # the discard port: nobody listens

        return cut

    def test_is_downloaded_once(self, hub: HubServer, checkpoint: bytes, state: dict[str, Tensor]) -> None:
        network = load_encoder(NAME)
        assert equal(network, state)
        assert not network.training
        info = network.provenance
        assert (info.encoder, info.source, info.revision) == (NAME, "hub", COMMIT)
        assert info.sha256 == sha256(checkpoint)
        assert info.path is not None
        assert info.path.read_bytes() == checkpoint
        assert load_encoder(NAME).provenance == info
        assert hub.downloads == 1

    def test_a_download_is_counted_once(self, hub: HubServer) -> None:
        hub.files["config.json"] = b"{}"
        for _ in range(2):
            load_encoder(NAME)
        fetched = f"GET /{REPOSITORY}/resolve/main/config.json"
        assert hub.requests.count(fetched) == 1
        assert sum("config.json" in request for request in hub.requests) == 2, "one look-up, one download"

    def test_cache_and_revision_are_selectable(self, hub: HubServer, tmp_path: Path) -> None:
        info = load_encoder(NAME, revision=COMMIT, cache_dir=tmp_path / "elsewhere").provenance
        assert info.path is not None
        assert info.path.is_relative_to(tmp_path / "elsewhere")
        assert not (tmp_path / "hub").exists()

    def test_without_a_network_the_cache_serves(
        self, hub: HubServer, no_network: Callable[[], None], state: dict[str, Tensor]
    ) -> None:
        online = load_encoder(NAME).provenance
        no_network()
        network = load_encoder(NAME)
        assert equal(network, state)
        assert network.provenance == online

    def test_without_a_network_and_cache_it_says_what_to_do(
        self, hub: HubServer, no_network: Callable[[], None], tmp_path: Path
    ) -> None:
        no_network()
        start = time.monotonic()
        with pytest.raises(WeightsUnavailableError) as caught:
            load_encoder(NAME)
        assert time.monotonic() - start < 5.0, "the Hub's client alone would try for half a minute"
        message = str(caught.value)
        assert f"hf download {REPOSITORY} {FILE}" in message
        assert f"/{REPOSITORY}/resolve/main/{FILE}" in message
        assert f"weights='/path/to/{FILE}'" in message
        assert str(tmp_path / "hub") in message

    def test_a_page_in_place_of_the_hub_is_no_network(self, hub: HubServer) -> None:
        hub.is_portal = True
        with pytest.raises(WeightsUnavailableError, match=f"hf download {REPOSITORY} {FILE}"):
            load_encoder(NAME)

    def test_a_file_that_the_hub_does_not_have(self, hub: HubServer) -> None:
        hub.files.clear()
        with pytest.raises(WeightsNotFoundError, match=rf"no {FILE} at revision 'main'"):
            load_encoder(NAME)

    def test_a_revision_that_the_hub_does_not_have(self, hub: HubServer) -> None:
        with pytest.raises(WeightsNotFoundError, match="at revision 'v9'"):
            load_encoder(NAME, revision="v9")

    def test_a_repository_that_the_hub_does_not_have(self, hub: HubServer) -> None:
        hub.repositories = {"someone/else": hub.repositories[REPOSITORY]}
        with pytest.raises(WeightsNotFoundError, match=REPOSITORY):
            load_encoder(NAME)

    def test_a_broken_connection_is_taken_up_again(
        self, hub: HubServer, checkpoint: bytes, state: dict[str, Tensor]
    ) -> None:
        hub.send_only = [len(checkpoint) // 3]
        assert equal(load_encoder(NAME), state)
        assert hub.downloads == 2

    def test_a_truncated_download_is_not_kept(self, hub: HubServer, state: dict[str, Tensor]) -> None:
        hub.announce_less = 1000
        with pytest.raises(WeightsUnavailableError, match="Consistency check failed"):
            load_encoder(NAME)
        hub.announce_less = 0
        assert equal(load_encoder(NAME), state)

    def test_a_file_damaged_in_the_cache(self, hub: HubServer, checkpoint: bytes, state: dict[str, Tensor]) -> None:
        path = load_encoder(NAME).provenance.path
        assert path is not None
        blob = path.resolve()
        damaged = bytearray(checkpoint)
        damaged[len(damaged) // 2] ^= 1  # torch.load would not notice
        blob.write_bytes(damaged)
        with pytest.raises(InvalidWeightsError, match=f"damaged.*{sha256(checkpoint)}.*Delete {blob}"):
            load_encoder(NAME)
        blob.unlink()
        assert equal(load_encoder(NAME), state)

    @pytest.mark.slow
    def test_four_processes_download_once(self, hub: HubServer, checkpoint: bytes, tmp_path: Path) -> None:
        hub.delay_s = 1.0
        script = (
            "import multiprocessing, sys\n"
            "from defm_rl.encoders.weights import find_weights\n"
            "context = multiprocessing.get_context('fork')\n"
            "together = context.Barrier(4)\n"
            "def find(name):\n"
            "    together.wait()\n"
            "    return find_weights(name).sha256\n"
            "with context.Pool(4) as pool:\n"
            f"    sys.stdout.write(' '.join(pool.map(find, ['{NAME}'] * 4, chunksize=1)))\n"
        )
        digests = run(script, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"), HF_HUB_CACHE=str(tmp_path / "cache"))
        assert digests.split() == [sha256(checkpoint)] * 4
        assert hub.downloads == 1

    def test_offline_mode_asks_nobody(self, hub: HubServer, checkpoint: bytes, tmp_path: Path) -> None:
        load_encoder(NAME, cache_dir=tmp_path / "full")
        asked = len(hub.requests)
        script = (
            "import sys\n"
            "from defm_rl.encoders.weights import WeightsUnavailableError, find_weights\n"
            f"sys.stdout.write(find_weights('{NAME}', cache_dir=sys.argv[1]).sha256)\n"
            "try:\n"
            f"    find_weights('{NAME}', cache_dir=sys.argv[2])\n"
            "except WeightsUnavailableError as error:\n"
            "    sys.stdout.write(' ' + str(error))\n"
        )
        output = run(script, tmp_path / "full", tmp_path / "empty", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
        digest, _, message = output.partition(" ")
        assert digest == sha256(checkpoint)
        assert "offline mode is enabled" in message
        assert f"hf download {REPOSITORY} {FILE}" in message
        assert len(hub.requests) == asked


class TestFiles:
    @pytest.mark.parametrize("kind", ["state dict", "under model", "old format", "half", "safetensors"])
    def test_kinds_of_files(self, kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
        path, expected = tmp_path / "weights.pth", state
        if kind == "state dict":
            torch.save(state, path)
        elif kind == "under model":
            torch.save({"model": state, "optimizer": {}}, path)
        elif kind == "old format":
            torch.save(state, path, _use_new_zipfile_serialization=False)
        elif kind == "half":
            torch.save({name: value.half() for name, value in state.items()}, path)
            expected = {name: value.half().float() for name, value in state.items()}
        else:
            path = path.with_suffix(".safetensors")
            save_file(state, path)
        network = load_encoder(NAME, str(path))
        assert equal(network, expected)
        assert (network.provenance.source, network.provenance.path) == ("file", path)
        assert network.provenance.sha256 == sha256(path.read_bytes())

    def test_weights_do_not_depend_on_the_file_after_loading(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save(state, path)
        network = load_encoder(NAME, path)
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
        assert equal(network, state)

    @pytest.mark.parametrize("what", ["missing", "folder"])
    def test_paths_without_a_file(self, what: str, tmp_path: Path) -> None:
        path = tmp_path if what == "folder" else tmp_path / "none.pth"
        with pytest.raises(WeightsNotFoundError, match=f'"hub", "random" or the path of a file, and {path}'):
            load_encoder(NAME, path)

    def test_missing_names_are_counted_and_the_first_are_named(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        names = list(state)
        path = tmp_path / "weights.pth"
        torch.save({name: state[name] for name in names[7:]}, path)
        with pytest.raises(InvalidWeightsError, match=rf"7 of {len(names)} names are missing \({names[0]}, ") as caught:
            load_encoder(NAME, path)
        assert names[4] in str(caught.value)
        assert names[5] not in str(caught.value)

    def test_other_shapes_are_named(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        name = next(iter(state))
        path = tmp_path / "weights.pth"
        torch.save({**state, name: torch.zeros(32, 1, 3, 3)}, path)
        with pytest.raises(InvalidWeightsError, match=rf"1 of 215 shapes differ \({name} \(32, 1, 3, 3\) instead of"):
            load_encoder(NAME, path)

    def test_weights_of_another_encoder(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save(state, path)
        with pytest.raises(InvalidWeightsError, match="names are missing"):
            load_encoder("defm_resnet18", path)

    def test_unexpected_names_get_one_warning(
        self, state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "weights.pth"
        torch.save({**state, "head.weight": torch.ones(2), "head.bias": torch.ones(2)}, path)
        with caplog.at_level(logging.WARNING):
            assert equal(load_encoder(NAME, path), state)
        assert len(caplog.records) == 1
        assert "2 unexpected names" in caplog.text
        assert "head.weight, head.bias" in caplog.text

    @pytest.mark.parametrize(
        ("suffix", "content", "says"),
        [
            (".pth", b"", "is empty"),
            (".pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "git-lfs pointer"),
            (".pth", b"\n<!doctype html><html>", "web page"),
            (".safetensors", b"<html>", "web page"),
            (".pth", b"not a checkpoint at all", "no PyTorch checkpoint|damaged"),
            (".safetensors", b"not a checkpoint at all", "damaged"),
            (".pth", saved({"weights": {"a": 1}}), "holds no state dict"),
            (".pth", saved([torch.ones(2)]), "holds no state dict"),
            (".pth", saved({"model": 3}), "holds no state dict"),
        ],
    )
    def test_files_that_are_something_else(self, suffix: str, content: bytes, says: str, tmp_path: Path) -> None:
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        with pytest.raises(InvalidWeightsError, match=says):
            load_encoder(NAME, path)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_truncated_files(self, suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
        path = tmp_path / f"weights{suffix}"
        (torch.save if suffix == ".pth" else save_file)(state, path)
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(InvalidWeightsError, match=r"cannot be read.*damaged or incomplete|no PyTorch checkpoint"):
            load_encoder(NAME, path)

    def test_code_in_a_checkpoint_is_not_run(self, tmp_path: Path) -> None:
        path, trace = tmp_path / "weights.pth", tmp_path / "trace"
        torch.save({"model": Malicious(trace)}, path)
        with pytest.raises(InvalidWeightsError, match="could run code"):
            load_encoder(NAME, path)
        assert not trace.exists()

    def test_a_file_is_hashed_again_only_when_it_changed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "weights.pth"
        path.write_bytes(b"one")
        assert file_sha256(path) == sha256(b"one")
        with monkeypatch.context() as context:
            context.setattr(weights_module.hashlib, "file_digest", None)
            assert file_sha256(path) == sha256(b"one")
        path.write_bytes(b"three")
        assert file_sha256(path) == sha256(b"three")


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


class TestRandom:
    def test_the_seed_says_it_all(self, state: dict[str, Tensor]) -> None:
        torch.manual_seed(1)
        first = load_encoder(NAME, "random", seed=7)
        assert equal(first, state)
        assert first.provenance.source == "random"
        assert first.provenance == load_encoder(NAME, "random", seed=7).provenance
        assert first.provenance.sha256 != load_encoder(NAME, "random", seed=8).provenance.sha256

    def test_the_global_generator_stays_as_it_was(self) -> None:
        before = torch.get_rng_state()
        load_encoder(NAME, "random")
        assert torch.equal(torch.get_rng_state(), before)

    def test_building_draws_from_the_global_generator(self, state: dict[str, Tensor]) -> None:
        torch.manual_seed(7)
        network = build_encoder(NAME)
        assert network.training
        assert equal(network, state)

    def test_loading_from_a_file_takes_no_random_numbers(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        torch.save(state, tmp_path / "weights.pth")
        before = torch.get_rng_state()
        load_encoder(NAME, tmp_path / "weights.pth")
        assert torch.equal(torch.get_rng_state(), before)
