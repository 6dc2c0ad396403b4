"""Normalisation of stored frames, and the CPU form of inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.models.efficientface import EfficientFace
from avjax.models.ops import (
    Map,
    depthwise_conv3x3,
    forms,
    max_pool,
    quarters,
    relu,
    running_affine,
    values,
)
from avjax.models.ops.frames import StoredFrames, normalise

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 64, 64, 3)).astype(np.uint8)
NET = EfficientFace(num_classes=3, stage_repeats=(2, 1, 1))


@pytest.fixture(scope="module")
def variables():
    fresh = jax.jit(NET.init)(jax.random.key(0), Map(jnp.zeros((1, 1, 64, 64, 3))))
    rng = np.random.default_rng(1)  # initial values would hide swapped statistics or scales
    return jax.tree.map(lambda x: x * rng.uniform(0.5, 1.5, x.shape).astype(x.dtype), fresh)


@pytest.mark.parametrize("profile", ["reference", "fixed"])
def test_missing_video_is_zeros_after_normalisation(profile):
    frames = StoredFrames(PIXELS, np.array([True, False]), profile).normalised()
    np.testing.assert_array_equal(frames[0], normalise(PIXELS[0], profile))
    assert not frames[1].any()


def test_unknown_profile_is_refused():
    with pytest.raises(InputError, match="unknown profile 'fixd'"):
        StoredFrames(PIXELS, np.ones(2, bool), "fixd").normalised()


def features(variables, frames):
    def clip_features(net, frames):
        return values(net.clip_features(Map(frames)))

    return NET.apply(variables, frames, method=clip_features)


# Fewer and more images than one part.
@pytest.mark.parametrize("clips", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_cpu_form_of_inference_equals_the_other_form(variables, clips):
    """The CPU form splits images into parts, fuses the first layers and merges the quarters."""
    stored = StoredFrames(PIXELS[:clips], np.array([True, False])[:clips], "fixed")
    with forms("gpu"):
        expected = features(variables, stored.normalised())
    for frames in (stored, stored.normalised()):
        with forms("cpu"):
            np.testing.assert_allclose(features(variables, frames), expected, rtol=1e-4, atol=1e-5)


def test_fused_inference_equals_the_single_layers(variables):
    """Methods decorated for inference equal their layers applied one by one."""
    frames = StoredFrames(PIXELS, np.ones(2, bool), "fixed").normalised()
    x = NET.apply(
        variables, frames, method=lambda net, f: _first_layers(net, f.reshape(-1, *f.shape[2:]))
    )
    local = NET.apply(variables, x, method=lambda net, x: values(net.local(Map(x))))
    for number, quarter in enumerate(quarters(Map(x)), start=1):
        y = _quarter(variables, number, quarter.x)
        np.testing.assert_allclose(quarters(Map(local))[number - 1].x, y, rtol=1e-4, atol=1e-5)


def _first_layers(net, images):
    return max_pool(relu(net.conv1_bn(net.conv1(Map(images))))).x


def _quarter(variables, number, x):
    params, stats = variables["params"]["local"], variables["batch_stats"]["local"]
    for layer, stride in ((1, 2), (2, 1)):
        x = depthwise_conv3x3(x, params[f"conv{number}_{layer}"]["kernel"], stride).x
        norm = f"bn{number}_{layer}"
        scale, offset = running_affine(**params[norm], **stats[norm])
        x = jnp.maximum(x * scale + offset, 0)
    return x


def test_last_part_may_hold_a_single_image(variables):
    frames = (
        StoredFrames(PIXELS, np.ones(2, bool), "fixed").normalised().reshape(1, 8, 64, 64, 3)[:, :7]
    )
    all_frames, last_frame = features(variables, frames), features(variables, frames[:, 6:])
    np.testing.assert_allclose(all_frames[:, 6:], last_frame, rtol=1e-4, atol=1e-5)
