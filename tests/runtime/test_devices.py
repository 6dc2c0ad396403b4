"""Training on several devices, in one process or two, equals training on one."""

import functools
import os
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from avjax.errors import InputError
from avjax.models import ops
from avjax.models.audio_visual import AudioVisualNet
from avjax.models.single_modality import AudioNet
from avjax.models.variables import init_variables
from avjax.runtime.devices import CPU_STEPS_PER_CALL, MODES, Parallel, make_parallel
from avjax.training.modality_dropout import MASKS
from avjax.training.optimizer import sgd
from avjax.training.step import StepConfig, create_state, train_step
from tests.compiler_flags import FAST

SCRIPT = Path(__file__).with_name("several_devices.py")
ALL = [f"{mode}:{devices}" for mode in MODES for devices in (1, 2, 4, 8)]
BOTH = AudioVisualNet(3, "ia", 1, (1, 1, 1))
Device = namedtuple("Device", ["process_index"])


def start(root_dir, arguments, devices, optimized=False):
    """Starts the script with a number of CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {'' if optimized else FAST}"
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(root_dir)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes):
    for process in processes:
        _, error = process.communicate(timeout=1200)
        assert process.returncode == 0, error


def check_equal(content, cases, loss=1e-8, first=1e-9):
    """Compares all cases with the first: losses of all steps, gradients of the first."""
    reference = {name: content[f"{cases[0]}/{name}"] for name in ("losses", "count")}
    assert reference["count"] > 0
    assert np.isfinite(reference["losses"]).all()
    for case in cases:
        np.testing.assert_array_equal(content[f"{case}/count"], reference["count"])
        for name, tolerance in (("losses", loss), ("gradients", first), ("statistics", first)):
            expected, actual = content[f"{cases[0]}/{name}"], content[f"{case}/{name}"]
            assert np.abs(expected).max() > 0.01
            np.testing.assert_allclose(
                actual, expected, rtol=tolerance, atol=tolerance, err_msg=case
            )


@pytest.mark.parametrize(
    ("network", "mask", "cases"),
    [
        # Compiles quickly; a test below covers both streams on two devices.
        ("audio", "softhard", ["jit:1", *(f"{mode}:8" for mode in MODES)]),
        *(
            pytest.param(network, mask, ALL, marks=pytest.mark.slow)
            for network in ("audio", "audio_visual")
            for mask in MASKS
        ),
    ],
)
def test_devices_in_both_modes_train_alike(root_dir, tmp_path, network, mask, cases):
    """Losses of three steps, the last of a padded batch; gradients and statistics of the first."""
    out = tmp_path / "out.npz"
    # Without optimisation two programs round the same Gaussian draws differently.
    optimized = mask == "noise"
    finish(start(root_dir, [out, network, mask, "float64", *cases], 8, optimized))
    check_equal(np.load(out), cases)


@pytest.mark.parametrize(
    ("network", "cases"),
    [
        pytest.param("audio", ["jit:1", "pmap:2"], marks=pytest.mark.slow),
        pytest.param("audio_visual", ALL, marks=pytest.mark.slow),
    ],
)
def test_devices_train_equally_in_float32(root_dir, tmp_path, network, cases):
    """Compares only the first step: rounding grows from step to step."""
    out = tmp_path / "out.npz"
    finish(start(root_dir, [out, network, "softhard", "float32", *cases], 8, True))
    content = dict(np.load(out))
    for case in cases:
        content[f"{case}/losses"] = content[f"{case}/losses"][:1]
    check_equal(content, cases, 1e-5, 1e-5)


@pytest.mark.slow  # by default, two processes train in test_multihost.py
@pytest.mark.parametrize("network", ["audio", "audio_visual"])
def test_two_processes_train_like_one(root_dir, tmp_path, network):
    """In both modes; each process has two devices and its shard of the clips."""
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    job = [network, "softhard", "float64"]
    finish(start(root_dir, [one, *job, "jit:1"], 1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = [two, *job, "jit:all", "pmap:all", "--", coordinator, 2]
    finish(*(start(root_dir, [*arguments, process], 2) for process in range(2)))
    check_equal({**np.load(one), **np.load(two)}, ["jit:1", "jit:all", "pmap:all"])


def prepared_step(net, dtype=jnp.float32):
    """Returns a network's variables, an optimizer and a step."""
    fresh = init_variables(net, jax.random.key(0))
    variables = jax.tree.map(lambda x: np.asarray(x, dtype), fresh)
    trained = net.trained(variables["params"])
    optimizer = sgd(1.0, momentum=0.0, dampening=0.0, weight_decay=0.0, trained=trained)
    config = StepConfig("softhard")
    step = functools.partial(
        train_step, net=net, optimizer=optimizer, config=config, profile="reference"
    )
    return variables, optimizer, step


def batch_of_four():
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 256, (4, 2, 64, 64, 3)).astype(np.uint8),
        "audio": rng.standard_normal((4, 16, 10)),
        "label": np.array([0, 1, 2, 1], np.int32),
        "has_audio": np.array([True, True, False, True]),
        "has_video": np.array([True, False, True, True]),
        "weight": np.array([1.0, 1.0, 1.0, 0.0]),
    }


