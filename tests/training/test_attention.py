"""Attention read from the fusions: what each stream receives from the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.audio_visual import FUSIONS, AudioVisualNet
from avjax.models.single_modality import AudioNet
from avjax.models.variables import init_variables
from avjax.training import attention


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_stream_receives_one_even_share_on_average(fusion):
    net = AudioVisualNet(num_classes=3, fusion=fusion, num_heads=2, stage_repeats=(1, 1, 1))
    variables = init_variables(net, jax.random.key(0))
    rng = np.random.default_rng(0)
    audio, video = (
        jnp.asarray(rng.standard_normal((2, steps, width), np.float32))
        for steps, width in zip((9, 4), FUSIONS[fusion].widths, strict=True)
    )
    logits, received = attention.fuse(net, variables, audio, video)
    expected = net.apply(variables, audio, video, method="fuse")
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert {stream: rows.shape for stream, rows in received.items()} == {
        "audio": (2, 9),
        "video": (2, 4),
    }
    for rows in received.values():
        np.testing.assert_allclose(rows.mean(1), 1, rtol=1e-5)
        assert np.ptp(rows) > 0.01


def test_factor_of_intermediate_attention_is_what_is_received():
    net = AudioVisualNet(num_classes=3, stage_repeats=(1, 1, 1))
    params = init_variables(net, jax.random.key(0))["params"]
    fusion = FUSIONS["ia"]()
    rng = np.random.default_rng(1)
    audio, video = (
        jnp.asarray(rng.standard_normal((1, t, c), np.float32)) for t, c in ((9, 128), (4, 64))
    )
    _, scaled = fusion.apply({"params": {x: params[x] for x in ("av1", "va1")}}, audio, video)
    variables = init_variables(net, jax.random.key(0))
    _, received = attention.fuse(net, variables, audio, video)
    np.testing.assert_allclose(scaled[..., 0] / video[..., 0], received["video"] * 9 / 4, rtol=1e-4)


def test_network_of_one_stream_has_none():
    net = AudioNet(num_classes=3)
    variables = init_variables(net, jax.random.key(0))
    audio = jnp.zeros((2, 5, 128))
    assert attention.fuse(net, variables, audio, jnp.zeros((2, 0)))[1] == {}
