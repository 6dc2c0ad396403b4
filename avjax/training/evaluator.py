"""Compiled evaluation of a network."""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from avjax.data.feed import Feed
from avjax.data.pipeline import Clips
from avjax.models.network import Network
from avjax.runtime import multihost
from avjax.runtime.devices import Parallel
from avjax.runtime.signals import StopRequest
from avjax.training import conditions, metrics

NOISE_SEED = 0  # fixed, and noise is keyed by clip: every evaluation draws the same noise


class Evaluator:
    """Evaluates one network; compiles once for all epochs.

    Each device scores whole batches of `conditions.BATCH_SIZE` clips in split order. Their sums are
    added in that order, so scores do not depend on the number of devices.

    Attributes:
      net: the network.
    """

    def __init__(self, net: Network, profile: str, parallel: Parallel) -> None:
        """Compiles nothing before the first call.

        Args:
          net: the network.
          profile: preparation profile of the frames.
          parallel: the devices.
        """
        self.net = net
        self._parallel = parallel

        def all_conditions(variables: Any, batch: Any) -> Any:
            key = jax.random.key(NOISE_SEED)
            return conditions.eval_conditions_step(variables, batch, key, net=net, profile=profile)

        undisturbed = functools.partial(conditions.eval_step, net=net, profile=profile)
        self._undisturbed = parallel.compile_eval_step(undisturbed, by_row=True)
        self._all_conditions = parallel.compile_eval_step(all_conditions)

    @property
    def batch_size(self) -> int:
        """Number of clips per batch, over all devices."""
        return self._parallel.mesh.size * conditions.BATCH_SIZE

    def undisturbed(
        self, variables: Any, clips: Clips, feed: Feed, stop: StopRequest | None = None
    ) -> dict[str, float] | None:
        """Returns loss, accuracy and macro F1 of undisturbed clips, or None if stopped.

        Args:
          variables: replicated.
          clips: the clips to score.
          feed: the feed that holds them.
          stop: checked between batches; several processes agree, as in the training loop.
        """
        total = metrics.zeros(self.net.num_classes)
        rows = self._parallel.local_rows(feed.rows(clips, self.batch_size))
        with feed.batches(list(rows), self._parallel.split) as batches:
            scored = _shares(self._undisturbed, variables, batches)
            for number, sums in enumerate(scored, start=1):
                if stop is not None and any(multihost.agree(number, stop.requested)):
                    return None
                total = metrics.add(total, sums)
        return metrics.summarise(total)

    def all_conditions(
        self, variables: Any, clips: Clips
    ) -> tuple[
        dict[str, Any], dict[str, Float[np.ndarray, "n k"]], dict[str, Float[np.ndarray, "n _"]]
    ]:
        """Scores each of the network's conditions.

        Args:
          variables: in host memory or on one device; all processes pass the same.
          clips: the clips to score.

        Returns:
          By condition, the number of clips that count, loss, accuracy, macro F1 and confusion
          matrix; conditions in which no clip counts are left out. By condition the logits of all
          clips. By stream the attention that it receives in undisturbed clips, see
          `avjax.training.attention.fuse`.

        Raises:
          KeyboardInterrupt: stopped by a signal to any process, between batches.
        """
        names = self.net.conditions
        totals = dict.fromkeys(names, metrics.zeros(self.net.num_classes))
        logits: dict[str, list[np.ndarray]] = {name: [] for name in names}
        received: dict[str, list[np.ndarray]] = {}
        with StopRequest() as stop:
            variables = self._parallel.replicate(variables)
            batches = clips.batches(self.batch_size, **self._parallel.share)
            shares = _shares(self._all_conditions, variables, map(self._parallel.split, batches))
            for number, scored in enumerate(shares, start=1):
                totals = {name: metrics.add(x, scored[name].sums) for name, x in totals.items()}
                for name in names:
                    logits[name].append(scored[name].logits)
                for stream, rows in scored[names[0]].attention.items():
                    received.setdefault(stream, []).append(rows)
                if any(multihost.agree(number, stop.requested)):
                    raise KeyboardInterrupt
            multihost.stop_if_any(stop.requested)
        scores = {
            name: {
                "num_clips": int(sums.count),
                **metrics.summarise(sums),
                "confusion": np.asarray(sums.confusion, int).tolist(),
            }
            for name, sums in totals.items()
            if sums.count
        }
        return (
            scores,
            {name: np.concatenate(logits[name])[: len(clips)] for name in scores},
            {stream: np.concatenate(rows)[: len(clips)] for stream, rows in received.items()},
        )


def _shares(step: Callable, variables: Any, batches: Iterable[Any]) -> Iterator[Any]:
    """Yields a step's results for each device's shard of each batch, in split order."""
    for batch in batches:
        results = step(variables, batch)
        for share in range(len(jax.tree.leaves(results)[0])):
            yield jax.tree.map(operator.itemgetter(share), results)
