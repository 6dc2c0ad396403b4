"""Each clip's probabilities under each condition, raw and calibrated."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from avjax.models.network import UNDISTURBED, Network
from avjax.training import conditions
from avjax.training.calibration import calibration_error, fit_temperature, log_tempered, mean_loss

Logits = Mapping[str, Float[np.ndarray, "n k"]]  # by condition
Present = Mapping[str, Bool[np.ndarray, "n"]]  # whether the clips have `audio` and `video`

# By the streams that the network gets, the condition whose clips determine the temperature.
_CALIBRATED_ON = {"both": UNDISTURBED, "audio": "audio_only/zeros", "video": "video_only/zeros"}


class Outcome(NamedTuple):
    """The clips under one condition.

    Attributes:
      counts: whether the clip counts in the condition.
      raw: log probabilities.
      calibrated: log probabilities at the temperature of the clip's streams; NaN without one.
    """

    counts: Bool[np.ndarray, "n"]
    raw: Float[np.ndarray, "n k"]
    calibrated: Float[np.ndarray, "n k"]

    def figures(self, labels: Int[np.ndarray, "n"]) -> dict[str, Any]:
        """Returns ``calibration_error``, and ``calibrated`` with ``loss`` and the same.

        The latter only if all clips that count are calibrated.
        """
        labels, raw, calibrated = (x[self.counts] for x in (labels, self.raw, self.calibrated))
        figures: dict[str, Any] = {"calibration_error": calibration_error(np.exp(raw), labels)}
        if np.isfinite(calibrated).all():
            figures["calibrated"] = {
                "loss": mean_loss(calibrated, labels),
                "calibration_error": calibration_error(np.exp(calibrated), labels),
            }
        return figures


def alone_conditions(net: Network) -> tuple[str, ...]:
    """Returns the undisturbed condition, and those where a stream is heard or seen alone."""
    zeros = [name for name in net.conditions if name.endswith("_only/zeros")]
    return tuple(dict.fromkeys([net.conditions[0], *zeros]))


def outcomes(
    net: Network, logits: Logits, present: Present, temperatures: Mapping[str, float]
) -> dict[str, Outcome]:
    """Returns the outcome of each condition.

    Args:
      net: the network.
      logits: the clips' logits by condition.
      present: the streams that the clips have.
      temperatures: by streams, as in a model's card.
    """
    results = {}
    for name, values in logits.items():
        streams = _streams(net, name, present)
        by_clip = np.array([temperatures.get(x, np.nan) for x in streams])
        counts = np.asarray(conditions.counting(name, net.inputs.streams, present))
        results[name] = Outcome(counts, log_tempered(values, 1.0), log_tempered(values, by_clip))
    return results


def fit_temperatures(
    net: Network, logits: Logits, present: Present, labels: Int[np.ndarray, "n"]
) -> dict[str, float]:
    """Fits a temperature for the clips that have both streams, sound alone and video alone.

    Args:
      net: the network; of one stream, it has one temperature.
      logits: the validation clips' logits by condition.
      present: the streams that the clips have.
      labels: the clips' classes.

    Returns:
      By `both`, `audio`, `video`, to four digits; those for which there is no clip are left out.
    """
    temperatures = {}
    for streams, name in _CALIBRATED_ON.items():
        if name not in logits:
            continue
        rows = conditions.counting(name, net.inputs.streams, present)
        rows = rows & (_streams(net, name, present) == streams)
        if rows.any():
            temperatures[streams] = round(fit_temperature(logits[name][rows], labels[rows]), 4)
    return temperatures


def _streams(net: Network, condition: str, present: Present) -> np.ndarray:
    """Returns the streams that the network gets of each clip: `both`, `audio`, `video` or empty."""
    given = conditions.given(condition, net.inputs.streams, present)
    names = np.array([["", "video"], ["audio", "both"]])
    return names[given["audio"].astype(int), given["video"].astype(int)]
