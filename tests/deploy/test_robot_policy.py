"""The runtime keeps the contract: what does not fit is an error that says what came, never a silent wrong action."""

import dataclasses
import json
import logging

import numpy as np
import onnxruntime
import pytest
import tiny

from defm_rl.deploy import Camera, Contract, FrameError, Policy
from defm_rl.deploy.driving import FilePolicy
from defm_rl.deploy.runtime import DepthInput, VectorInput
from defm_rl.deploy.runtime.frames import DepthIntake
from defm_rl.deploy.runtime.policy import _vector

STATE = np.array([0.5, -0.5], np.float32)


class Clock:
    """Stands still until it is told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def new_frame(seed):
    return np.random.default_rng(seed).uniform(1, 3, (tiny.HEIGHT, tiny.WIDTH)).astype(np.float32)


class TestActing:
    def test_single_frames_and_batches(self, file, frame):
        policy = Policy(file)
        one = policy.act(depth=frame, state=STATE)
        assert one == pytest.approx(STATE + frame.mean(), abs=1e-5)
        for frames in (frame[None], frame[None, None], frame[None, ..., None]):
            assert policy.act(depth=frames, state=STATE[None]) == pytest.approx(one[None])
        assert policy.act(depth=frame[None], state=STATE) == pytest.approx(one)
        two = policy.act(depth=np.stack([frame, frame + 1]), state=np.stack([STATE, STATE]))
        assert two == pytest.approx(np.stack([one, one + 1]), abs=1e-5)

    @pytest.mark.parametrize("shape", [(3, 16, 24), (3, 1, 16, 24), (16, 24, 3), (1, 16, 24, 3)])
    def test_stacked_frames_are_taken_in_the_contract_s_shape(self, shape):
        intake = DepthIntake(DepthInput("depth", shape, 16, 24, frames=3, channels_last=shape[-1] == 3), None, None)
        frames = np.random.default_rng(0).uniform(1, 3, (2, *shape)).astype(np.float32)
        for given in (frames[0], frames[:1], frames):
            taken, is_batch = intake(given)
            assert (taken == given.reshape(-1, *shape)).all()
            assert is_batch in (given.ndim > len(shape), None)

    def test_of_one_environment_a_file_s_actions_are_a_batch(self, tmp_path, frame):
        policy = FilePolicy(tiny.write(tmp_path / "p.onnx", alone=True))
        for count in (1, 2):
            assert policy.act({"depth": np.stack([frame] * count)}).shape == (count, 2)

    def test_a_memory_is_kept_between_steps_and_forgotten_by_reset(self, remembering, frame):
        policy = Policy(remembering, clock=None)
        first = policy.act(depth=frame, state=STATE)
        assert [policy.act(depth=frame, state=STATE)[0] - first[0] for _ in range(2)] == pytest.approx([1, 2])
        policy.reset()
        assert policy.act(depth=frame, state=STATE) == pytest.approx(first)

    def test_episodes_of_a_batch_are_forgotten_one_by_one(self, remembering, frame):
        policy = Policy(remembering, clock=None)
        batch = {"depth": np.stack([frame, frame]), "state": np.stack([STATE, STATE])}
        policy.act(**batch)
        policy.reset(np.array([True, False]))
        actions = policy.act(**batch)
        assert actions[1] - actions[0] == pytest.approx([1, 1])
        with pytest.raises(ValueError, match="remembers 2 episodes"):
            policy.act(depth=frame, state=STATE)

    def test_actions_in_physical_units(self, file, frame):
        policy = Policy(file)
        action = policy.act(depth=frame, state=STATE)
        assert policy.command(action) == pytest.approx([1 + 2 * action[0], 3 * action[1]])

    def test_the_last_seconds_are_written_out(self, file, frame, tmp_path):
        policy = Policy(file, record_s=0.3, clock=None)
        for step in range(5):
            policy.act(depth=frame + step, state=STATE)
        policy.record.write(tmp_path / "record.npz")
        record = np.load(tmp_path / "record.npz")
        assert record["depth"][:, 0, 0] == pytest.approx(np.stack([frame + step for step in (2, 3, 4)]))
        assert record["action"].shape == (3, 1, 2)

    def test_latency_is_counted_against_the_deadline(self, file, frame, caplog):
        policy = Policy(file, deadline_s=0.0)
        for _ in range(3):
            policy.act(depth=frame, state=STATE)
        summary = policy.latency.summary()
        assert (summary["steps"], summary["late"]) == (3, 3)
        assert 0 < summary["p50_ms"] <= summary["p99_ms"] <= summary["max_ms"]
        assert sum("its deadline" in record.message for record in caplog.records) == 1


class TestRefusing:
    @pytest.mark.parametrize(
        ("observations", "message"),
        [
            ({"depth": new_frame(0)}, "missing: state"),
            ({"depth": new_frame(0), "state": STATE, "goal": STATE}, "takes depth, state; got depth, state, goal"),
            ({"depth": new_frame(0)[:8], "state": STATE}, r"expected \(16, 24\).*got \(8, 24\).*camera="),
            ({"depth": new_frame(0), "state": [1, 2, 3]}, r"got \(3,\), in this order: left, right"),
            ({"depth": new_frame(0), "state": [1, np.nan]}, r"entry 1 \(right\) is nan"),
            ({"depth": np.stack([new_frame(0)] * 2), "state": STATE}, "batches of one size"),
            ({"depth": (new_frame(0) * 1000).astype(np.uint16), "state": STATE}, "uint16 counts where metres.*mm"),
            ({"depth": (new_frame(0) * 50).astype(np.uint8), "state": STATE}, "image made for display"),
            ({"depth": new_frame(0) * 1000, "state": STATE}, "millimetres taken for metres"),
            ({"depth": np.full((16, 24), "x"), "state": STATE}, "depth is numbers"),
        ],
    )
    def test_what_does_not_fit(self, file, observations, message):
        with pytest.raises(ValueError, match=message):
            Policy(file).act(**observations)

    def test_an_output_that_is_not_finite(self, tmp_path, frame):
        policy = Policy(tiny.write(tmp_path / "p.onnx", root=True))
        with pytest.raises(ValueError, match=r"not finite.*state from -9 to -9"):
            policy.act(depth=frame, state=np.array([-9.0, -9.0]))

    def test_a_choice_is_a_whole_number(self):
        choice = VectorInput("state", (2,), "int64")
        for given in ([1.7, 0], np.array([0.9, np.nan]), [1e30, 0], ["a", "b"]):
            with pytest.raises(ValueError, match=r"state: expected \(2,\).*int64"):
                _vector(choice, given)
        assert _vector(choice, np.array([1.0, 2.0]))[0].tolist() == [[1, 2]]

    def test_a_safe_action_may_lie_on_its_bounds(self, tmp_path):
        action = dataclasses.replace(tiny.CONTRACT.action, low=(-0.1, -0.1), high=(0.1, 0.1))
        path = tiny.write(tmp_path / "p.onnx", action=action)
        Policy(path, safe_action=[-0.1, 0.1])
        with pytest.raises(ValueError, match="must lie from"):
            Policy(path, safe_action=[-0.1, 0.1001])

    def test_settings_that_make_no_sense(self, file):
        for settings, message in [
            ({"depth_unit": "cm"}, "depth_unit must be"),
            ({"camera": {"front": tiny.CAMERA}}, "cameras are depth; got front"),
            ({"safe_action": [0.0]}, "safe_action must be"),
            ({"safe_action": [9.0, 0.0]}, "must lie from"),
            ({"providers": ["TensorrtExecutionProvider"]}, "has no TensorrtExecutionProvider"),
            ({"providers": [("ROCMExecutionProvider", {"device_id": 0})]}, "has no ROCMExecutionProvider"),
        ]:
            with pytest.raises(ValueError, match=message):
                Policy(file, **settings)


class TestProviders:
    """What is installed here runs on the CPU: another provider is there by name, and cannot be used."""

    @pytest.fixture
    def asked(self, monkeypatch):
        session, given = onnxruntime.InferenceSession, []
        there = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)

        def make(content, options, providers):
            given.extend(providers)
            return session(content, options, providers=["CPUExecutionProvider"])

        monkeypatch.setattr(onnxruntime, "InferenceSession", make)
        return given

    def test_openvino_gets_the_threads_and_one_s_own_options(self, file, asked):
        Policy(file, providers=["OpenVINOExecutionProvider"], threads=3)
        Policy(file, providers=[("OpenVINOExecutionProvider", {"device_type": "GPU"})])
        assert [options for _, options in asked] == [
            {"num_of_threads": "3"},
            {"num_of_threads": "1", "device_type": "GPU"},
        ]

    def test_one_that_cannot_be_used_is_not_passed_over_in_silence(self, file, asked, caplog):
        Policy(file, providers=["OpenVINOExecutionProvider", "CPUExecutionProvider"])
        assert "OpenVINOExecutionProvider cannot be used here: CPUExecutionProvider runs the policy." in caplog.text


class TestUnits:
    def test_millimetres_counts_and_saturated_pixels(self, file):
        metres = np.full((tiny.HEIGHT, tiny.WIDTH), 2.0, np.float32)
        expected = Policy(file).act(depth=metres, state=STATE)
        for unit, counts in [("mm", 2000), (0.0001, 20000)]:
            frame = np.full(metres.shape, counts, np.uint16)
            assert Policy(file, depth_unit=unit).act(depth=frame, state=STATE) == pytest.approx(expected)
        frame[0] = 65535  # no depth
        metres[0] = 0
        expected = Policy(file).act(depth=metres, state=STATE)
        assert Policy(file, depth_unit=0.0001).act(depth=frame, state=STATE) == pytest.approx(expected)

    def test_metres_taken_for_millimetres(self, file, frame):
        with pytest.raises(ValueError, match="metres taken for millimetres"):
            Policy(file, depth_unit="mm").act(depth=frame, state=STATE)


class TestCameras:
    def test_a_wider_camera_is_cropped_to_the_field_of_view_of_the_training(self, file):
        wide = Camera.from_fov(4 * tiny.HEIGHT, 4 * tiny.WIDTH, 120.0)
        policy = Policy(file, camera=wide)
        # A wall whose depth is the tangent of the direction: what each pixel must see, whatever camera looks.
        across = np.abs((np.arange(wide.width) - wide.cx) / wide.fx) + 1
        seen = np.broadcast_to(across, (wide.height, wide.width)).astype(np.float32)
        wanted = np.abs((np.arange(tiny.WIDTH) - tiny.CAMERA.cx) / tiny.CAMERA.fx) + 1
        policy.act(depth=seen, state=STATE)
        got = policy.record.newest["depth"][0, 0]
        assert got == pytest.approx(np.broadcast_to(wanted, got.shape), abs=1 / wide.fx)

    def test_a_narrow_camera_is_refused_or_leaves_holes(self, file, frame):
        narrow = Camera.from_fov(tiny.HEIGHT, tiny.WIDTH, 60.0)
        with pytest.raises(ValueError, match=r"sees 60\.0 x .* trained with 90\.0 x .*outside='holes'"):
            Policy(file, camera=narrow)
        policy = Policy(file, camera=narrow, outside="holes")
        policy.act(depth=frame, state=STATE)
        got = policy.record.newest["depth"][0, 0]
        assert (got[:, 0] == 0).all()
        assert (got[8, 10:14] > 0).all()

    def test_another_axis_is_moved(self, file, frame):
        camera = Camera(tiny.HEIGHT + 8, tiny.WIDTH + 6, tiny.CAMERA.fx, tiny.CAMERA.fy, 11.5 + 6, 7.5 + 3)
        larger = np.zeros((camera.height, camera.width), np.float32)
        larger[3 : 3 + tiny.HEIGHT, 6 : 6 + tiny.WIDTH] = frame
        policy = Policy(file, camera=camera)
        assert policy.act(depth=larger, state=STATE) == pytest.approx(Policy(file).act(depth=frame, state=STATE))


class TestFaults:
    def test_an_empty_frame(self, file, frame):
        policy = Policy(file, min_valid_share=0.1)
        for empty in (np.zeros_like(frame), np.full_like(frame, np.nan), np.where(frame > 2.99, frame, 0)):
            with pytest.raises(FrameError, match="covered, blinded or disconnected"):
                policy.act(depth=empty, state=STATE)

    def test_a_stuck_camera(self, file, frame):
        clock = Clock()
        policy = Policy(file, clock=clock, stuck_after_s=0.5)
        for _ in range(6):
            policy.act(depth=frame, state=STATE)
            clock.now += 0.1
        with pytest.raises(FrameError, match=r"same frame for 0\.60 s"):
            policy.act(depth=frame, state=STATE)
        policy.act(depth=new_frame(1), state=STATE)

    def test_a_stale_frame(self, file, frame):
        clock = Clock()
        policy = Policy(file, clock=clock)
        policy.act(depth=frame, state=STATE, stamp_s=clock.now - 0.19)
        with pytest.raises(FrameError, match=r"0\.210 s old, at most 0\.200 s"):
            policy.act(depth=frame, state=STATE, stamp_s=clock.now - 0.21)
        with pytest.raises(FrameError, match="the policy's clock"):
            policy.act(depth=frame, state=STATE, stamp_s=1.7e9)

    def test_the_latency_of_the_training_is_no_fault(self, tmp_path, frame):
        clock = Clock()
        policy = Policy(tiny.write(tmp_path / "p.onnx", sensor={"latency_s": [0.2, 0.3]}), clock=clock)
        policy.act(depth=frame, state=STATE, stamp_s=clock.now - 0.45)

    def test_a_safe_action_takes_the_place_of_the_error(self, file, frame, caplog):
        policy = Policy(file, safe_action=[0.0, 0.1])
        assert policy.act(depth=np.zeros_like(frame), state=STATE) == pytest.approx([0.0, 0.1])
        assert policy.faults == 1
        assert "covered" in caplog.text
        with pytest.raises(ValueError, match="missing"):
            policy.act(depth=frame)

    def test_a_memory_at_another_rate_is_refused(self, remembering):
        clock = Clock()
        policy = Policy(remembering, clock=clock, stuck_after_s=None)

        def run(period_s, steps):
            for step in range(steps):
                clock.now += period_s
                policy.act(depth=new_frame(step), state=STATE)

        run(0.105, 30)
        with pytest.raises(ValueError, match=r"every [57]\d\.\d ms and was trained at 100\.0 ms"):
            run(0.05, 11)
        policy.reset()
        run(0.05, 5)

    def test_without_a_memory_another_rate_is_warned_of(self, file, caplog):
        clock = Clock()
        policy = Policy(file, clock=clock, stuck_after_s=None)
        with caplog.at_level(logging.WARNING):
            for step in range(30):
                clock.now += 0.05
                policy.act(depth=new_frame(step), state=STATE)
        assert sum("trained at" in record.message for record in caplog.records) == 1


class TestFiles:
    def test_a_file_that_was_cut_off_edited_or_saved_again_is_refused(self, file, tmp_path):
        import onnx

        content = file.read_bytes()
        damaged = tmp_path / "policy.onnx"
        edited = bytearray(content)
        edited[len(content) // 2] ^= 1
        for changed, message in [(content[:-10], "cut off"), (bytes(edited), "edited or"), (b"", "cut off")]:
            damaged.write_bytes(changed)
            with pytest.raises(ValueError, match=message):
                Policy(damaged)
        model = onnx.load(file)
        model.doc_string = "touched"
        onnx.save(model, damaged)
        with pytest.raises(ValueError, match=r"differ"):
            Policy(damaged)

    def test_another_version_says_what_to_do(self, tmp_path):
        path = tiny.write(tmp_path / "p.onnx", version=7, made_by={"versions": {"defm-rl": "9.1"}})
        with pytest.raises(ValueError, match=r"version 7.*reads 1 and 2.*9\.1"):
            Policy(path)

    def test_an_entry_that_is_not_known_says_what_to_do(self, file):
        contract = tiny.CONTRACT.to_dict()
        contract["depth"][0]["gamma"] = 2.2
        with pytest.raises(ValueError, match=r"unexpected.*'gamma'.*export the policy again"):
            Contract.from_json(json.dumps(contract))

    def test_version_1_did_not_say_what_the_task_gave(self):
        contract = tiny.CONTRACT.to_dict() | {"version": 1}
        for entry in ("sent", "near_m"):
            del contract["depth"][0][entry]
        assert Contract.from_json(json.dumps(contract)) == dataclasses.replace(tiny.CONTRACT, version=1)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no file.*policy\.onnx"):
            Policy(tmp_path / "policy.onnx")

    def test_a_contract_is_read_as_it_was_written(self, file):
        assert Policy(file).contract == tiny.CONTRACT