@pytest.mark.slow  # padding on one device: test_plain.py
def test_padded_batch_on_two_devices_equals_the_smaller_one_on_one_device():
    if jax.local_device_count() < 2:
        pytest.skip("needs two devices: XLA_FLAGS=--xla_force_host_platform_device_count=2")
    padded = batch_of_four()
    smaller = {name: column[:3] for name, column in padded.items()}
    results = []
    with jax.enable_x64(True):
        variables, optimizer, step = prepared_step(BOTH, jnp.float64)
        for devices, batch in ((1, smaller), (2, padded)):
            parallel = Parallel(len(batch["label"]), jax.local_devices()[:devices])
            compiled = parallel.compile_train_step(step)
            state = parallel.replicate(create_state(variables, optimizer))
            key = parallel.replicate(jax.random.key(1))
            state, sums = parallel.single(compiled(state, parallel.split(batch), key))
            results.append((state.params, state.batch_stats, sums))
    pairs = 3 * 4 - 2  # each clip that lacks a stream has a pair without any
    assert results[0][2].count == results[1][2].count == pairs
    for expected, actual in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("devices", [1, 2])
def test_call_takes_the_given_number_of_steps(devices):
    """Equals single steps in state and sums; further parts are ignored."""
    if jax.local_device_count() < devices:
        pytest.skip("needs two devices: XLA_FLAGS=--xla_force_host_platform_device_count=2")
    first = batch_of_four()
    second = {name: column[::-1] for name, column in first.items()}
    with jax.enable_x64(True):
        variables, optimizer, step = prepared_step(AudioNet(3), jnp.float64)
        parallel = Parallel(4, jax.local_devices()[:devices])
        key = parallel.replicate(jax.random.key(1))
        state, expected = parallel.replicate(create_state(variables, optimizer)), []
        compiled = parallel.compile_train_step(step)
        for batch in (first, second):
            state, sums = compiled(state, parallel.split(batch), key)
            expected.append(parallel.single(sums))
        many = parallel.compile_train_steps(step, lambda resident, part: part)
        parts = jax.tree.map(lambda *x: np.stack(x), first, second, first)
        initial = parallel.replicate(create_state(variables, optimizer))
        results = many(initial, parallel.split_steps(parts), key, None, np.int32(2))
        actual, sums = parallel.single(results)
        for index, step_sums in enumerate(expected):
            jax.tree.map(lambda a, b, i=index: np.testing.assert_allclose(a[i], b), sums, step_sums)
        assert not any(np.any(x[2]) for x in sums)
        assert int(actual.step) == 2
        state = parallel.single(state)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_cpus_take_several_steps_per_call():
    assert make_parallel("jit", 4).steps_per_call == CPU_STEPS_PER_CALL > 1
    assert make_parallel("pmap", 4, jax.local_devices()[:1]).steps_per_call == 1


@pytest.mark.parametrize(
    ("platform", "devices"), [("cuda", 2), pytest.param("tpu", 1, marks=pytest.mark.slow)]
)
def test_step_lowers_for_accelerators(platform, devices):
    variables, optimizer, step = prepared_step(BOTH)
    parallel = Parallel(4, jax.local_devices()[:devices])
    batch = {
        name: np.asarray(x, np.float32 if x.dtype == np.float64 else x.dtype)
        for name, x in batch_of_four().items()
    }
    arguments = (create_state(variables, optimizer), batch, jax.random.key(1))
    shapes = jax.eval_shape(lambda *x: x, *arguments)
    compiled = parallel.compile_train_step(step)
    with ops.forms("gpu"):
        exported = export.export(compiled, platforms=[platform])(*shapes)
    assert exported.platforms == (platform,)
    assert exported.nr_devices == devices


def test_batch_size_must_be_divisible_by_the_devices():
    devices = [jax.local_devices()[0]] * 3
    for mode in MODES:
        with pytest.raises(InputError, match="batch_size=8 cannot be split over 3 devices"):
            make_parallel(mode, 8, devices)


def test_processes_with_unequal_numbers_of_devices_are_refused():
    with pytest.raises(InputError, match=r"the processes have \[1, 3\] devices"):
        Parallel(8, [Device(0), Device(1), Device(1), Device(1)])


def test_unknown_mode_is_refused():
    with pytest.raises(
        InputError, match=r"unknown config\.parallel 'pjit'; choose one of jit, pmap"
    ):
        make_parallel("pjit", 8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("devices", [1, 2])
def test_rows_may_be_evaluated_separately(mode, devices):
    """Rows come in order and once, from a CPU's cores or from several devices."""
    parallel = make_parallel(mode, 4, jax.local_devices()[:devices])
    batch = {name: x for name, x in batch_of_four().items() if name in ("audio", "label")}
    batch["audio"] = batch["audio"].astype(np.float32)

    def step(variables, batch):
        return {"labels": batch["label"] * variables["two"], "sound": batch["audio"].sum()}

    variables = parallel.replicate({"two": np.int32(2)})
    results = parallel.compile_eval_step(step, by_row=True)(variables, parallel.split(batch))
    shares = 4 if (mode, devices) == ("jit", 1) else devices
    assert results["labels"].shape == (shares, 4 // shares)
    np.testing.assert_array_equal(results["labels"].ravel(), 2 * batch["label"])
    sound = batch["audio"].reshape(shares, -1).sum(1)
    np.testing.assert_allclose(results["sound"], sound, rtol=1e-4, atol=1e-4)
