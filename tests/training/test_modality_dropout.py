"""The enlarged batch: its contents, and equality of its deduplicated and explicit forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.models.audio_visual import FUSIONS, AudioVisualNet
from avjax.models.variables import init_variables
from avjax.training.modality_dropout import COPIES, MASKS, enlarge, softhard_coefficients, spell_out
from avjax.training.optimizer import sgd
from avjax.training.step import StepConfig, create_state, train_step

RNG = np.random.default_rng(0)
MFCC = jnp.asarray(RNG.standard_normal((3, 16, 10)), jnp.float32)
FRAMES = jnp.asarray(RNG.random((3, 2, 64, 64, 3)), jnp.float32)
WEIGHT = jnp.array([1.0, 1.0, 0.0])
# The fast compiler options of the tests round the same Gaussian draws differently in two programs.
# Here float64 computations take longer than compilation.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def explicit(mask, key=None):
    key = jax.random.key(5) if key is None else key
    return spell_out(enlarge(mask, key, MFCC, FRAMES, WEIGHT))


def test_softhard_blocks():
    enlarged = explicit("softhard")
    audio, video = (x.reshape(4, 3, *x.shape[1:]) for x in (enlarged.audio, enlarged.frames))
    c = audio[1, :, 0, 0] / MFCC[:, 0, 0]
    np.testing.assert_array_equal(audio[0], MFCC)
    np.testing.assert_allclose(audio[1], c[:, None, None] * MFCC, rtol=1e-5)
    assert not audio[2].any()
    np.testing.assert_array_equal(audio[3], MFCC)
    np.testing.assert_array_equal(video[0], FRAMES)
    np.testing.assert_allclose(video[1], (1 - c)[:, None, None, None, None] * FRAMES, rtol=1e-4)
    np.testing.assert_array_equal(video[2], FRAMES)
    assert not video[3].any()
    np.testing.assert_array_equal(enlarged.pairing.pair_weight, [1, 1, 0] * 4)


@pytest.mark.parametrize(
    ("mask", "weights"),
    [
        ("softhard", [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]),
        ("noise", [[1, 1, 0], [1, 0, 0], [0, 1, 0]]),
        ("nodropout", [[1, 1, 0]]),
    ],
)
def test_pair_without_any_stream_has_weight_0(mask, weights):
    """Clip 0 has no sound, clip 1 no video, clip 2 is padding."""
    has_audio, has_video = jnp.array([False, True, True]), jnp.array([True, False, True])
    mfcc = MFCC * has_audio[:, None, None]
    frames = FRAMES * has_video[:, None, None, None, None]
    present = {"has_audio": has_audio, "has_video": has_video}
    enlarged = enlarge(mask, jax.random.key(5), mfcc, frames, WEIGHT, **present)
    pairing = enlarged.pairing
    np.testing.assert_array_equal(pairing.pair_weight.reshape(-1, 3), weights)
    audio = np.zeros(len(enlarged.audio))
    np.add.at(audio, pairing.audio_rows, pairing.pair_weight)
    np.testing.assert_array_equal(pairing.audio_weight, audio)
    video = np.zeros(len(pairing.video_weight) + 1)
    np.add.at(video, pairing.video_rows, pairing.pair_weight)
    np.testing.assert_array_equal(pairing.video_weight, video[:-1])
    assert (pairing.dimmed.black_weight if pairing.dimmed else 0) == video[-1]


def test_softhard_coefficients_are_hundredths_below_one():
    keys = jax.random.split(jax.random.key(0), 4000)
    hundredths = np.asarray(softhard_coefficients(keys)) * 100
    np.testing.assert_allclose(hundredths, hundredths.round(), atol=1e-3)
    assert set(hundredths.round()) == set(range(100))


def test_noise_blocks():
    enlarged = explicit("noise")
    audio, video = (x.reshape(3, 3, *x.shape[1:]) for x in (enlarged.audio, enlarged.frames))
    for block in (0, 2):
        np.testing.assert_array_equal(audio[block], MFCC)
    for block in (0, 1):
        np.testing.assert_array_equal(video[block], FRAMES)
    for noise in (audio[1], video[2]):
        assert abs(float(noise.mean())) < 0.2
        assert abs(float(noise.std()) - 1) < 0.1
    assert not np.allclose(audio[1, 0], audio[1, 1])


def test_nodropout_is_the_unchanged_batch():
    enlarged = explicit("nodropout")
    np.testing.assert_array_equal(enlarged.audio, MFCC)
    np.testing.assert_array_equal(enlarged.frames, FRAMES)


@pytest.mark.parametrize("mask", [mask for mask in MASKS if COPIES[mask] > 1])
def test_masks_depend_on_the_key(mask):
    first, second, different = (explicit(mask, jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first.audio, second.audio)
    assert not np.array_equal(first.audio, different.audio)


def test_unknown_mask_is_refused():
    with pytest.raises(InputError, match=r"unknown config\.mask 'sofhard'; choose one of softhard"):
        enlarge("sofhard", jax.random.key(0), MFCC, FRAMES, WEIGHT)


def clips(frames, size, steps):
    """Returns a batch: clip 1 has no video, clip 2 is padding."""
    return {
        "frames": jnp.asarray(RNG.integers(0, 256, (3, frames, size, size, 3)), jnp.uint8),
        "audio": jnp.asarray(RNG.standard_normal((3, steps, 10))),
        "label": jnp.array([0, 3, 7]),
        "has_audio": jnp.array([True, True, True]),
        "has_video": jnp.array([True, False, True]),
        "weight": jnp.asarray(WEIGHT, jnp.float64),
    }


def first_step(net, variables, inputs, config):
    """Returns gradients, running statistics and mean loss of a step."""
    trained = net.trained(variables["params"])
    optimizer = sgd(1.0, momentum=0.0, dampening=0.0, weight_decay=0.0, trained=trained)
    step = jax.jit(
        functools.partial(
            train_step, net=net, optimizer=optimizer, config=config, profile="reference"
        ),
        compiler_options=OPTIMIZED,
    )
    state, sums = step(create_state(variables, optimizer), inputs, jax.random.key(2))
    gradients = jax.tree.map(lambda a, b: a - b, variables["params"], state.params)
    return jax.device_get((gradients, state.batch_stats, sums.loss / sums.count))


def check_deduplication(net, mask, *shape):
    """Compares with the explicit batch in float64: only the order of sums differs."""
    with jax.enable_x64(True):
        fresh = init_variables(net, jax.random.key(0))
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), fresh)
        inputs = clips(*shape)
        deduplicated, naive = (
            first_step(net, variables, inputs, StepConfig(mask, deduplicate=deduplicate))
            for deduplicate in (True, False)
        )
    gradients, stats, loss = deduplicated
    expected_gradients, expected_stats, expected_loss = naive
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-9)
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    jax.tree.map(assert_close, stats, expected_stats)
    expected_gradients = jax.tree.leaves(expected_gradients)
    largest = max(np.abs(g).max() for g in expected_gradients)
    for actual, expected in zip(jax.tree.leaves(gradients), expected_gradients, strict=True):
        if max(np.abs(actual).max(), np.abs(expected).max()) <= 1e-14 * largest:
            continue  # only rounding: a bias before a batch normalisation
        bound = 1e-9 * max(np.abs(expected).max(), 1e-6 * largest)
        assert np.abs(actual - expected).max() <= bound


@pytest.mark.slow  # tests/models/test_plain.py covers this by default
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_deduplicated_step_equals_the_explicit_one(fusion, mask):
    net = AudioVisualNet(fusion=fusion, stage_repeats=(1, 1, 1))
    check_deduplication(net, mask, 4, 64, 16)


@pytest.mark.slow
def test_deduplicated_step_equals_the_explicit_one_at_full_size():
    check_deduplication(AudioVisualNet(), "softhard", 15, 224, 156)
