"""Export to PyTorch."""

import dataclasses
import importlib.util
import re

import numpy as np
import pytest

from avjax.errors import InputError
from avjax.runs.saved_model import load_model, save_model
from avjax.weights.conversion import convert, to_state_dict
from tests.torch_files import save
from tests.weights.test_conversion import whole_model
from tools import convert_efficientface, export_pytorch


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A converted model's directory and the tensors that it was made from."""
    folder = tmp_path_factory.mktemp("export")
    tensors = whole_model("ia")
    source = save(folder / "model.pth", tensors)
    assert convert_efficientface.main(["convert", str(source), str(folder / "model")]) == 0
    return folder / "model", tensors


def run(*arguments):
    return export_pytorch.main(["export", *map(str, arguments)])


@pytest.mark.torch
def test_export_restores_the_converted_tensors(torch, converted, tmp_path, capsys):
    model, tensors = converted
    assert run(model, tmp_path / "out.pth") == 0
    assert "MultiModalCNN(num_classes=8, fusion='ia', seq_length=15, num_heads=1)" in (
        capsys.readouterr().out
    )
    exported = torch.load(tmp_path / "out.pth", weights_only=True)
    assert set(exported) == set(tensors)
    for name, x in tensors.items():
        np.testing.assert_array_equal(exported[name].numpy(), x, err_msg=name, strict=True)
    assert convert(tmp_path / "out.pth").network["fusion"] == "ia"


@pytest.mark.torch
def test_checkpoint_has_the_reference_format(torch, converted, tmp_path):
    model, tensors = converted
    assert run(model, tmp_path / "out.pth", "--checkpoint") == 0
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert set(content) == {"epoch", "arch", "state_dict", "best_prec1"}
    assert content["arch"] == "multimodalcnn"
    assert set(content["state_dict"]) == set(tensors)


def test_wrong_arguments_are_refused(converted, tmp_path, capsys):
    model, _ = converted
    assert run(model) == 1
    assert "give a run or converted checkpoint" in capsys.readouterr().err
    assert run(model, tmp_path) == 1
    assert f"cannot write {tmp_path}" in capsys.readouterr().err
    assert run(tmp_path / "absent", tmp_path / "out.pth") == 1
    assert "no checkpoint at" in capsys.readouterr().err


def test_missing_torch_is_an_error_with_a_remedy(converted, tmp_path, capsys):
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("PyTorch is installed")
    assert run(converted[0], tmp_path / "out.pth") == 1
    assert "pip install torch" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"kind": "log_mel"}, "cannot build a network from .*log_mel"),
        ({"kind": "novel"}, "unknown network"),
        ({"kind": "audio_visual", "fusion": "gated"}, "unknown fusion 'gated'"),
        ({"fusion": "gated"}, "unknown fusion 'gated'"),
        ({"kind": "audio_visual", "fusion": "it"}, "missing params/av1/attn/kv/kernel.*unexpected"),
    ],
)
def test_network_that_the_reference_lacks_is_refused(converted, tmp_path, capsys, network, message):
    """Even if its parts have the same names as another fusion's."""
    variables, card = load_model(converted[0])
    network = {**network, "num_classes": 8, "num_heads": 1}
    save_model(tmp_path / "model", variables, dataclasses.replace(card, network=network))
    assert run(tmp_path / "model", tmp_path / "out.pth") == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "out.pth").exists()


def test_layer_missing_from_the_key_map_is_refused(converted):
    variables, card = load_model(converted[0])
    variables["params"]["gate"] = {"kernel": np.ones((2, 2))}
    with pytest.raises(InputError, match=r"fusion=ia.*: unexpected params/gate/kernel; choose"):
        to_state_dict(variables, card.network)
