"""What the navigation task is made of: the reset event, observations, rewards, terminations and the action."""

from collections.abc import Sequence
from typing import Any

import isaaclab.envs.mdp as mdp
import torch
from isaaclab.envs.mdp.actions.non_holonomic_actions import NonHolonomicAction
from isaaclab.managers import EventTermCfg, ManagerTermBase, RewardTermCfg
from torch import Tensor

from defm_rl.envs.isaaclab.layouts import Layouts
from defm_rl.isaaclab import as_torch


class UnicycleAction(NonHolonomicAction):
    """Forward speed and turn rate, each from -1 to 1; what lies beyond counts as the bound."""

    def process_actions(self, actions: Tensor) -> None:
        """Takes the policy's actions, (N, 2)."""
        super().process_actions(actions.clamp(-1.0, 1.0))


class DrawLayout(ManagerTermBase):
    """Reset event: draws new worlds, moves the walls there and the rovers to their start.

    Attributes:
        layouts: The worlds of all environments.
    """

    def __init__(self, cfg: EventTermCfg, env: Any) -> None:
        super().__init__(cfg, env)
        self.layouts = Layouts(env.num_envs, env.device)
        self._waiting: list[int] = []

    def __call__(self, env: Any, env_ids: Tensor | slice | None, numbers: Sequence[int] = ()) -> None:
        """Begins episodes.

        Args:
            env: The environment.
            env_ids: Those that begin; all of them where it is no tensor.
            numbers: Worlds to play first after each reset of all environments, see `Layouts.draw`: those that begin
                take the next of these, and worlds of their own when none is left.
        """
        if isinstance(env_ids, Tensor):
            ids = env_ids.int()
        else:
            ids = torch.arange(env.num_envs, dtype=torch.int32, device=env.device)
            self._waiting = list(numbers)
        self.layouts.draw(ids, self._waiting[: len(ids)])
        self._waiting = self._waiting[len(ids) :]
        _place(env.scene["rover"], ["x", "y", "yaw"], self.layouts.start[ids], ids)
        for index in range(self.layouts.walls.shape[1]):
            _place(env.scene[f"wall_{index}"], ["x", "y"], self.layouts.walls[ids, index], ids)


def state(env: Any) -> Tensor:
    """What the rover knows without looking, (N, 8).

    Distance to the goal / 5 m, cosine and sine of its bearing, velocity forwards and to the left (m/s), turn rate / 2
    (rad/s), the last action.
    """
    x, y, yaw = _joints(env, "joint_pos").unbind(1)
    speed_x, speed_y, turn_rate = _joints(env, "joint_vel").unbind(1)
    away_x, away_y = (layouts_of(env).goal - torch.stack([x, y], 1)).unbind(1)
    bearing, cos, sin = torch.atan2(away_y, away_x) - yaw, yaw.cos(), yaw.sin()
    columns = [
        (away_x.square() + away_y.square()).sqrt() / 5,  # ONNX has no hypot
        bearing.cos(),
        bearing.sin(),
        speed_x * cos + speed_y * sin,
        speed_y * cos - speed_x * sin,
        turn_rate / 2,
    ]
    return torch.cat([torch.stack(columns, 1), mdp.last_action(env).clamp(-1.0, 1.0)], 1)


def privileged(env: Any) -> Tensor:
    """What only a teacher or critic knows, (N, 5): the way to the goal and each gap in the rover's frame, all / 5 m."""
    x, y, yaw = _joints(env, "joint_pos").unbind(1)
    position, layouts = torch.stack([x, y], 1), layouts_of(env)
    away_x, away_y = (layouts.walls - position[:, None]).unbind(-1)
    cos, sin = yaw.cos()[:, None], yaw.sin()[:, None]
    gaps = torch.cat([away_x * cos + away_y * sin, away_y * cos - away_x * sin], 1)
    return torch.cat([layouts.to_go_m(position)[:, None], gaps], 1) / 5


class Progress(ManagerTermBase):
    """Reward: how fast the way to the goal gets shorter, in m/s, (N,)."""

    def __init__(self, cfg: RewardTermCfg, env: Any) -> None:
        super().__init__(cfg, env)
        self._to_go_m = torch.zeros(env.num_envs, device=env.device)

    def reset(self, env_ids: Sequence[int] | Tensor | slice | None = None) -> None:
        """Begins episodes."""
        ids = slice(None) if env_ids is None else env_ids
        layouts = layouts_of(self._env)
        self._to_go_m[ids] = layouts.to_go_m(layouts.start[:, :2])[ids]

    def __call__(self, env: Any) -> Tensor:
        """The progress of the step that has just been made."""
        to_go_m = layouts_of(env).to_go_m(_position(env))
        progress_m = self._to_go_m - to_go_m
        self._to_go_m[:] = to_go_m
        return progress_m / env.step_dt


def at_goal(env: Any, radius_m: float = 0.3) -> Tensor:
    """Whether the rovers have arrived, (N,)."""
    reached = (layouts_of(env).goal - _position(env)).norm(dim=1) < radius_m
    return reached & ~collision(env)


def collision(env: Any) -> Tensor:
    """Whether the rovers touch a wall, (N,)."""
    return layouts_of(env).collides(_position(env))


def layouts_of(env: Any) -> Layouts:
    """The worlds of an environment."""
    event: DrawLayout = env.event_manager.get_term_cfg("layout").func
    return event.layouts


def _position(env: Any) -> Tensor:
    return _joints(env, "joint_pos")[:, :2]


def _joints(env: Any, what: str) -> Tensor:
    """The rovers' x, y and yaw (metres and radians), or how fast they change."""
    rover = env.scene["rover"]
    ids, _ = rover.find_joints(["x", "y", "yaw"], preserve_order=True)
    return as_torch(getattr(rover.data, what))[:, ids]


def _place(asset: Any, joints: list[str], positions: Tensor, ids: Tensor) -> None:
    """Moves joints of some environments, and stops them."""
    joint_ids, _ = asset.find_joints(joints, preserve_order=True)
    asset.write_joint_position_to_sim_index(position=positions, joint_ids=joint_ids, env_ids=ids)
    asset.write_joint_velocity_to_sim_index(velocity=torch.zeros_like(positions), joint_ids=joint_ids, env_ids=ids)
