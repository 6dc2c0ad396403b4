"""The commands that compare avjax with the reference."""

import compare_preparation
import compare_reference
import golden
import make_golden
import numpy as np
import pytest


@pytest.mark.parametrize("command", [compare_reference, make_golden])
def test_missing_clone_of_the_reference_is_an_error(tmp_path, capsys, command):
    assert command.main(["compare"]) == 1
    assert "give --reference PATH" in capsys.readouterr().err
    assert command.main(["compare", f"--reference={tmp_path}"]) == 1
    assert f"{tmp_path} lacks models/multimodalcnn.py, train.py; clone" in capsys.readouterr().err


def test_empty_folder_is_an_error(tmp_path, capsys):
    assert compare_preparation.main(["compare", f"--ravdess={tmp_path}"]) == 1
    captured = capsys.readouterr()
    assert "not compared, for want of files or packages: crops" in captured.out
    assert f"{tmp_path} holds nothing to compare" in captured.err


@pytest.mark.slow
@pytest.mark.ravdess
def test_rotation_of_real_crops(shared_dir):
    assert compare_preparation.compare_rotation(shared_dir / "ravdess")


def test_deviation_and_norm_deviation():
    assert golden.deviation([1.0, 2.0], [1.0, 4.0]) == 0.5
    expected = {"a": 5.0, "zero": 1e-12}
    actual = {"a": np.array([3.0, 4.0]), "zero": np.array([5e-12])}
    # The deviation of a rounding error is relative to a thousandth of the largest norm.
    assert golden.norm_deviation(actual, expected) == pytest.approx(4e-12 / 5e-3)
    assert golden.norm_deviation({**actual, "a": np.array([5.5])}, expected) == pytest.approx(0.1)


def test_weights_depend_only_on_name_shape_and_seed():
    shapes = {"x.weight": (4, 3), "y.bias": (4,), "y.running_var": (4,)}
    first = golden.weights(shapes, 0)
    second = golden.weights(dict(reversed(shapes.items())), 0)
    for name, x in first.items():
        np.testing.assert_array_equal(x, second[name])
    assert not np.array_equal(first["x.weight"], golden.weights(shapes, 1)["x.weight"])
    assert (first["y.running_var"] > 0.4).all()
