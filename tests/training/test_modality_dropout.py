"""The enlarged batch: its contents, and that computing it once equals spelling it out."""

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
# The tests' hurried compiler rounds the same Gaussian draws otherwise in two programs; and what is
# computed in float64 here takes longer than compiling it.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def spelled(mask, key=None):
    key = jax.random.key(5) if key is None else key
    return spell_out(enlarge(mask, key, MFCC, FRAMES, WEIGHT))


def test_softhard_blocks():
    enlarged = spelled("softhard")
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
def test_a_pair_left_without_any_stream_weighs_nothing(mask, weights):
    """The first clip has no sound, the second no face, the third is padding."""
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
    enlarged = spelled("noise")
    audio, video = (x.reshape(3, 3, *x.shape[1:]) for x in (enlarged.audio, enlarged.frames))
    for block in (0, 2):
        np.testing.assert_array_equal(audio[block], MFCC)
    for block in (0, 1):
        np.testing.assert_array_equal(video[block], FRAMES)
    for noise in (audio[1], video[2]):
        assert abs(float(noise.mean())) < 0.2
        assert abs(float(noise.std()) - 1) < 0.1
    assert not np.allclose(audio[1, 0], audio[1, 1])


def test_nodropout_is_the_batch_itself():
    enlarged = spelled("nodropout")
    np.testing.assert_array_equal(enlarged.audio, MFCC)
    np.testing.assert_array_equal(enlarged.frames, FRAMES)


@pytest.mark.parametrize("mask", [mask for mask in MASKS if COPIES[mask] > 1])
def test_masks_differ_by_key_and_repeat_with_it(mask):
    first, again, other = (spelled(mask, jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first.audio, again.audio)
    assert not np.array_equal(first.audio, other.audio)


def test_a_mistyped_mask_is_refused():
    with pytest.raises(InputError, match=r"unknown config\.mask 'sofhard'; choose one of softhard"):
        enlarge("sofhard", jax.random.key(0), MFCC, FRAMES, WEIGHT)


def clips(frames, size, steps):
    """With and without a face, and padding."""
    return {
        "frames": jnp.asarray(RNG.integers(0, 256, (3, frames, size, size, 3)), jnp.uint8),
        "audio": jnp.asarray(RNG.standard_normal((3, steps, 10))),
        "label": jnp.array([0, 3, 7]),
        "has_audio": jnp.array([True, True, True]),
        "has_video": jnp.array([True, False, True]),
        "weight": jnp.asarray(WEIGHT, jnp.float64),
    }


def first_step(net, variables, inputs, config):
    """Gradients, running statistics and mean loss of a step."""
    trained = net.trained(variables["params"])
    plain = sgd(1.0, momentum=0.0, dampening=0.0, weight_decay=0.0, trained=trained)
    step = jax.jit(
        functools.partial(train_step, net=net, optimizer=plain, config=config, profile="reference"),
        compiler_options=OPTIMIZED,
    )
    state, sums = step(create_state(variables, plain), inputs, jax.random.key(2))
    gradients = jax.tree.map(lambda a, b: a - b, variables["params"], state.params)
    return jax.device_get((gradients, state.batch_stats, sums.loss / sums.count))


def check_distinct_inputs_once(net, mask, *shape):
    """Against the enlarged batch, in float64, where only the order of sums separates the two."""
    with jax.enable_x64(True):
        fresh = init_variables(net, jax.random.key(0))
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), fresh)
        inputs = clips(*shape)
        once, naive = (
            first_step(net, variables, inputs, StepConfig(mask, deduplicate=deduplicate))
            for deduplicate in (True, False)
        )
    (gradients, stats, loss), (naive_gradients, naive_stats, naive_loss) = once, naive
    np.testing.assert_allclose(loss, naive_loss, rtol=1e-9)
    for mine, theirs in zip(jax.tree.leaves(stats), jax.tree.leaves(naive_stats), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(naive_gradients))
    for mine, theirs in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(naive_gradients), strict=True
    ):
        if max(np.abs(mine).max(), np.abs(theirs).max()) <= 1e-14 * largest:
            continue  # zero but for rounding, on both sides: a bias before a batch normalisation
        assert np.abs(mine - theirs).max() <= 1e-9 * max(np.abs(theirs).max(), 1e-6 * largest)


@pytest.mark.slow  # by default tests/models/test_plain.py guards the same
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_distinct_inputs_once_train_as_the_enlarged_batch_does(fusion, mask):
    """With few of the backbone's layers."""
    net = AudioVisualNet(fusion=fusion, stage_repeats=(1, 1, 1))
    check_distinct_inputs_once(net, mask, 4, 64, 16)


@pytest.mark.slow
def test_distinct_inputs_once_train_alike_at_full_size():
    """The published network and clips."""
    check_distinct_inputs_once(AudioVisualNet(), "softhard", 15, 224, 156)
