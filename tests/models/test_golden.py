"""Equality with more float64 figures of the reference, on machines that have them."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.audio_visual import FUSIONS, AudioVisualNet
from avjax.models.variables import variable_shapes
from avjax.training.modality_dropout import enlarge_from_draws
from avjax.training.optimizer import sgd
from avjax.training.step import create_state, loss_gradients, sum_metrics, update
from avjax.weights.key_maps import audio_visual_layers
from avjax.weights.rules import to_flax, to_torch
from avjax.weights.torch_file import load_torch_file
from tests.golden_checks import check, check_norms, features

pytestmark = pytest.mark.golden


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def golden_inputs(seed, count, steps=156):
    """Returns the figures' inputs in avjax's layout."""
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


EVALUATIONS = list(itertools.product(FUSIONS, (1, 4), (156, 40, 300)))


@pytest.mark.slow  # other figures of the same are checked in test_golden_figures.py
@pytest.mark.parametrize(("fusion", "num_heads", "steps"), EVALUATIONS)
def test_logits_equal_the_reference(shared_dir, fusion, num_heads, steps):
    figures = np.load(shared_dir / "golden/logits.npz")
    net, variables = golden_network(shared_dir / f"golden/{fusion}.pth", fusion, num_heads)
    seed, count, suffix = (0, 3, "") if steps == 156 else (7, 1, f"_T{steps}")
    mfcc, frames, _ = golden_inputs(seed, count, steps)
    logits = jax.jit(net.apply)(variables, mfcc, frames)
    expected = figures[f"{fusion}{num_heads}/logits{suffix}"]
    check(f"logits {fusion}, {num_heads} heads, {steps} steps", logits, expected, 1e-12)


@pytest.mark.slow  # other figures of the same are checked in test_golden_figures.py
def test_features_equal_the_reference(shared_dir):
    figures = np.load(shared_dir / "golden/logits.npz")
    net, variables = golden_network(shared_dir / "golden/ia.pth", "ia")
    mfcc, frames, _ = golden_inputs(0, 3)
    for name, x in features(net, variables, mfcc, frames).items():
        check(name, x, figures[f"ia/{name}"], 1e-12)


@pytest.mark.slow  # other figures of the same are checked in test_golden_figures.py
@pytest.mark.parametrize("fusion", FUSIONS)
def test_training_loss_and_gradients_equal_the_reference(shared_dir, fusion):
    figures = np.load(shared_dir / "golden/logits.npz")
    net, variables = golden_network(shared_dir / f"golden/{fusion}.pth", fusion)
    mfcc, frames, labels = golden_inputs(0, 3)

    @jax.jit
    def train(params):
        def loss(params):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, updated = net.apply(state, mfcc, frames, True, mutable="batch_stats")
            sums = sum_metrics(logits, jnp.asarray(labels), jnp.ones(3))
            return sums.loss / 3, (logits, updated["batch_stats"])

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, (logits, stats)), gradients = train(variables["params"])
    key = f"{fusion}1"
    check(f"{key} training logits", logits, figures[f"{key}/train_logits"], 1e-10)
    check(f"{key} training loss", loss, figures[f"{key}/train_loss"], 1e-10)
    tensors = to_torch({"params": gradients, "batch_stats": stats}, audio_visual_layers(fusion))
    for kind, names, norms in (
        ("gradients", "param_names", "grad_norms"),
        ("statistics", "stat_names", "stat_norms"),
    ):
        expected = dict(zip(figures[f"{key}/{names}"], figures[f"{key}/{norms}"], strict=True))
        check_norms(f"{key} {kind}", tensors, expected, 1e-10)


def _draw(mask, seed):
    """Returns the random draws of the reference's training runs."""
    rng = np.random.default_rng(seed)
    if mask == "softhard":
        return (rng.integers(0, 100, (2,)) / 100,)
    audio = rng.standard_normal((2, 10, 156)).transpose(0, 2, 1)
    return audio, rng.standard_normal((2, 15, 224, 224, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fusion", "mask", "seed", "loss_bounds", "state_bound"),
    [
        ("ia", "softhard", 3, [1e-9, 1e-9, 2e-8, 1e-7], 1e-4),
        ("lt", "noise", 4, [2e-10] * 5, 1e-9),
    ],
)
def test_losses_and_final_state_equal_the_reference(
    shared_dir, fusion, mask, seed, loss_bounds, state_bound
):
    name = f"golden/trajectory_{fusion}_{mask}"
    figures = np.load(shared_dir / f"{name}.npz")
    net, variables = golden_network(shared_dir / f"{name}.pth", fusion)
    optimizer = sgd(
        0.04,
        momentum=0.9,
        dampening=0.9,
        weight_decay=1e-3,
        trained=net.trained(variables["params"]),
    )

    @jax.jit
    def step(state, mfcc, frames, labels, draws):
        enlarged = enlarge_from_draws(mask, draws, mfcc, frames, jnp.ones(len(labels)))
        gradients, batch_stats, sums = loss_gradients(state, enlarged, labels, net=net)
        return sums.loss / sums.count, update(state, gradients, batch_stats, optimizer)

    state = create_state(variables, optimizer)
    for number, (expected, bound) in enumerate(zip(figures["losses"], loss_bounds, strict=True)):
        mfcc, frames, labels = golden_inputs(seed * 100 + number, 2)
        draws = _draw(mask, seed * 100 + number + 50)
        loss, state = step(state, mfcc, frames, jnp.asarray(labels), draws)
        check(f"{fusion} {mask}, loss {number}", loss, expected, bound)
    final = to_torch(state.variables, audio_visual_layers(fusion))
    expected = dict(zip(figures["names"], figures["norms"], strict=True))
    check_norms(f"{fusion} {mask}, final state", final, expected, state_bound)
