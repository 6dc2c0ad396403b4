"""Networks built from descriptions, and networks of a single stream."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.models.audio_cnn import AudioCNN
from avjax.models.efficientface import EfficientFace
from avjax.models.networks import NETWORKS, ModelConfig, build_network
from avjax.models.ops import Map, Rows
from avjax.models.single_modality import AudioNet
from avjax.models.variables import init_variables, variable_shapes
from tests.small_networks import small_network

RNG = np.random.default_rng(0)
MFCC = jnp.asarray(RNG.standard_normal((3, 16, 10)), jnp.float32)
FRAMES = jnp.asarray(RNG.random((3, 2, 64, 64, 3)), jnp.float32)
NETS = {kind: small_network(kind, 5) for kind in NETWORKS}
BRANCHES = ("audio", "video")  # branches of the audio-visual network, and networks


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"fusion": "la", "num_heads": 1}, "unknown fusion 'la'; choose one of ia, it, lt"),
        ({"fusion": "ia", "num_heads": 3}, "num_heads=3 does not divide"),
        ({"fusion": "lt", "num_heads": 0}, "num_heads=0 does not divide"),
        (
            {"kind": "rnn", "fusion": "ia", "num_heads": 1},
            "unknown network kind 'rnn'; choose one of audio_visual, audio, video",
        ),
    ],
)
def test_build_network_refuses(network, message):
    with pytest.raises(InputError, match=message):
        build_network({"num_classes": 8, **network})


def test_build_network_accepts_any_divisor_of_the_width():
    assert build_network({"fusion": "lt", "num_heads": 128, "num_classes": 3}).num_classes == 3


@pytest.mark.parametrize("kind", NETWORKS)
def test_config_describes_its_network(kind):
    config = ModelConfig(kind=kind)
    description = config.describe(8)
    assert set(description) == {"kind", "num_classes", *NETWORKS[kind][1]}
    assert json.loads(json.dumps(description)) == description
    net = build_network(description)
    assert net.num_classes == 8
    streams = {"audio_visual": ("audio", "video"), "video": ("video",)}
    assert net.inputs.streams == streams.get(kind, ("audio",))
    assert net.conditions[0].startswith(
        "audiovisual" if kind == "audio_visual" else net.inputs.streams[0]
    )


def test_description_with_removed_fields_still_builds():
    old = {"kind": "log_mel", "num_mels": 16, "coefficients": [4], "dropout": 0.0}
    assert build_network({**old, "num_classes": 2}).coefficients == (4,)


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("train", [False, True])
def test_single_stream_network_equals_its_branch(kind, train):
    net = NETS[kind]
    variables = init_variables(net, jax.random.key(0))
    ((name, params),) = variables["params"].items()
    branch, x = {
        "audio": (AudioCNN(5), MFCC),
        "video": (EfficientFace(5, (1, 1, 1)), FRAMES),
    }[kind]
    assert name == {"audio": "audio_model", "video": "visual_model"}[kind]
    branch_variables = {"params": params, "batch_stats": variables["batch_stats"][name]}

    @jax.jit
    def logits(unused):
        inputs = (x, unused) if kind == "audio" else (unused, x)
        return net.apply(variables, *inputs, train, mutable="batch_stats")[0]

    m = Map(x, rows=Rows(jnp.ones(3)) if train else None)
    expected = jax.jit(lambda m: branch.apply(branch_variables, m, mutable="batch_stats")[0])(m)
    unused = FRAMES if kind == "audio" else MFCC
    np.testing.assert_allclose(logits(unused), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(logits(unused), logits(0 * unused))


@pytest.mark.parametrize("kind", NETS)
def test_encoding_and_fusing_equals_a_call(kind):
    net = NETS[kind]
    variables = init_variables(net, jax.random.key(0))
    sound = MFCC[..., : net.inputs.audio_width]

    def parts(variables):
        audio = net.apply(variables, sound, method="encode_audio")
        video = net.apply(variables, FRAMES, method="encode_video")
        return net.apply(variables, audio, video, method="fuse")

    expected = jax.jit(net.apply)(variables, sound, FRAMES)
    np.testing.assert_allclose(jax.jit(parts)(variables), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in NETS if len(NETS[kind].inputs.streams) == 1])
def test_all_parameters_of_a_single_stream_network_are_trained(kind):
    params = variable_shapes(NETS[kind])["params"]
    assert all(jax.tree.leaves(NETS[kind].trained(params)))


def test_parameter_count_of_the_audio_network():
    params = variable_shapes(AudioNet(8))["params"]
    blocks = sum(3 * i * o + 3 * o for i, o in ((10, 64), (64, 128), (128, 256), (256, 128)))
    assert sum(x.size for x in jax.tree.leaves(params)) == blocks + 128 * 8 + 8
