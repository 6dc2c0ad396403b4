"""Runs trained as one program equal runs trained separately."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.audio_visual import AudioVisualNet
from avjax.models.mel_net import MelNet
from avjax.models.single_modality import AudioNet
from avjax.models.variables import init_variables
from avjax.runtime.devices import Parallel
from avjax.training.augment import SoundAugmentation
from avjax.training.optimizer import adamw, cosine_schedule, sgd, step_schedule
from avjax.training.step import StepConfig, TrainState, create_state, train_step
from avjax.training.vmapped import Runs, stack, unstack, vmapped_step

CLASSES, ROWS, STEPS = 3, 4, 3
NETS = {
    "audio_visual": AudioVisualNet(CLASSES, "ia", 1, (1, 1, 1)),
    "audio": AudioNet(CLASSES),
    "log_mel": MelNet(CLASSES, 16, (4, 16)),
}
CONFIGS = {
    "audio_visual": StepConfig("softhard"),
    "audio": StepConfig("nodropout"),
    "log_mel": StepConfig("nodropout", sound_augment=SoundAugmentation(2.0, 0.1)),
}


def batch_of(seed, dtype, net, last):
    """Returns a batch of clips; the last of an epoch has one row of padding."""
    rng = np.random.default_rng(seed)
    frames = (2, 64, 64, 3) if "video" in net.inputs.streams else (0, 64, 64, 3)
    return {
        "frames": rng.integers(0, 256, (ROWS, *frames)).astype(np.uint8),
        "audio": np.abs(rng.standard_normal((ROWS, 24, net.inputs.audio_width))).astype(dtype),
        "label": rng.integers(0, CLASSES, ROWS).astype(np.int32),
        "has_audio": np.array([True, True, len(net.inputs.streams) == 1, True]),
        "has_video": np.array([True, False, True, True]),
        "weight": np.array([1, 1, 1, not last], np.float32),
    }


def padding(batch):
    return {name: np.zeros_like(array) for name, array in batch.items()}


class Setting:
    """Models of one network with their batches and schedules, trained in both ways.

    The second half of the models is in another fold: its last step is all padding.
    """

    def __init__(self, kind, dtype, models):
        self.net, self.config, self.models = NETS[kind], CONFIGS[kind], models
        cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, dtype))
        self.variables = [cast(init_variables(self.net, jax.random.key(i))) for i in range(models)]
        self.trained = self.net.trained(self.variables[0]["params"])
        if kind == "log_mel":
            self.schedules = [cosine_schedule(1e-3, 1, 4, steps) for steps in (1, 2)]
        else:
            # Separate training compiles a program per schedule.
            steps_per_epoch = (1,) if kind == "audio_visual" else (1, 2)
            self.schedules = [step_schedule(0.04, (2, 3), steps) for steps in steps_per_epoch]
        self.kind = kind
        self.steps = [STEPS if i < models / 2 else STEPS - 1 for i in range(models)]
        self.batches = [
            [batch_of((i, n), dtype, self.net, n == steps - 1) for n in range(steps)]
            for i, steps in enumerate(self.steps)
        ]
        self.schedule_of = [i % len(self.schedules) for i in range(models)]
        self.separate_steps = [
            jax.jit(
                functools.partial(
                    train_step,
                    net=self.net,
                    optimizer=self.optimizer(schedule),
                    config=self.config,
                    profile="fixed",
                )
            )
            for schedule in self.schedules
        ]

    def optimizer(self, schedule):
        if self.kind == "log_mel":
            return adamw(schedule, weight_decay=0.05, trained=self.trained)
        return sgd(schedule, momentum=0.9, dampening=0.9, weight_decay=1e-3, trained=self.trained)

    def start(self, i):
        variables = jax.tree.map(jnp.copy, self.variables[i])
        return create_state(variables, self.optimizer(self.schedules[self.schedule_of[i]]))

    def train_separately(self, i):
        """Trains one model; returns state and sums after every step."""
        step = self.separate_steps[self.schedule_of[i]]
        state, results = self.start(i), []
        for batch in self.batches[i]:
            state, sums = step(state, batch, jax.random.key(i))
            results.append(jax.device_get((state, sums)))
        return results

    def train_together(self, devices=1):
        """Trains all models as one program; returns the same for each model."""
        parallel = Parallel(ROWS, jax.local_devices()[:devices])
        step = parallel.compile_train_step(
            functools.partial(
                vmapped_step,
                net=self.net,
                optimizer=self.optimizer,
                schedules=self.schedules,
                config=self.config,
                profile="fixed",
            )
        )
        numbers = jnp.arange(self.models)
        runs = Runs(jax.vmap(jax.random.key)(numbers), jnp.array(self.schedule_of))
        states = parallel.replicate(stack([self.start(i) for i in range(self.models)]))
        results = [[] for _ in range(self.models)]
        for n in range(STEPS):
            rows = [b[n] if n < len(b) else padding(b[0]) for b in self.batches]
            batch = {name: np.stack([r[name] for r in rows], 1) for name in rows[0]}
            states, sums = step(states, parallel.split(batch), runs)
            for i, run_results in enumerate(results):
                run_results.append(jax.device_get(unstack((states, sums), i)))
        return results


def mean_loss(sums):
    return float(sums.loss) / float(sums.count)


def assert_close(actual, expected, tolerance):
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def compare(setting, devices, losses, first_step):
    results = setting.train_together(devices)
    for i in range(setting.models):
        separate = setting.train_separately(i)
        for (_, actual), (_, expected) in zip(results[i], separate, strict=False):
            assert abs(mean_loss(actual) - mean_loss(expected)) < losses
            np.testing.assert_array_equal(actual.confusion, expected.confusion)
        # The first momentum buffer is the gradient: equal states mean equal gradients.
        assert_close(results[i][0][0], separate[0][0], first_step)
        assert int(results[i][-1][0].step) == setting.steps[i]


@pytest.mark.parametrize(
    ("kind", "devices"),
    [
        pytest.param("audio", 2, marks=pytest.mark.slow),
        ("log_mel", 1),
        pytest.param("audio_visual", 2, marks=pytest.mark.slow),
    ],
)
def test_training_together_equals_separate_training_in_float64(kind, devices):
    """Losses of 3 steps to 1e-8; after the first step gradients and statistics to 1e-9."""
    if jax.local_device_count() < devices:
        pytest.skip("needs two devices: XLA_FLAGS=--xla_force_host_platform_device_count=2")
    with jax.enable_x64(True):
        models = 4 if kind == "audio" else 2
        compare(Setting(kind, np.float64, models), devices, losses=1e-8, first_step=1e-9)


def test_first_step_agrees_in_float32():
    setting = Setting("audio", np.float32, 2)
    results = setting.train_together()
    for i in range(2):
        state, sums = setting.train_separately(i)[0]
        assert abs(mean_loss(results[i][0][1]) - mean_loss(sums)) < 1e-5
        assert_close(results[i][0][0], state, 1e-4)


def test_model_without_clips_idles():
    setting = Setting("audio", np.float32, 2)
    _, results = setting.train_together()
    (before, _), (after, sums) = results[-2:]
    assert isinstance(after, TrainState)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert sums.count == sums.loss == sums.confusion.sum() == 0
