"""Compares avjax with the reference on the same random weights and batches.

python tools/compare_reference.py --reference PATH [--seed N]

Needs PyTorch and a clone of the reference, whose model and training function run unchanged. Every
call draws new weights and inputs; --seed repeats a call. Exits with status 1 if a bound is
exceeded.
"""

import functools
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import golden
import jax
import jax.numpy as jnp
import numpy as np
import reference
from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.models.audio_visual import AudioVisualNet
from avjax.models.variables import variable_shapes
from avjax.training.modality_dropout import draw, enlarge_from_draws
from avjax.training.optimizer import sgd
from avjax.training.step import (
    StepConfig,
    create_state,
    loss_gradients,
    network_inputs,
    step_keys,
    train_step,
)
from avjax.weights.conversion import to_state_dict
from avjax.weights.key_maps import audio_visual_layers
from avjax.weights.rules import to_flax, to_torch

BATCH = 2


class Row(NamedTuple):
    """A comparison: its name, the deviation and the allowed bound."""

    name: str
    deviation: float
    bound: float


def load(peer: reference.Reference) -> tuple[AudioVisualNet, dict[str, Any]]:
    """Converts the reference's model to avjax in float64."""
    net = AudioVisualNet(golden.NUM_CLASSES, peer.fusion, peer.num_heads)
    layers = audio_visual_layers(peer.fusion)
    return net, to_flax(peer.state_dict(), layers, variable_shapes(net), "the reference")


def compare_evaluation(fusion: str, heads: int, seed: int) -> Iterator[Row]:
    """Compares evaluation logits for several lengths of sound, in both precisions."""
    peer = reference.Reference(fusion, heads, golden.NUM_FRAMES, seed)
    net, variables = load(peer)
    apply = jax.jit(net.apply)
    for steps in (40, 156, 300):
        batch = golden.inputs(seed + steps, BATCH, steps)
        expected = peer.logits(batch)
        mfcc, frames = golden.to_network(batch)
        case = f"logits, {fusion}, {heads} heads, {steps} MFCC steps"
        yield Row(case, golden.deviation(apply(variables, mfcc, frames), expected), 1e-12)
        single = jax.tree.map(np.float32, (variables, mfcc, frames))
        yield Row(f"{case}, float32", golden.deviation(apply(*single), expected), 1e-4)
    network = {"kind": "audio_visual", "fusion": fusion}
    peer.load(to_state_dict(variables, network))
    yield Row(f"{case}, exported", golden.deviation(peer.logits(batch), expected), 0.0)


def compare_training(fusion: str, mask: str, seed: int) -> Iterator[Row]:
    """Compares a training step: loss, gradients, running statistics, updated parameters.

    The reference's gradients depend on the order of its enlarged batch: black frames give many
    BatchNorms equal rows, which amplifies rounding. It runs in two orders; the closer one counts.
    """
    peer = reference.Reference(fusion, 1, golden.NUM_FRAMES, seed)
    net, variables = load(peer)
    layers = audio_visual_layers(fusion)
    trained = net.trained(variables["params"])
    optimizer = sgd(golden.LEARNING_RATE, **golden.SGD, trained=trained)
    config = StepConfig(mask, augment="")
    inputs = golden.inputs(seed, BATCH)
    mfcc, _ = golden.to_network(inputs)
    present = np.ones(BATCH, bool)
    batch = {
        "audio": mfcc,
        "frames": inputs.frames,
        "label": inputs.labels,
        "has_audio": present,
        "has_video": present,
        "weight": np.ones(BATCH),
    }

    @jax.jit
    def step(state, batch, key):
        augment_key, mask_key = step_keys(key, state.step)
        network = network_inputs(batch, config, "reference", augment_key, None)
        draws = draw(mask, mask_key, *network)
        enlarged = enlarge_from_draws(mask, draws, *network, batch["weight"])
        gradients, _, _ = loss_gradients(state, enlarged, batch["label"], net=net)
        whole_step = functools.partial(
            train_step, net=net, optimizer=optimizer, config=config, profile="reference"
        )
        return gradients, draws, *whole_step(state, batch, key)

    state = create_state(jax.tree.map(jnp.asarray, variables), optimizer)
    gradients, draws, state, sums = step(state, batch, jax.random.key(seed))
    draws = golden.swap_layout(mask, draws)
    loss, _ = peer.train_step(mask, inputs, draws)
    expected_state, expected_gradients = peer.state_dict(), peer.gradients()
    reversed_peer = reference.Reference(fusion, 1, golden.NUM_FRAMES, seed)
    reversed_peer.train_step(mask, inputs, draws, reverse=True)
    actual = to_torch({"params": gradients, "batch_stats": state.batch_stats}, layers)
    updated = to_torch(state.variables, layers)
    case = f"step, {fusion}, {mask}"
    yield Row(f"{case}: loss", golden.deviation(sums.loss / sums.count, loss), 1e-10)
    orders = (expected_gradients, reversed_peer.gradients())
    norms = [{n: float(np.linalg.norm(x)) for n, x in tensors.items()} for tensors in orders]
    yield Row(f"{case}: reference to itself", golden.norm_deviation(orders[1], norms[0]), np.inf)
    closest = min(golden.norm_deviation(actual, expected) for expected in norms)
    yield Row(f"{case}: gradient norms", closest, 1e-10)
    closest = min(largest_deviation(actual, expected) for expected in orders)
    yield Row(f"{case}: gradients", closest, 1e-9)
    statistics = {name: x for name, x in expected_state.items() if ".running_" in name}
    yield Row(f"{case}: statistics", largest_deviation(actual, statistics), 1e-10)
    parameters = {name: expected_state[name] for name in expected_gradients}
    yield Row(f"{case}: updated parameters", largest_deviation(updated, parameters), 1e-9)


def largest_deviation(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Returns the largest deviation over tensors, ignoring those that are only rounding."""
    peak = max(np.abs(x).max() for x in expected.values())
    return max(
        golden.deviation(actual[name], x)
        for name, x in expected.items()
        if np.abs(x).max() > golden.ROUNDING * peak
    )


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("reference", None, "Clone of the reference.", flag_values=values)
    flags.DEFINE_integer("seed", None, "Seed of a call to repeat.", 0, flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Prints all comparisons."""
    if positional or not values.reference:
        raise InputError("give --reference PATH, a clone of the reference, and nothing else")
    reference.use(Path(values.reference))
    seed = secrets.randbelow(1 << 31) if values.seed is None else values.seed
    print(f"seed {seed}")
    exceeded = 0
    with jax.enable_x64(True):
        for compare, first, second in [
            *((compare_evaluation, fusion, n) for fusion in golden.FUSIONS for n in golden.HEADS),
            *((compare_training, *case) for case in golden.TRAININGS),
        ]:
            for row in compare(first, second, seed):
                exceeded += not row.deviation <= row.bound
                print(f"{row.name:56}{row.deviation:9.1e}  bound {row.bound:.0e}", flush=True)
    print(f"{exceeded} bounds exceeded" if exceeded else "all within their bounds")
    return int(exceeded > 0)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    return cli.run(argv, define_flags, job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
