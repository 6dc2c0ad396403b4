"""How sure an accuracy is: bootstrap intervals over speakers, and exact paired tests."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

_RESAMPLES = 4000
_SEED = 0  # the same clips have the same interval in every report


def accuracy_interval(hits: Bool[np.ndarray, "n"], speakers: Sequence[str]) -> tuple[float, float]:
    """Returns a 95 % bootstrap interval of the accuracy, over speakers and their clips.

    Clips of one speaker are alike, so speakers are drawn with replacement, then as many clips of
    each as there are (two-stage bootstrap; Davison and Hinkley 1997, section 3.8). The hits among
    a speaker's redrawn clips are binomial. With one speaker the interval is over clips alone.

    Args:
      hits: whether each of n >= 1 clips is classified correctly.
      speakers: who speaks in each.
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(speakers))}
    who = np.array([names[name] for name in speakers])
    clips = np.bincount(who)
    rates = np.bincount(who, hits) / clips
    rng = np.random.default_rng(_SEED)
    drawn = rng.integers(len(clips), size=(_RESAMPLES, len(clips)))
    accuracies = rng.binomial(clips[drawn], rates[drawn]).sum(1) / clips[drawn].sum(1)
    low, high = np.quantile(accuracies, (0.025, 0.975))
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test.

    If both models are equally accurate, each clip that just one of them gets right is that of
    either with probability 1/2.

    Args:
      only_first: number of clips that only the first model gets right.
      only_second: number of clips that only the second gets right.
    """
    total = only_first + only_second
    tail = sum(math.comb(total, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**total)
