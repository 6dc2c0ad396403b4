"""Equality with the reference, which tools/make_golden.py ran in float64 on seeded weights."""

import functools
import itertools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.audio_visual import FUSIONS, AudioVisualNet
from avjax.models.variables import variable_shapes
from avjax.training.modality_dropout import MASKS, enlarge_with
from avjax.training.optimizer import sgd
from avjax.training.step import create_state, loss_gradients, update
from avjax.weights.key_maps import audio_visual_layers
from avjax.weights.rules import COUNTER, to_flax, to_torch
from tests.golden_checks import check, check_norms, features

SEED = 0
# Every fusion with every number of heads, and both with every length but one; the rest is slow.
DEFAULT_EVALUATIONS = {
    ("ia", 1, 156),
    ("ia", 4, 300),
    ("it", 1, 300),
    ("it", 4, 40),
    ("lt", 1, 40),
    ("lt", 4, 156),
}
DEFAULT_TRAININGS = {("ia", "softhard"), ("lt", "noise")}


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def is_statistic(name):
    return ".running_" in name


def is_stored(name):
    return not name.endswith(COUNTER)


def is_parameter(name):
    return is_stored(name) and not is_statistic(name)


@pytest.fixture(scope="module")
def figures():
    return np.load(golden.FIGURES)


@functools.cache
def network(fusion, num_heads=1):
    """The network and weights that the reference was given, made without it."""
    net = AudioVisualNet(fusion=fusion, num_heads=num_heads)
    shapes = variable_shapes(net)
    layers = audio_visual_layers(fusion)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
    names = {name: x.shape for name, x in to_torch(zeros, layers).items()}
    variables = to_flax(golden.weights(names, SEED), layers, shapes, fusion)
    return net, variables


def test_there_are_figures_of_every_fusion_and_mask():
    assert set(golden.TRAININGS) == set(itertools.product(FUSIONS, MASKS))
    assert {fusion for fusion, *_ in golden.EVALUATIONS} == set(FUSIONS)


@pytest.mark.parametrize(
    ("fusion", "num_heads", "steps"),
    [
        pytest.param(*case, marks=[] if case in DEFAULT_EVALUATIONS else pytest.mark.slow)
        for case in golden.EVALUATIONS
    ],
)
def test_logits(figures, fusion, num_heads, steps):
    net, variables = network(fusion, num_heads)
    batch = golden.inputs(steps, 2 if steps == 156 else 1, steps)
    logits = jax.jit(net.apply)(variables, *golden.to_network(batch))
    expected = figures[f"eval/{fusion}/{num_heads}/{steps}/logits"]
    check(f"logits {fusion}, {num_heads} heads, {steps} steps", logits, expected, 1e-12)


@pytest.mark.parametrize(
    "fusion",
    [golden.FUSIONS[0], *(pytest.param(x, marks=pytest.mark.slow) for x in golden.FUSIONS[1:])],
)
def test_logits_in_single_precision(figures, fusion):
    net, variables = network(fusion)
    single = jax.tree.map(np.float32, (variables, *golden.to_network(golden.inputs(156, 2, 156))))
    logits = jax.jit(net.apply)(*single)
    assert logits.dtype == np.float32
    check(f"float32 logits {fusion}", logits, figures[f"eval/{fusion}/1/156/logits"], 1e-4)


def test_features(figures):
    net, variables = network("ia")
    mfcc, frames = golden.to_network(golden.inputs(40, 1, 40))
    found = features(net, variables, mfcc, frames)
    for name, x in found.items():
        check(name, x, figures[f"eval/ia/1/40/{name}"], 1e-12)


@pytest.mark.parametrize(
    ("fusion", "mask"),
    [
        pytest.param(*case, marks=[] if case in DEFAULT_TRAININGS else pytest.mark.slow)
        for case in golden.TRAININGS
    ],
)
def test_training(figures, fusion, mask):
    """Loss, gradients and statistics of a step; losses and state of a few."""
    net, variables = network(fusion)
    layers = audio_visual_layers(fusion)
    trained = net.trained(variables["params"])
    optimizer = sgd(golden.LEARNING_RATE, **golden.SGD, trained=trained)

    @jax.jit
    def step(state, mfcc, frames, labels, draws):
        enlarged = enlarge_with(mask, draws, mfcc, frames, jnp.ones(len(labels)))
        gradients, batch_stats, sums = loss_gradients(state, enlarged, labels, net=net)
        loss = sums.loss / sums.count
        return loss, gradients, update(state, gradients, batch_stats, optimizer)

    def named(norms, variables, kind):
        """Tensors of a kind by their PyTorch names, and the reference's norms of them."""
        tensors = {n: x for n, x in to_torch(variables, layers).items() if kind(n)}
        return tensors, dict(zip(sorted(tensors), norms, strict=True))

    found = {key.rpartition("/")[2]: figures[key] for key in figures if f"{fusion}/{mask}/" in key}
    state = create_state(jax.tree.map(jnp.asarray, variables), optimizer)
    losses = []
    for number in range(golden.STEPS):
        batch, draws = golden.training_inputs(mask, number)
        given = golden.swap_layout(mask, draws)
        loss, gradients, state = step(state, *golden.to_network(batch), batch.labels, given)
        losses.append(float(loss))
        if number == 0:
            what = f"{fusion} {mask}, first step"
            check(f"{what}: loss", loss, found["losses"][0], 1e-10)
            tensors = {"params": gradients, "batch_stats": state.batch_stats}
            orders = [named(norms, tensors, is_parameter) for norms in found["gradient_norms"]]
            nearer = min(orders, key=lambda pair: golden.norm_deviation(*pair))
            check_norms(f"{what}: gradients", *nearer, 1e-10)
            compared = named(found["statistics_norms"], tensors, is_statistic)
            check_norms(f"{what}: statistics", *compared, 1e-10)
    own = np.maximum(found["own_loss_deviation"], 1e-13)  # the reference's, to itself
    for number, (loss, expected) in enumerate(zip(losses, found["losses"], strict=True)):
        check(f"{fusion} {mask}, loss {number}", loss, expected, 100 * own[number])
    bound = 100 * max(float(found["own_state_deviation"]), 1e-13)
    compared = named(found["state_norms"], state.variables, is_stored)
    check_norms(f"{fusion} {mask}, state after {golden.STEPS} steps", *compared, bound)
