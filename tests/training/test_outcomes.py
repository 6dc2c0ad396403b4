"""Which clips count, which streams the network gets, and which temperature applies."""

import numpy as np
import pytest

from avjax.models.audio_visual import AudioVisualNet
from avjax.models.mel_net import MelNet
from avjax.models.network import CONDITIONS
from avjax.models.single_modality import VideoNet
from avjax.training.calibration import fit_temperature, log_tempered, mean_loss
from avjax.training.outcomes import alone_conditions, fit_temperatures, outcomes

BOTH, MEL, VIDEO = AudioVisualNet(3), MelNet(3, 8, (4,)), VideoNet(3)
N = 60
# A third of the clips has both streams, a third sound only, a third video only.
PRESENT = {"audio": np.arange(N) % 3 < 2, "video": np.arange(N) % 3 != 1}
ROWS = {"both": np.arange(0, N, 3), "audio": np.arange(1, N, 3), "video": np.arange(2, N, 3)}


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(1).integers(0, 3, N)


def logits_of(net, labels):
    rng = np.random.default_rng(0)
    right = 2 * np.eye(3)[labels]
    return {name: right + rng.normal(0, 2, (N, 3)) for name in net.conditions}


def test_a_temperature_is_fitted_where_the_network_gets_these_streams(labels):
    logits = logits_of(BOTH, labels)
    expected = {
        streams: fit_temperature(logits[name][rows], labels[rows])
        for streams, name, rows in (
            ("both", "audiovisual", ROWS["both"]),
            ("audio", "audio_only/zeros", np.flatnonzero(PRESENT["audio"])),
            ("video", "video_only/zeros", np.flatnonzero(PRESENT["video"])),
        )
    }
    fitted = fit_temperatures(BOTH, logits, PRESENT, labels)
    assert fitted == pytest.approx(expected, abs=1e-4)
    sound_only = {"audio": PRESENT["audio"], "video": np.zeros(N, bool)}
    assert list(fit_temperatures(BOTH, logits, sound_only, labels)) == ["audio"]


@pytest.mark.parametrize(("net", "stream"), [(MEL, "audio"), (VIDEO, "video")])
def test_a_network_of_one_stream_has_one_temperature(net, stream, labels):
    logits = logits_of(net, labels)
    present = {"audio": np.ones(N, bool), "video": np.ones(N, bool)}
    temperatures = fit_temperatures(net, logits, present, labels)
    assert list(temperatures) == [stream]
    for name, outcome in outcomes(net, logits, present, temperatures).items():
        np.testing.assert_allclose(
            outcome.calibrated, log_tempered(logits[name], temperatures[stream])
        )
    assert alone_conditions(net) == (f"{stream}_only/zeros",)


@pytest.mark.parametrize(
    ("condition", "expected"),  # of clips with both streams, sound only, video only
    [
        ("audiovisual", (2.0, 3.0, 5.0)),
        ("audio_only/zeros", (3.0, 3.0, None)),
        ("audio_only/noise", (2.0, 2.0, None)),  # the network gets noise as it gets video
        ("audio_only/addnoise", (2.0, 3.0, None)),
        ("video_only/zeros", (5.0, None, 5.0)),
        ("video_only/noise", (2.0, None, 2.0)),
        ("video_only/addnoise", (2.0, None, 5.0)),
    ],
)
def test_temperature_of_each_condition(condition, expected, labels):
    logits = logits_of(BOTH, labels)
    results = outcomes(BOTH, logits, PRESENT, {"both": 2.0, "audio": 3.0, "video": 5.0})
    assert list(results) == list(CONDITIONS)
    outcome = results[condition]
    for rows, temperature in zip(ROWS.values(), expected, strict=True):
        assert outcome.counts[rows].all() == (temperature is not None)
        if temperature:
            values = log_tempered(logits[condition][rows], temperature)
            np.testing.assert_allclose(outcome.calibrated[rows], values)
    np.testing.assert_allclose(outcome.raw, log_tempered(logits[condition], 1.0))
    figures = outcome.figures(labels)
    loss = mean_loss(outcome.calibrated[outcome.counts], labels[outcome.counts])
    assert figures["calibrated"]["loss"] == loss


def test_figures_are_calibrated_only_if_all_clips_are(labels):
    results = outcomes(BOTH, logits_of(BOTH, labels), PRESENT, {"both": 2.0, "audio": 3.0})
    assert "calibrated" not in results["audiovisual"].figures(labels)
    assert "calibrated" in results["audio_only/zeros"].figures(labels)
    assert 0 <= results["audiovisual"].figures(labels)["calibration_error"] <= 1
    assert alone_conditions(BOTH) == ("audiovisual", "audio_only/zeros", "video_only/zeros")
