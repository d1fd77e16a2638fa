"""RSL-RL's runner configurations for the tasks."""

from isaaclab.utils import configclass
from isaaclab_rl.rsl_rl import (
    RslRlDistillationAlgorithmCfg,
    RslRlDistillationRunnerCfg,
    RslRlMLPModelCfg,
    RslRlOnPolicyRunnerCfg,
    RslRlPpoAlgorithmCfg,
)

from defm_rl.isaaclab.runners import DefmModelCfg, EncoderPpoCfg

_HIDDEN = [128, 64]
_GAUSSIAN = RslRlMLPModelCfg.GaussianDistributionCfg(init_std=0.5)
_ENCODER = {
    "encoder": "defm_regnet_y_400mf",
    "weights": "hub",
    "features": "P3",
    "grid": [2, 12],
    "bifpn": False,
    "trainable": "all",
}
_PPO = {
    "num_learning_epochs": 5,
    "num_mini_batches": 4,
    "learning_rate": 6e-4,
    "schedule": "adaptive",
    "gamma": 0.98,
    "lam": 0.95,
    "entropy_coef": 0.002,
    "desired_kl": 0.015,
    "max_grad_norm": 1.0,
    "value_loss_coef": 1.0,
    "use_clipped_value_loss": True,
    "clip_param": 0.2,
}


@configclass
class FeaturesPpoCfg(RslRlOnPolicyRunnerCfg):
    """PPO on features that the environment encodes, with a critic that also knows the layout."""

    seed: int = 0
    num_steps_per_env: int = 32
    max_iterations: int = 300
    save_interval: int = 50
    experiment_name: str = "defm_navigation"
    obs_groups = {"actor": ["policy", "depth"], "critic": ["policy", "depth", "privileged"]}
    actor: DefmModelCfg = DefmModelCfg(
        hidden_dims=_HIDDEN, activation="elu", distribution_cfg=_GAUSSIAN, feature_groups=["depth"]
    )
    critic: DefmModelCfg = DefmModelCfg(hidden_dims=_HIDDEN, activation="elu", feature_groups=["depth"])
    algorithm: RslRlPpoAlgorithmCfg = RslRlPpoAlgorithmCfg(**_PPO)


@configclass
class RecurrentPpoCfg(FeaturesPpoCfg):
    """The same with memory."""

    def __post_init__(self) -> None:
        """Makes both models recurrent."""
        self.experiment_name = "defm_navigation_recurrent"
        self.actor.rnn_type = self.critic.rnn_type = "gru"
        self.actor.rnn_hidden_dim = self.critic.rnn_hidden_dim = 128


@configclass
class TeacherPpoCfg(FeaturesPpoCfg):
    """PPO of a teacher that knows the layout and does not look."""

    def __post_init__(self) -> None:
        """Replaces features by the layout."""
        self.experiment_name = "defm_navigation_teacher"
        self.obs_groups = {"actor": ["policy", "privileged"], "critic": ["policy", "privileged"]}
        self.actor.feature_groups = self.critic.feature_groups = []


@configclass
class DistillationCfg(RslRlDistillationRunnerCfg):
    """A student that sees learns what a teacher of `TeacherPpoCfg` does."""

    seed: int = 0
    num_steps_per_env: int = 32
    max_iterations: int = 300
    save_interval: int = 50
    experiment_name: str = "defm_navigation_student"
    obs_groups = {"student": ["policy", "depth"], "teacher": ["policy", "privileged"]}
    student: DefmModelCfg = DefmModelCfg(
        hidden_dims=_HIDDEN, activation="elu", distribution_cfg=_GAUSSIAN, feature_groups=["depth"]
    )
    teacher: DefmModelCfg = DefmModelCfg(
        hidden_dims=_HIDDEN, activation="elu", distribution_cfg=_GAUSSIAN, feature_groups=[]
    )
    algorithm: RslRlDistillationAlgorithmCfg = RslRlDistillationAlgorithmCfg(
        num_learning_epochs=2, learning_rate=1e-3, gradient_length=8, max_grad_norm=1.0
    )


@configclass
class ImagePpoCfg(FeaturesPpoCfg):
    """PPO that fine-tunes the encoder, which actor and critic share."""

    def __post_init__(self) -> None:
        """Puts the encoder into the policy."""
        self.experiment_name = "defm_navigation_image"
        self.algorithm = EncoderPpoCfg(**_PPO)
        self.actor.feature_groups = self.critic.feature_groups = []
        self.actor.encoder = self.critic.encoder = dict(_ENCODER)


@configclass
class VectorPpoCfg(FeaturesPpoCfg):
    """PPO on one vector: everything that a task's group "policy" holds."""

    def __post_init__(self) -> None:
        """Leaves one group."""
        self.experiment_name = "defm_navigation_vector"
        self.obs_groups = {"actor": ["policy"], "critic": ["policy"]}
        self.actor.feature_groups = self.critic.feature_groups = []
        self.actor.obs_normalization = self.critic.obs_normalization = True


@configclass
class StockPpoCfg(FeaturesPpoCfg):
    """PPO on features for Isaac Lab's own tasks, whose steps are shorter than our navigation's."""

    def __post_init__(self) -> None:
        """Longer horizons, wider networks, normalised vectors."""
        self.experiment_name = "defm_stock"
        self.max_iterations = 2000
        self.num_steps_per_env = 24
        self.algorithm.gamma = 0.99
        for model in (self.actor, self.critic):
            model.hidden_dims = [256, 128, 64]
            model.obs_normalization = True


@configclass
class StockSymmetricPpoCfg(StockPpoCfg):
    """The same where a task has nothing privileged."""

    def __post_init__(self) -> None:
        """Gives the critic what the actor has."""
        super().__post_init__()
        self.obs_groups = {"actor": ["policy", "depth"], "critic": ["policy", "depth"]}
