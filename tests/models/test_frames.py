"""Frames normalised where they are read, and a CPU's form of inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.models.efficientface import IMAGES_AT_ONCE, EfficientFace
from avjax.models.frames import NORMALISATION, StoredFrames, as_images, normalise
from avjax.models.layers import INFERENCE

PIXELS = jax.random.bits(jax.random.key(0), (2, 4, 64, 64, 3), jnp.uint8)
NET = EfficientFace(num_classes=3, stage_repeats=(2, 1, 1))


@pytest.fixture(scope="module")
def variables():
    fresh = jax.jit(NET.init)(jax.random.key(0), jnp.zeros((1, 1, 64, 64, 3)))
    rng = np.random.default_rng(1)  # fresh statistics and scales would hide a wrong one
    return jax.tree.map(lambda x: x * rng.uniform(0.5, 1.5, x.shape).astype(x.dtype), fresh)


@pytest.mark.parametrize("profile", NORMALISATION)
def test_a_clip_that_is_not_there_is_seen_as_zeros(profile):
    seen = StoredFrames(PIXELS, jnp.array([True, False]), profile).seen()
    np.testing.assert_array_equal(seen[0], normalise(PIXELS[0], profile))
    assert not seen[1].any()


def test_unknown_profile():
    with pytest.raises(InputError, match="unknown profile 'fixd'"):
        StoredFrames(PIXELS, jnp.ones(2, bool), "fixd").seen()


@pytest.mark.parametrize("clips", [1, 2])  # fewer images than are taken at once, and more
def test_images_in_parts_have_the_features_of_all_at_once(variables, clips):
    assert 4 < IMAGES_AT_ONCE < 8
    stored = StoredFrames(PIXELS[:clips], jnp.array([True, False])[:clips], "fixed")

    def at_once(net, images):
        return net.frame_features(net.stem(images), INFERENCE)

    expected = NET.apply(variables, as_images(stored.seen()), method=at_once)
    for frames in (stored, stored.seen()):
        found = NET.apply(variables, frames, INFERENCE, method="clip_features")
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-4, atol=1e-5)


def test_images_in_parts_with_one_to_spare(variables):
    frames = StoredFrames(PIXELS, jnp.ones(2, bool), "fixed").seen().reshape(1, 8, 64, 64, 3)[:, :7]
    whole = NET.apply(variables, frames, INFERENCE, method="clip_features")
    single = NET.apply(variables, frames[:, 6:], INFERENCE, method="clip_features")
    np.testing.assert_allclose(whole[:, 6:], single, rtol=1e-4, atol=1e-5)
