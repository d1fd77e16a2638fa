"""How the networks behave: features on request, sizes, modes, gradients, export and compilation."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from reference import reference_facts
from torch import Tensor, nn

from defm_rl.encoders.architectures import ARCHITECTURES, build_network
from defm_rl.encoders.base import Encoder
from defm_rl.encoders.efficientnet import MBConv
from defm_rl.encoders.layers import MaxPool, StochasticDepth
from defm_rl.encoders.output import EncoderOutput

SMALLEST_CNNS = ("defm_resnet18", "defm_regnet_y_400mf", "defm_efficientnet_b0")
SMALLEST = (*SMALLEST_CNNS, "defm_vit_s14")
# Compiling and exporting all of them takes minutes: one of each class is enough for every day.
ALL = [
    pytest.param(name, marks=() if name in ("defm_resnet18", "defm_vit_s14") else pytest.mark.slow)
    for name in ARCHITECTURES
]


def random_network(name: str, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return build_network(name).eval()


def images(net: Encoder, batch: int = 2, seed: int = 0) -> Tensor:
    m = net.size_multiple
    return torch.randn(batch, 3, 2 * m, 3 * m, generator=torch.Generator().manual_seed(seed))


def on_meta(name: str) -> Encoder:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_network(name)


def assert_same(got: EncoderOutput, expected: EncoderOutput, tolerance: float = 1e-4) -> None:
    assert got.maps.keys() == expected.maps.keys()
    for a, b in zip(
        (got.global_features, *got.maps.values()), (expected.global_features, *expected.maps.values()), strict=True
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@contextmanager
def recorded_calls(net: nn.Module) -> Iterator[list[str]]:
    """Collects the names of the modules that run, in their order."""
    called: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.append(name)) for name, module in net.named_modules()
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


class TestStructure:
    """What can be said of all twelve without running them."""

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_no_group_normalization_has_one_group(self, name: str) -> None:
        norms = [m for m in on_meta(name).modules() if isinstance(m, nn.GroupNorm)]
        assert all(norm.num_groups > 1 for norm in norms)
        assert len(norms) == 0 if "vit" in name else len(norms) > 10

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_stages_hold_each_parameter_once(self, name: str) -> None:
        net = on_meta(name)
        stages = net.stage_prefixes()
        stage_of: list[str] = []
        for parameter, _ in net.named_parameters():
            owners = [s for s, prefixes in stages.items() for p in prefixes if parameter.startswith(p)]
            assert len(owners) == 1, parameter
            stage_of += owners
        assert set(stage_of) == set(stages)

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_channels_are_as_published(self, name: str) -> None:
        net, facts = on_meta(name), reference_facts(name)
        if "vit" in name:
            expected = {"global": facts["class_token"], "P14": facts["spatial"]}
        else:
            expected = {"global": facts["global_backbone"], **{p: facts[f"dense_feats/{p}"] for p in net.levels}}
            assert {facts[f"dense_bifpn/{p}"] for p in net.levels} == {net.bifpn_channels}
        assert net.channels == expected

    @pytest.mark.parametrize("name", SMALLEST)
    def test_stages_are_listed_in_the_order_in_which_they_run(self, name: str) -> None:
        net = random_network(name)
        with recorded_calls(net) as called, torch.no_grad():
            net(images(net))
        stages = net.stage_prefixes()
        ran = [s for path in called for s, prefixes in stages.items() if f"{path}.".startswith(prefixes)]
        backbone = [stage for stage in stages if stage not in ("neck", "head")]
        assert [stage for stage in dict.fromkeys(ran) if stage in backbone] == backbone

    def test_unknown_name_lists_the_known(self) -> None:
        with pytest.raises(ValueError, match="defm_resnet18"):
            build_network("resnet18")


class TestFeatures:
    """Asking for some of the features."""

    @pytest.mark.parametrize("name", SMALLEST)
    @pytest.mark.parametrize("bifpn", [True, False])
    def test_a_part_equals_the_part_of_the_whole(self, name: str, bifpn: bool) -> None:
        net = random_network(name)
        x = images(net)
        with torch.no_grad():
            whole = net(x, bifpn=bifpn)
            for feature in ("global", *net.levels):
                part = net(x, bifpn=bifpn, features=(feature,))
                if feature == "global":
                    assert part.maps == {}
                    assert torch.equal(part.global_features, whole.global_features)
                else:
                    assert part.global_features is None
                    assert part.maps.keys() == {feature}
                    assert torch.equal(part.maps[feature], whole.maps[feature])

    @pytest.mark.parametrize("name", SMALLEST_CNNS)
    def test_only_what_is_asked_for_is_computed(self, name: str) -> None:
        net = random_network(name)
        stages = list(net.stage_prefixes().items())
        last = stages[-3][1][0].rstrip(".")

        def calls(**kwargs: object) -> set[str]:
            with recorded_calls(net) as called, torch.no_grad():
                net(images(net), **kwargs)
            return set(called)

        global_only = calls(features=("global",))
        assert {last, "norm_cls"} <= global_only
        assert not global_only & {"fpn", "norm_patch"}

        p4_of_backbone = calls(features=("P4",), bifpn=False)
        assert not p4_of_backbone & {last, "fpn", "norm_patch", "norm_cls"}
        assert len(calls(features=("P3",), bifpn=False)) < len(p4_of_backbone)

        p3 = calls(features=("P3",))
        assert {last, "fpn.blocks.0.convs.0"} <= p3
        assert not p3 & {"norm_cls", "fpn.blocks.0.convs.1", "fpn.blocks.0.fuse_bottomup.0"}
        assert "fpn.blocks.0.convs.2" in calls(features=("P5",))

    @pytest.mark.parametrize("name", ["defm_resnet18", "defm_vit_s14"])
    @pytest.mark.parametrize("features", [("P6",), ("global", "p4"), ()])
    def test_unknown_features_are_refused_with_the_known(self, name: str, features: tuple[str, ...]) -> None:
        net = random_network(name)
        with pytest.raises(ValueError, match=", ".join(("global", *net.levels))):
            net(images(net), features=features)


class TestSizes:
    """Heights and widths."""

    @pytest.mark.parametrize("name", SMALLEST_CNNS)
    @pytest.mark.parametrize(("height", "width"), [(48, 96), (33, 47), (5, 1)])
    def test_without_bifpn_any_size_works(self, name: str, height: int, width: int) -> None:
        net = random_network(name)
        with torch.no_grad():
            out = net(torch.randn(1, 3, height, width), bifpn=False)
        assert out.global_features.shape == (1, net.channels["global"])
        for level, stride in net.strides.items():
            assert out.maps[level].shape == (1, net.channels[level], -(-height // stride), -(-width // stride))
            assert out.maps[level].isfinite().all()

    def test_bifpn_says_what_to_do_about_other_sizes(self) -> None:
        net = random_network("defm_resnet18")
        x = torch.randn(1, 3, 48, 96)
        with pytest.raises(ValueError, match=r"48x96.*pad_to=32.*bifpn=False"):
            net(x)
        with torch.no_grad():  # global features do not pass through it
            assert net(x, features=("global",)).global_features.shape == (1, 512)

    def test_vit_takes_multiples_of_its_patch(self) -> None:
        net = random_network("defm_vit_s14")
        with torch.no_grad():
            assert net(torch.randn(1, 3, 14, 70)).maps["P14"].shape == (1, 384, 1, 5)
            assert net(torch.randn(1, 3, 224, 224)).maps["P14"].shape == (1, 384, 16, 16)
        with pytest.raises(ValueError, match=r"multiples of 14.*50x70.*multiple_of=14"):
            net(torch.randn(1, 3, 50, 70))


class TestModes:
    """Training and evaluation."""

    def test_stochastic_depth_is_for_training_only(self) -> None:
        net = random_network("defm_efficientnet_b0")
        x = images(net)
        with torch.no_grad():
            assert torch.equal(net(x).global_features, net(x).global_features)
            net.train()
            assert not torch.equal(net(x).global_features, net(x).global_features)

    @pytest.mark.parametrize("name", ["defm_resnet18", "defm_regnet_y_400mf", "defm_vit_s14"])
    def test_the_others_do_the_same_in_both(self, name: str) -> None:
        net = random_network(name)
        x = images(net)
        with torch.no_grad():
            expected = net(x)
            assert_same(net.train()(x), expected, tolerance=0.0)

    def test_stochastic_depth_drops_whole_images_and_keeps_the_mean(self) -> None:
        torch.manual_seed(0)
        out = StochasticDepth(0.25).train()(torch.ones(4000, 2, 3, 3)).flatten(1)
        assert torch.equal(out.amin(1), out.amax(1))
        assert {round(v, 3) for v in out[:, 0].unique().tolist()} == {0.0, 1.333}
        assert abs(out.mean().item() - 1.0) < 0.05

    @pytest.mark.parametrize(("name", "last"), [("defm_efficientnet_b0", 0.175), ("defm_efficientnet_b6", 0.182)])
    def test_stochastic_depth_rises_with_depth(self, name: str, last: float) -> None:
        blocks = [m.stochastic_depth for m in on_meta(name).modules() if isinstance(m, MBConv)]
        rates = [b.probability for b in blocks if b is not None]
        assert rates == sorted(rates)
        assert rates[-1] == pytest.approx(last, abs=1e-3)


class TestRandomWeights:
    """Networks that were not loaded."""

    @pytest.mark.parametrize("name", SMALLEST)
    @pytest.mark.sweep(3)
    def test_the_seed_decides(self, name: str) -> None:
        first, again, other = (random_network(name, seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)

    @pytest.mark.parametrize("name", SMALLEST)
    def test_features_tell_images_apart(self, name: str) -> None:
        net = random_network(name)
        m = net.size_multiple
        x = torch.zeros(3, 3, 4 * m, 4 * m)  # far, a near left half, a near right half
        x[1, :, :, : 2 * m] = x[2, :, :, 2 * m :] = -1.5
        with torch.no_grad():
            out = net(x)
        for feature in (out.global_features, *out.maps.values()):
            spread = feature.std(dim=0).mean() / feature.std()
            assert spread > 0.04, spread


class TestGradients:
    """Training the networks."""

    @pytest.mark.parametrize("name", SMALLEST)
    def test_every_used_parameter_is_reached(self, name: str) -> None:
        net = random_network(name)
        out = net(images(net))
        sum(t.square().sum() for t in (out.global_features, *out.maps.values())).backward()
        unreached = {key for key, p in net.named_parameters() if p.grad is None}
        assert unreached == ({"mask_token"} if "vit" in name else set())
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())

    @pytest.mark.parametrize("name", SMALLEST)
    @pytest.mark.sweep(3)
    def test_gradients_are_the_slopes(self, name: str) -> None:
        net = random_network(name).double()
        x = images(net).double()
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        weights = torch.randn(
            2, net.channels["global"], generator=torch.Generator().manual_seed(2), dtype=torch.float64
        )

        def loss(step: float) -> Tensor:
            out = net(x + step * direction)
            return (out.global_features * weights).sum() + sum(m[:, ::2].square().sum() for m in out.maps.values())

        x.requires_grad_()
        loss(0.0).backward()
        step = 1e-8  # small, so that few ReLUs and maxima change sides
        with torch.no_grad():
            slope = (loss(step) - loss(-step)) / (2 * step)
        torch.testing.assert_close((x.grad * direction).sum(), slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SMALLEST)
def test_channels_last_gives_the_same(name: str) -> None:
    net = random_network(name)
    x = images(net)
    with torch.no_grad():
        expected = net(x)
        net.to(memory_format=torch.channels_last)
        assert_same(net(x.contiguous(memory_format=torch.channels_last)), expected)


class TestGraphs:
    """Exported, compiled and traced networks do what the network does."""

    @pytest.mark.parametrize("name", ALL)
    @pytest.mark.sweep(6)
    def test_export_with_any_batch(self, name: str) -> None:
        net = random_network(name)
        program = torch.export.export(net, (images(net),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        x = images(net, batch=3, seed=1)
        with torch.no_grad():
            assert_same(program.module()(x), net(x))

    @pytest.mark.parametrize("name", ALL)
    @pytest.mark.sweep(12)
    def test_compiles_without_graph_breaks(self, name: str) -> None:
        net = random_network(name)
        torch._dynamo.reset()
        compiled = torch.compile(net, fullgraph=True, backend="eager")
        x = images(net)
        with torch.no_grad():
            assert_same(compiled(x), net(x))
            some = ("global", net.levels[0])
            assert_same(compiled(x, bifpn=False, features=some), net(x, bifpn=False, features=some))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["defm_resnet18", "defm_efficientnet_b0"])
    def test_compiles_for_training(self, name: str) -> None:
        net = random_network(name).train()
        torch._dynamo.reset()
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        compiled(images(net), features=("global",)).global_features.square().sum().backward()
        first = next(net.parameters())
        assert first.grad is not None
        assert first.grad.abs().max() > 0

    @pytest.mark.slow
    def test_compiles_with_inductor(self) -> None:
        net = random_network("defm_efficientnet_b0")
        torch._dynamo.reset()
        x = images(net)
        with torch.no_grad():
            assert_same(torch.compile(net, fullgraph=True)(x), net(x), tolerance=1e-3)

    @pytest.mark.parametrize("name", SMALLEST)
    @pytest.mark.parametrize("feature", ["global", "map"])
    @pytest.mark.sweep(3)
    def test_traces_for_any_batch(self, name: str, feature: str) -> None:
        net = random_network(name).requires_grad_(False)

        def function(x: Tensor) -> Tensor:
            if feature == "global":
                return net(x, features=("global",)).global_features
            return net(x, features=net.levels[:1]).maps[net.levels[0]]

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(function, images(net), check_trace=False)
            x = images(net, batch=3, seed=1)
            torch.testing.assert_close(traced(x), function(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_max_pooling_is_pytorchs_in_values_gradients_and_layout(
    memory_format: torch.memory_format, size: tuple[int, int]
) -> None:
    x = torch.randint(0, 4, (2, 5, *size), generator=torch.Generator().manual_seed(0)).float()  # with ties
    inputs = [x.clone(memory_format=memory_format).requires_grad_() for _ in range(2)]
    outputs = [
        pool(y) for pool, y in zip((MaxPool(3, 2, padding=1), nn.MaxPool2d(3, 2, padding=1)), inputs, strict=True)
    ]
    assert torch.equal(*outputs)
    assert outputs[0].is_contiguous(memory_format=memory_format)
    weights = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (torch.autograd.grad((y * weights).sum(), x)[0] for x, y in zip(inputs, outputs, strict=True))
    assert torch.equal(ours, theirs)
