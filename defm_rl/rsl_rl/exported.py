"""A DefmModel as functions of tensors alone: what exporters take."""

import copy
import warnings

import torch
from torch import Tensor, nn

from defm_rl.rsl_rl.model import DefmModel, joined


class StatelessModel(nn.Module):
    """A copy of a `DefmModel` for acting alone: in evaluation mode, without gradients, its recurrent state an argument.

    Args:
        model: The model; it may go on training.

    Attributes:
        vectors: The groups whose concatenation is the first input.
        images: The other groups in the order of the second input: features, then depth.
        image_shapes: Their shapes without the batch axis.
        state_names: Of the recurrent state: none, "h", or "h" and "c" of an LSTM.
        state_shape: Of each, (layers, 1, size).
    """

    def __init__(self, model: DefmModel) -> None:
        super().__init__()
        self.vectors, self.vector_dim = list(model.obs_groups), int(model.obs_dim)
        self.feature_groups, self.depth_groups = list(model.feature_groups), list(model.depth_groups)
        self.images = [*self.feature_groups, *self.depth_groups]
        self.image_shapes = [model.group_shapes[group] for group in self.images]
        self.obs_normalizer = copy.deepcopy(model.obs_normalizer)
        self.feature_norms = copy.deepcopy(model.feature_norms)
        self.projections = copy.deepcopy(model.projections)
        self.encoding = model.depth_encoding.alone() if self.depth_groups else None
        self.rnn = None if model.rnn is None else copy.deepcopy(model.rnn.rnn)
        self.mlp = copy.deepcopy(model.mlp)
        distribution = model.distribution
        self.output = nn.Identity() if distribution is None else distribution.as_deterministic_output_module()
        self.state_names = () if self.rnn is None else ("h", "c") if isinstance(self.rnn, nn.LSTM) else ("h",)
        self.state_shape = (0, 1, 0) if self.rnn is None else (self.rnn.num_layers, 1, self.rnn.hidden_size)
        self.eval().requires_grad_(False)

    def forward(self, vectors: Tensor, images: list[Tensor], state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(N, k) vectors, (N, ...) images and (layers, N, size) state to (N, A) outputs and the next state."""
        by_group = dict(zip(self.images, images, strict=True))
        features = {group: by_group[group] for group in self.feature_groups}
        encoded: dict[str, Tensor] = {}
        if self.encoding is not None:
            encoded = self.encoding.encode({group: by_group[group] for group in self.depth_groups})
        seen = self.obs_normalizer(vectors) if self.vectors else None
        latent = joined(self.feature_norms, self.projections, seen, features, encoded)
        if self.rnn is not None:
            latent, after = self.rnn(latent[None], tuple(state) if len(state) == 2 else state[0])
            latent, state = latent[0], list(after) if isinstance(after, tuple) else [after]
        return self.output(self.mlp(latent)), state

    def examples(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Inputs of the right shapes, for a batch of one: a metre everywhere, and a state that has seen nothing."""
        images = [torch.ones(1, *shape) for shape in self.image_shapes]
        return torch.zeros(1, self.vector_dim), images, [torch.zeros(self.state_shape) for _ in self.state_names]


class TorchModel(nn.Module):
    """A `DefmModel` for TorchScript, one robot at a time; its recurrent state is kept inside.

    Its inputs are those of RSL-RL's exported CNN models: the concatenated vectors (N, k), k being 0 where there are
    none, and a list of the other groups: features (N, D), then depth, each in the order of the model's groups.

    Args:
        model: The model.
    """

    def __init__(self, model: DefmModel) -> None:
        super().__init__()
        stateless = StatelessModel(model).cpu()
        vectors, images, _ = stateless.examples()
        self.state: Tensor
        self.register_buffer("state", torch.zeros(len(stateless.state_names), *stateless.state_shape))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer warns of every Python number
            self.step = torch.jit.trace(_Stacked(stateless), ([vectors, *images], self.state), check_trace=False)

    def forward(self, obs: Tensor, images: list[Tensor] | None = None) -> Tensor:
        """The actions, (N, A)."""
        inputs = [obs]
        if images is not None:
            inputs.extend(images)
        actions, state = self.step(inputs, self.state)
        self.state.copy_(state)
        return actions

    @torch.jit.export
    def reset(self) -> None:
        """Forgets the episode."""
        self.state.zero_()


class _Stacked(nn.Module):
    """A `StatelessModel` with its inputs in one list and its state in one tensor: the tracer takes no empty lists."""

    def __init__(self, model: StatelessModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: list[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
        actions, after = self.model(inputs[0], inputs[1:], list(state.unbind(0)))
        return actions, torch.stack(after) if after else state


class OnnxModel(nn.Module):
    """A `DefmModel` for ONNX, its recurrent state an input and an output; named as RSL-RL's exported models are.

    Inputs: "obs" (the concatenated vectors, where there are any), each other group by its name, then "h_in" and "c_in"
    of a recurrent model. Outputs: "actions", "h_out", "c_out".

    Args:
        model: The model.
        verbose: As RSL-RL's exporters have it.
    """

    def __init__(self, model: DefmModel, verbose: bool = False) -> None:
        super().__init__()
        self.verbose, self.is_recurrent = verbose, model.is_recurrent
        self.model = StatelessModel(model)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The inputs in the order of `input_names`."""
        rest = list(inputs)
        vectors = rest.pop(0) if self.model.vectors else torch.zeros(rest[0].shape[0], 0)
        count = len(self.model.images)
        actions, state = self.model(vectors, rest[:count], rest[count:])
        return actions, *state

    def get_dummy_inputs(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        vectors, images, state = self.model.examples()
        return (*((vectors,) if self.model.vectors else ()), *images, *state)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs."""
        obs = ["obs"] if self.model.vectors else []
        return [*obs, *self.model.images, *(f"{name}_in" for name in self.model.state_names)]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return ["actions", *(f"{name}_out" for name in self.model.state_names)]
