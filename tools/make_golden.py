"""Runs the reference in float64 on seeded weights and inputs; writes figures for the tests.

python tools/make_golden.py --reference PATH

Needs PyTorch and a clone of the reference. The tests need neither: they recreate the weights from
names and shapes.
"""

import sys
from pathlib import Path

import golden
import numpy as np
import reference
from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.progress import progress_bar

SEED = 0


def evaluation_figures(fusion: str, heads: int, steps: int) -> dict[str, np.ndarray]:
    """Returns logits; for the shortest sound also the features before fusion."""
    model = reference.Reference(fusion, heads, golden.NUM_FRAMES, SEED)
    batch = golden.inputs(steps, 2 if steps == 156 else 1, steps)
    prefix = f"eval/{fusion}/{heads}/{steps}"
    figures = {f"{prefix}/logits": model.logits(batch)}
    if steps == 40 and heads == 1 and fusion == "ia":
        figures |= {f"{prefix}/{name}": x for name, x in model.features(batch).items()}
    return figures


def training_figures(fusion: str, mask: str) -> dict[str, np.ndarray]:
    """Returns losses, first gradients, final state and the reference's rounding.

    The rounding is the deviation between two runs whose enlarged batches are in opposite orders.
    softhard's gradients deviate by up to about 1e-10, so both orders' norms are stored.
    """
    model, reversed_model = (
        reference.Reference(fusion, 1, golden.NUM_FRAMES, SEED) for _ in range(2)
    )
    prefix = f"train/{fusion}/{mask}"
    figures, losses, reversed_losses = {}, [], []
    for step in range(golden.STEPS):
        batch, draws = golden.training_inputs(mask, step)
        loss, logits = model.train_step(mask, batch, draws)
        losses.append(loss)
        reversed_losses.append(reversed_model.train_step(mask, batch, draws, reverse=True)[0])
        if step == 0:
            figures[f"{prefix}/logits"] = logits
            orders = [norms(peer.gradients()) for peer in (model, reversed_model)]
            figures[f"{prefix}/gradient_norms"] = np.stack(orders)
            figures[f"{prefix}/statistics_norms"] = norms(statistics(model.state_dict()))
    final, final_reversed = norms(model.state_dict()), norms(reversed_model.state_dict())
    figures[f"{prefix}/losses"] = np.array(losses)
    figures[f"{prefix}/state_norms"] = final
    figures[f"{prefix}/own_loss_deviation"] = np.abs(np.subtract(reversed_losses, losses))
    deviation = np.abs(final_reversed - final) / np.maximum(final, 1e-300)
    figures[f"{prefix}/own_state_deviation"] = deviation.max()
    return figures


def statistics(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the running statistics of a state_dict."""
    return {name: x for name, x in state_dict.items() if ".running_" in name}


def norms(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Returns norms of tensors in the order of their names, without counters."""
    names = sorted(name for name in tensors if not name.endswith("num_batches_tracked"))
    return np.array([np.linalg.norm(tensors[name]) for name in names])


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("reference", None, "Clone of the reference.", flag_values=values)
    flags.DEFINE_string("out", str(golden.FIGURES), "File to write.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Computes and writes the figures."""
    if positional or not values.reference:
        raise InputError("give --reference PATH, a clone of the reference, and nothing else")
    reference.use(Path(values.reference))
    figures: dict[str, np.ndarray] = {}
    for case in progress_bar(golden.EVALUATIONS, desc="evaluation"):
        figures |= evaluation_figures(*case)
    for fusion, mask in progress_bar(golden.TRAININGS, desc="training"):
        figures |= training_figures(fusion, mask)
    out = Path(values.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **figures)
    temporary.replace(out)
    print(f"{out}: {len(figures)} figures, {out.stat().st_size} bytes")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    return cli.run(argv, define_flags, job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
