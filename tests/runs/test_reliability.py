"""The report's section on calibration."""

import re

import numpy as np
import pytest

from avjax.runs import report
from avjax.runs.report import reliability

RAW = [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]]
CALIBRATED = [[0.7, 0.3], [0.7, 0.3], [0.3, 0.7], [0.45, 0.55]]
TRUTH = ("low", "high", "high", "high")


def evaluation(calibrated=True):
    figures = {"accuracy": 0.75, "macro_f1": 0.7, "loss": 0.81, "confusion": [[1, 0], [1, 2]]}
    after = {"calibrated": {"loss": 0.5, "calibration_error": 0.125}} if calibrated else {}
    clips = {
        f"clip-{k}": {
            "truth": TRUTH[k],
            "speaker": "1",
            "probabilities": {"audiovisual": RAW[k]},
            **({"calibrated": {"audiovisual": CALIBRATED[k]}} if calibrated else {}),
        }
        for k in range(4)
    }
    return {
        "split": "test",
        "num_clips": 4,
        "classes": ["low", "high"],
        "temperatures": {"both": 2.5, "audio": 1.25} if calibrated else {},
        "conditions": {"audiovisual": {**figures, "calibration_error": 0.275, **after}},
        "clips": clips,
    }


def test_points_are_accuracy_by_confidence():
    (axes,) = reliability.reliability_figure(evaluation()).axes
    diagonal, raw, calibrated = axes.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    np.testing.assert_allclose(raw.get_xydata(), [[0.6, 1], [0.9, 2 / 3]])
    np.testing.assert_allclose(calibrated.get_xydata(), [[0.55, 1], [0.7, 2 / 3]])
    small, large = axes.collections[0].get_sizes()
    assert small < large


@pytest.mark.parametrize(
    ("calibrated", "cells", "caption", "lines"),
    [
        (True, ["27.5%", "12.5%", "0.810", "0.500"], "validation split: both 2.5, audio 1.25.", 3),
        (False, ["27.5%", "-", "0.810", "-"], "The model is not calibrated.", 2),
    ],
)
def test_section_compares_raw_and_calibrated(calibrated, cells, caption, lines):
    content = evaluation(calibrated)
    section = reliability.reliability_section(content)
    assert re.findall("<td>(.*?)</td>", section) == ["audiovisual", *cells]
    assert caption in section
    assert len(reliability.reliability_figure(content).axes[0].lines) == lines
    assert ">Calibration</h2>" in report.render({"name": "run"}, [], content)


def test_evaluations_of_earlier_versions_have_no_section():
    content = evaluation()
    del content["clips"], content["temperatures"]
    assert reliability.reliability_section(content) == ""
    assert "Calibration" not in report.render({"name": "run"}, [], content)
