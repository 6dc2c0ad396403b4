"""Flip and rotation equal Pillow's; draws do not depend on the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from avjax.errors import InputError
from avjax.models.ops.frames import normalise
from avjax.training.augment import AUGMENTATIONS, MAX_ANGLE, augment, flip_and_rotate


def smooth_frames(count=2, height=96, width=80):
    """Returns frames with gradients and edges, as in faces."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 16
    waves = [np.sin(a * y + b * x + c) for a, b, c in rng.uniform(0, 3, (3 * count, 3))]
    frames = np.stack(waves).reshape(count, 3, height, width).transpose(0, 2, 3, 1)
    frames = np.where(frames > 0.8, 1.0, frames)
    return jnp.asarray((frames + 1) * 127.5, jnp.uint8)


def pillow(frame, flip, angle):
    image = Image.fromarray(np.asarray(frame))
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image
    return np.asarray(image.rotate(angle, resample=Image.Resampling.BILINEAR))


@pytest.mark.parametrize("flip", [False, True])
def test_every_angle_matches_pillow(flip):
    frames = smooth_frames()
    rotate = jax.jit(flip_and_rotate)
    differences = []
    for angle in range(-MAX_ANGLE, MAX_ANGLE + 1):
        actual = np.asarray(rotate(frames, jnp.asarray(flip), jnp.asarray(angle)))
        expected = np.stack([pillow(frame, flip, angle) for frame in frames])
        differences.append(np.abs(actual.astype(int) - expected))
    assert np.max(differences) <= 1
    assert np.mean(np.stack(differences) > 0) < 1e-3


def test_no_rotation_is_exact():
    frames = smooth_frames()
    unchanged = flip_and_rotate(frames, jnp.asarray(False), jnp.asarray(0))
    np.testing.assert_array_equal(unchanged, frames)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_differ_between_clips_but_not_between_frames(name):
    clip = jnp.repeat(smooth_frames(1), 3, axis=0)
    clips = jnp.stack([clip] * 16)
    augmented = np.asarray(augment(name, jax.random.key(0), clips))
    for frames in augmented:
        np.testing.assert_array_equal(frames, np.stack([frames[0]] * 3))
    assert len({frames.tobytes() for frames in augmented}) > 10
    np.testing.assert_array_equal(augmented, augment(name, jax.random.key(0), clips))


@pytest.mark.parametrize("names", [*AUGMENTATIONS, ",".join([*AUGMENTATIONS] * 2)])
def test_draws_do_not_depend_on_the_devices(names):
    clips = jnp.stack([smooth_frames(1)] * 4)
    expected = augment(names, jax.random.key(3), clips)
    shards = jax.vmap(lambda c: augment(names, jax.random.key(3), c, "d"), axis_name="d")(
        clips.reshape(2, 2, *clips.shape[1:])
    )
    np.testing.assert_array_equal(shards.reshape(expected.shape), expected)


def test_no_name_leaves_the_frames_alone():
    clips = smooth_frames(1)[None]
    np.testing.assert_array_equal(augment("", jax.random.key(0), clips), clips)


def test_normalisation_of_both_profiles():
    frames = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1).repeat(3, axis=-1)
    np.testing.assert_allclose(normalise(frames, "reference").ravel(), [0, 0, 0, 1, 1, 1])
    fixed = normalise(frames, "fixed")[:, 0, 0]
    np.testing.assert_allclose(fixed[0, 0], -0.55391484 / 0.24837189, rtol=1e-6)
    np.testing.assert_allclose(fixed[1, 2], (1 - 0.3821877) / 0.20221159, rtol=1e-6)


def test_unknown_profile_is_refused():
    with pytest.raises(InputError, match="unknown profile 'fixd'; choose one of reference, fixed"):
        normalise(jnp.zeros((1, 1, 1, 3), jnp.uint8), "fixd")
