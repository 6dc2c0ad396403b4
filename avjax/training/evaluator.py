"""Compiled evaluation of a network."""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from avjax.data.pipeline import Clips
from avjax.models.networks import Network
from avjax.runtime.devices import Parallel
from avjax.training import conditions, metrics

NOISE_SEED = 0  # noise is keyed by clip below this, so figures are the same on every run


class Evaluator:
    """Compiled evaluation of one network; compiles once for any number of epochs.

    Each device scores whole batches of `conditions.BATCH_SIZE` clips in split order, and their sums
    are added in that order, so figures do not depend on the number of devices.
    """

    def __init__(self, net: Network, profile: str, parallel: Parallel) -> None:
        """Evaluates ``net`` on frames of ``profile``, on the devices of ``parallel``."""
        self._net = net
        self._parallel = parallel

        def score_all(variables: Any, batch: Any) -> Any:
            key = jax.random.key(NOISE_SEED)
            return conditions.eval_conditions_step(variables, batch, key, net=net, profile=profile)

        clean = functools.partial(conditions.eval_step, net=net, profile=profile)
        self._clean = parallel.compile_eval_step(clean, by_row=True)
        self._all = parallel.compile_eval_step(score_all)

    @property
    def batch_size(self) -> int:
        """Clips of a batch over all devices."""
        return self._parallel.mesh.size * conditions.BATCH_SIZE

    def _scored(self, step: Callable, variables: Any, batches: Iterable[Any]) -> Iterator[Any]:
        """What a step finds in each share of a batch, in split order, in all processes."""
        for batch in batches:
            found = step(variables, batch)
            for share in range(len(jax.tree.leaves(found)[0])):
                yield jax.tree.map(operator.itemgetter(share), found)

    def clean(self, variables: Any, batches: Iterable[Any]) -> dict[str, float]:
        """Loss, accuracy and macro F1 of undisturbed clips.

        Args:
          variables: replicated.
          batches: of `batch_size` clips in split order, on the devices.
        """
        total = metrics.zeros(self._net.num_classes)
        for sums in self._scored(self._clean, variables, batches):
            total = metrics.add(total, sums)
        return metrics.summarise(total)

    def conditions(
        self, variables: Any, clips: Clips
    ) -> tuple[dict[str, Any], Int[np.ndarray, "n"]]:
        """Scores of every condition that makes sense for the network.

        Args:
          variables: replicated.
          clips: to score.

        Returns:
          Clips that count, loss, accuracy, macro F1 and confusion matrix by condition, without
          those in which no clip counts; and the class called for each undisturbed clip.
        """
        totals = dict.fromkeys(
            conditions.conditions_of(self._net), metrics.zeros(self._net.num_classes)
        )
        called = []
        batches = clips.batches(self.batch_size, **self._parallel.share)
        placed = map(self._parallel.split, batches)
        for scored in self._scored(self._all, variables, placed):
            totals = {name: metrics.add(sums, scored[name].sums) for name, sums in totals.items()}
            called.append(scored[next(iter(totals))].called)
        found = {
            name: {
                "num_clips": int(sums.count),
                **metrics.summarise(sums),
                "confusion": np.asarray(sums.confusion, int).tolist(),
            }
            for name, sums in totals.items()
            if sums.count
        }
        return found, np.concatenate(called)[: len(clips)]
