"""`encode_depth` in a direct task."""

import pytest
import torch
from depth_tasks import ENCODER, NUM_ENVS, SceneCfg, WallEnvCfg, make
from isaaclab.envs import DirectRLEnv, DirectRLEnvCfg
from isaaclab.utils import configclass

from defm_rl.isaaclab import DepthCamera, encode_depth
from defm_rl.terms.sharing import SharedDepth


@configclass
class DirectCfg(DirectRLEnvCfg):
    scene: SceneCfg = SceneCfg()
    sim = WallEnvCfg().sim
    decimation: int = 2
    episode_length_s: float = 2.0
    action_space: int = 3
    observation_space: int = 192
    seed: int = 0


class Direct(DirectRLEnv):
    """Drives wherever its action says, and sees the same camera now and two steps ago."""

    def _pre_physics_step(self, actions):
        self._ids, _ = self.scene["rover"].find_joints(["x", "y", "yaw"], preserve_order=True)
        self._targets = actions

    def _apply_action(self):
        self.scene["rover"].set_joint_velocity_target_index(target=self._targets, joint_ids=self._ids)

    def _get_observations(self):
        return {
            "policy": encode_depth(self, "camera", **ENCODER),
            "critic": encode_depth(self, "camera", **ENCODER),
            "late": encode_depth(self, "camera", latency_steps=2, **ENCODER),
            "sensed": encode_depth(self, "camera", sensor_model="stereo", **ENCODER),
        }

    def _get_rewards(self):
        return torch.zeros(self.num_envs)

    def _get_dones(self):
        ended = self.episode_length_buf >= self.max_episode_length
        return torch.zeros_like(ended), ended


def test_a_direct_task_encodes_each_frame_once_with_latency_by_episode():
    with make(DirectCfg(), Direct) as env:
        env.reset(seed=0)
        encoded, sensed = SharedDepth.of(env).encoded.values()
        episodes = sensed.camera._simulated.episodes.clone()
        before, seen = encoded.encodings, []
        for step in range(5):
            env.episode_length_buf[:] = 0
            if step == 2:
                env.episode_length_buf[1] = env.max_episode_length
            observations, *_ = env.step(torch.tensor([[1.0, 0.0, 0.0]]).expand(NUM_ENVS, -1))
            seen.append({key: value.clone() for key, value in observations.items()})
        assert encoded.encodings == before + 5
        assert not torch.equal(seen[4]["sensed"], seen[4]["policy"])
        assert sensed.camera._simulated.episodes[1] != episodes[1]  # an episode that began has noise of its own
        depth = DepthCamera(env.scene.sensors, "camera").read()
        torch.testing.assert_close(seen[4]["policy"], encoded.encoder.encode(depth), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(seen[4]["late"][0], seen[2]["policy"][0], atol=0, rtol=0)
        torch.testing.assert_close(seen[3]["late"][1], seen[2]["policy"][1], atol=0, rtol=0)
        with pytest.raises(ValueError, match=r"encode_depth\.seed: .* another term"):
            encode_depth(env, "camera", seed=3, **ENCODER)
        with pytest.raises(TypeError, match="unknown parameter 'encodr', did you mean 'encoder'"):
            encode_depth(env, "camera", encodr="defm_resnet18")
