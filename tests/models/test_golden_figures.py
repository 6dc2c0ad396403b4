"""Equality with figures of the reference in float64, computed by tools/make_golden.py."""

import functools
import itertools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.audio_visual import FUSIONS, AudioVisualNet
from avjax.models.variables import variable_shapes
from avjax.training.modality_dropout import MASKS, enlarge_from_draws
from avjax.training.optimizer import sgd
from avjax.training.step import create_state, loss_gradients, update
from avjax.weights.key_maps import audio_visual_layers
from avjax.weights.rules import COUNTER, to_flax, to_torch
from tests.golden_checks import check, check_norms, features

SEED = 0
# Every fusion, number of heads and length once; other combinations are slow.
DEFAULT_EVALUATIONS = {
    ("ia", 1, 156),
    ("it", 4, 40),
    ("lt", 4, 300),
}
DEFAULT_TRAININGS = {("ia", "softhard")}


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
    """Returns the network with the weights that the reference had."""
    net = AudioVisualNet(fusion=fusion, num_heads=num_heads)
    shapes = variable_shapes(net)
    layers = audio_visual_layers(fusion)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
    names = {name: x.shape for name, x in to_torch(zeros, layers).items()}
    variables = to_flax(golden.weights(names, SEED), layers, shapes, fusion)
    return net, variables


def test_golden_cases_cover_every_fusion_and_mask():
    assert set(golden.TRAININGS) == set(itertools.product(FUSIONS, MASKS))
    assert {fusion for fusion, *_ in golden.EVALUATIONS} == set(FUSIONS)


@pytest.mark.parametrize(
    ("fusion", "num_heads", "steps"),
    [
        pytest.param(*case, marks=[] if case in DEFAULT_EVALUATIONS else pytest.mark.slow)
        for case in golden.EVALUATIONS
    ],
)
def test_logits_equal_the_reference(figures, fusion, num_heads, steps):
    net, variables = network(fusion, num_heads)
    batch = golden.inputs(steps, 2 if steps == 156 else 1, steps)
    logits = jax.jit(net.apply)(variables, *golden.to_network(batch))
    expected = figures[f"eval/{fusion}/{num_heads}/{steps}/logits"]
    check(f"logits {fusion}, {num_heads} heads, {steps} steps", logits, expected, 1e-12)


@pytest.mark.parametrize(
    "fusion",
    [golden.FUSIONS[0], *(pytest.param(x, marks=pytest.mark.slow) for x in golden.FUSIONS[1:])],
)
def test_float32_logits_are_close_to_the_reference(figures, fusion):
    net, variables = network(fusion)
    single = jax.tree.map(np.float32, (variables, *golden.to_network(golden.inputs(156, 2, 156))))
    logits = jax.jit(net.apply)(*single)
    assert logits.dtype == np.float32
    check(f"float32 logits {fusion}", logits, figures[f"eval/{fusion}/1/156/logits"], 1e-4)


@pytest.mark.slow  # by default, the logits, which follow from them
def test_features_equal_the_reference(figures):
    net, variables = network("ia")
    mfcc, frames = golden.to_network(golden.inputs(40, 1, 40))
    for name, x in features(net, variables, mfcc, frames).items():
        check(name, x, figures[f"eval/ia/1/40/{name}"], 1e-12)


@pytest.mark.parametrize(
    ("fusion", "mask"),
    [
        pytest.param(*case, marks=[] if case in DEFAULT_TRAININGS else pytest.mark.slow)
        for case in golden.TRAININGS
    ],
)
def test_training_equals_the_reference(figures, fusion, mask):
    """Compares loss, gradients and statistics of a step, then losses and state of several."""
    net, variables = network(fusion)
    layers = audio_visual_layers(fusion)
    trained = net.trained(variables["params"])
    optimizer = sgd(golden.LEARNING_RATE, **golden.SGD, trained=trained)

    @jax.jit
    def step(state, mfcc, frames, labels, draws):
        enlarged = enlarge_from_draws(mask, draws, mfcc, frames, jnp.ones(len(labels)))
        gradients, batch_stats, sums = loss_gradients(state, enlarged, labels, net=net)
        loss = sums.loss / sums.count
        return loss, gradients, update(state, gradients, batch_stats, optimizer)

    def named(norms, variables, kind):
        """Returns tensors of a kind by PyTorch name, and the reference's norms."""
        tensors = {n: x for n, x in to_torch(variables, layers).items() if kind(n)}
        return tensors, dict(zip(sorted(tensors), norms, strict=True))

    prefix = f"train/{fusion}/{mask}/"
    expected = {key.removeprefix(prefix): figures[key] for key in figures if key.startswith(prefix)}
    state = create_state(jax.tree.map(jnp.asarray, variables), optimizer)
    losses = []
    for number in range(golden.STEPS):
        batch, draws = golden.training_inputs(mask, number)
        draws = golden.swap_layout(mask, draws)
        loss, gradients, state = step(state, *golden.to_network(batch), batch.labels, draws)
        losses.append(float(loss))
        if number == 0:
            case = f"{fusion} {mask}, first step"
            check(f"{case}: loss", loss, expected["losses"][0], 1e-10)
            tensors = {"params": gradients, "batch_stats": state.batch_stats}
            orders = [named(norms, tensors, is_parameter) for norms in expected["gradient_norms"]]
            closest = min(orders, key=lambda pair: golden.norm_deviation(*pair))
            check_norms(f"{case}: gradients", *closest, 1e-10)
            compared = named(expected["statistics_norms"], tensors, is_statistic)
            check_norms(f"{case}: statistics", *compared, 1e-10)
    deviation = np.maximum(expected["own_loss_deviation"], 1e-13)  # of the reference from itself
    for number, loss in enumerate(losses):
        bound = 100 * deviation[number]
        check(f"{fusion} {mask}, loss {number}", loss, expected["losses"][number], bound)
    bound = 100 * max(float(expected["own_state_deviation"]), 1e-13)
    compared = named(expected["state_norms"], state.variables, is_stored)
    check_norms(f"{fusion} {mask}, state after {golden.STEPS} steps", *compared, bound)
