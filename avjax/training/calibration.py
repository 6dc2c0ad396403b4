"""Calibration of probabilities by a temperature (Guo et al., ICML 2017, arXiv 1706.04599)."""

import numpy as np
from jaxtyping import Float, Int

# Without bounds a set without errors would ask for a temperature of 0, and a hopeless one for
# infinity: the likelihood then has no maximum.
LOWEST, HIGHEST = 0.25, 16.0
_HALVINGS = 60  # to the last bit of a float64
_BINS = 15  # as in the paper


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]) -> float:
    """Returns the temperature that minimises the mean negative log likelihood of the labels.

    The likelihood is convex in 1 / T, so halving the interval finds its only minimum.

    Args:
      logits: of n >= 1 clips; or log probabilities, such as the mean ones of an ensemble.
      labels: their classes.

    Returns:
      The temperature, from `LOWEST` to `HIGHEST`; 1 if all clips' logits are constant.
    """
    logits = np.asarray(logits, np.float64)
    excess = logits - np.take_along_axis(logits, labels[:, None], 1)  # over the true class

    def slope(inverse: float) -> float:
        return float((tempered(logits, 1 / inverse) * excess).sum(1).mean())

    if not excess.any():
        return 1.0
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2 / (low + high)


def log_tempered(
    logits: Float[np.ndarray, "n k"], temperature: float | Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n k"]:
    """Returns the logarithm of `tempered`, which is finite where that rounds to 0."""
    scaled = np.asarray(logits, np.float64) / np.reshape(temperature, (-1, 1))
    scaled -= scaled.max(1, keepdims=True, initial=-np.inf)
    return scaled - np.log(np.exp(scaled).sum(1, keepdims=True))


def tempered(
    logits: Float[np.ndarray, "n k"], temperature: float | Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n k"]:
    """Returns the probabilities ``softmax(logits / temperature)`` in float64.

    Args:
      logits: of n clips.
      temperature: of all clips, or of each; a clip's is NaN if it has none, and so are its
        probabilities.
    """
    return np.exp(log_tempered(logits, temperature))


def mean_loss(log_probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]) -> float:
    """Returns the mean negative log likelihood of the labels in nats."""
    return float(-np.take_along_axis(log_probabilities, labels[:, None], 1).mean())


def calibration_error(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"], bins: int = _BINS
) -> float:
    """Returns the expected calibration error: the mean gap of `reliability`, weighted by clips."""
    counts, confidence, accuracy = reliability(probabilities, labels, bins)
    gaps = np.abs(confidence - accuracy)
    return float((counts * np.nan_to_num(gaps)).sum() / len(labels))


def reliability(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"], bins: int = _BINS
) -> tuple[Int[np.ndarray, "{bins}"], Float[np.ndarray, "{bins}"], Float[np.ndarray, "{bins}"]]:
    """Returns clips, mean confidence and accuracy in equally wide intervals of confidence.

    A clip's confidence is its highest probability. Intervals include their upper end; confidence
    and accuracy of an empty one are NaN.
    """
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(places, x, bins) / counts for x in (confidence, hits)]
    return counts, means[0], means[1]
