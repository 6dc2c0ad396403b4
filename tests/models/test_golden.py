"""Equality with figures that the reference implementation computed in float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avjax.models.audio_visual import AudioVisualNet, trained_parameters
from avjax.models.layers import INFERENCE
from avjax.training import metrics, modality_dropout
from avjax.training.optimizer import sgd
from avjax.training.step import create_state, variable_shapes
from avjax.weights.audio_visual import audio_visual_layers
from avjax.weights.rules import to_flax, to_torch
from avjax.weights.torch_file import load_torch_file

pytestmark = pytest.mark.golden
FUSIONS = ("ia", "it", "lt")


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def golden_inputs(seed, count, steps=156):
    """The inputs that the figures were computed from, in this project's layout."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, 15, 224, 224, 3), dtype=np.uint8)
    mfcc = (rng.standard_normal((count, 10, steps)) * 20).astype(np.float32)
    labels = rng.integers(0, 8, (count,))
    return np.float64(mfcc).transpose(0, 2, 1), frames / 255.0, labels


def golden_network(path: Path, fusion, num_heads=1):
    net = AudioVisualNet(fusion=fusion, num_heads=num_heads)
    shapes = variable_shapes(net)
    variables = to_flax(load_torch_file(path), audio_visual_layers(fusion), shapes, str(path))
    return net, jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)


def deviation(ours, expected):
    return np.abs(np.asarray(ours) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("num_heads", [1, 4])
def test_logits(shared_dir, fusion, num_heads):
    figures = np.load(shared_dir / "golden/logits.npz")
    net, variables = golden_network(shared_dir / f"golden/{fusion}.pth", fusion, num_heads)
    mfcc, frames, _ = golden_inputs(0, 3)
    key = f"{fusion}{num_heads}"
    apply = jax.jit(net.apply)
    assert deviation(apply(variables, mfcc, frames), figures[f"{key}/logits"]) < 1e-12
    for steps in (40, 300):
        mfcc, frames, _ = golden_inputs(7, 1, steps)
        expected = figures[f"{key}/logits_T{steps}"]
        assert deviation(apply(variables, mfcc, frames), expected) < 1e-12


def test_features(shared_dir):
    figures = np.load(shared_dir / "golden/logits.npz")
    net, variables = golden_network(shared_dir / "golden/ia.pth", "ia")
    mfcc, frames, _ = golden_inputs(0, 3)

    @jax.jit
    def features(variables, mfcc, frames):
        bound = net.bind(variables)
        clips = bound.visual_model.clip_features(frames, INFERENCE)
        return clips, bound.encode_video(frames), bound.encode_audio(mfcc)

    clips, video, audio = features(variables, mfcc, frames)
    assert deviation(clips.reshape(-1, 1024), figures["ia/frame_features"]) < 1e-12
    assert deviation(video.transpose(0, 2, 1), figures["ia/visual_stage1"]) < 1e-12
    assert deviation(audio.transpose(0, 2, 1), figures["ia/audio_stage1"]) < 1e-12


@pytest.mark.parametrize(
    "fusion", ["ia", *(pytest.param(name, marks=pytest.mark.slow) for name in ("it", "lt"))]
)
def test_training_forward_and_gradient(shared_dir, fusion):
    figures = np.load(shared_dir / "golden/logits.npz")
    net, variables = golden_network(shared_dir / f"golden/{fusion}.pth", fusion)
    mfcc, frames, labels = golden_inputs(0, 3)

    @jax.jit
    def train(params):
        def loss(params):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, updated = net.apply(state, mfcc, frames, True, mutable="batch_stats")
            sums = metrics.sums(logits, labels, jnp.ones(3))
            return sums.loss / 3, (logits, updated["batch_stats"])

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, (logits, stats)), gradients = train(variables["params"])
    key = f"{fusion}1"
    assert deviation(logits, figures[f"{key}/train_logits"]) < 1e-10
    assert deviation(loss, figures[f"{key}/train_loss"]) < 1e-10
    ours = to_torch({"params": gradients, "batch_stats": stats}, audio_visual_layers(fusion))
    expected = dict(zip(figures[f"{key}/param_names"], figures[f"{key}/grad_norms"], strict=True))
    floor = 1e-9 * max(expected.values())  # biases before a BatchNorm: gradients of pure rounding
    for name, norm in expected.items():
        assert abs(np.linalg.norm(ours[name]) - norm) <= max(1e-10 * norm, 1e-4 * floor)
    for name, norm in zip(figures[f"{key}/stat_names"], figures[f"{key}/stat_norms"], strict=True):
        assert abs(np.linalg.norm(ours[name]) - norm) <= 1e-10 * norm


def _draw(mask, seed):
    """What the masks of the trajectories were made from."""
    rng = np.random.default_rng(seed)
    if mask == "softhard":
        return (rng.integers(0, 100, (2,)) / 100,)
    audio = rng.standard_normal((2, 10, 156)).transpose(0, 2, 1)
    return audio, rng.standard_normal((2, 15, 224, 224, 3))


def _enlarge(mask, draws, mfcc, frames):
    build = {"softhard": modality_dropout._softhard, "noise": modality_dropout._noise}[mask]
    return build(*draws, mfcc, frames, jnp.ones(len(mfcc)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fusion", "mask", "seed", "loss_bounds", "state_bound"),
    [
        ("ia", "softhard", 3, [1e-9, 1e-9, 2e-8, 1e-7], 1e-4),
        ("lt", "noise", 4, [2e-10] * 5, 1e-9),
    ],
)
def test_trajectory(shared_dir, fusion, mask, seed, loss_bounds, state_bound):
    name = f"golden/trajectory_{fusion}_{mask}"
    figures = np.load(shared_dir / f"{name}.npz")
    net, variables = golden_network(shared_dir / f"{name}.pth", fusion)
    optimizer = sgd(
        0.04,
        momentum=0.9,
        dampening=0.9,
        weight_decay=1e-3,
        trained=trained_parameters(variables["params"], fusion),
    )

    @jax.jit
    def step(state, mfcc, frames, labels, draws):
        enlarged = _enlarge(mask, draws, mfcc, frames)

        def loss(params):
            logits, updated = net.apply(
                {"params": params, "batch_stats": state.batch_stats},
                enlarged.mfcc,
                enlarged.frames,
                True,
                pairing=enlarged.pairing,
                mutable="batch_stats",
            )
            weight = enlarged.pairing.pair_weight
            sums = metrics.sums(logits, jnp.tile(labels, enlarged.copies), weight)
            return sums.loss / sums.count, updated["batch_stats"]

        (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return value, state.replace(params=params, batch_stats=stats, opt_state=opt_state)

    state = create_state(variables, optimizer)
    for number, (expected, bound) in enumerate(zip(figures["losses"], loss_bounds, strict=True)):
        mfcc, frames, labels = golden_inputs(seed * 100 + number, 2)
        draws = _draw(mask, seed * 100 + number + 50)
        loss, state = step(state, mfcc, frames, labels, draws)
        assert deviation(loss, expected) < bound
    final = to_torch(state.variables, audio_visual_layers(fusion))
    for name, norm in zip(figures["names"], figures["norms"], strict=True):
        assert abs(np.linalg.norm(final[name]) - norm) <= state_bound * max(norm, 1e-6)
