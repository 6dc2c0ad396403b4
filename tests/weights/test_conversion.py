"""Conversion of the reference's checkpoints, and its command."""

import functools
import re

import golden
import jax
import numpy as np
import pytest

import avjax
from avjax.errors import InputError
from avjax.models import variables
from avjax.models.audio_visual import AudioVisualNet
from avjax.models.efficientface import STAGE_REPEATS
from avjax.runs.pretrained import initial_variables
from avjax.runs.saved_model import read_model
from avjax.weights import conversion
from avjax.weights.conversion import convert
from avjax.weights.key_maps import audio_visual_layers, backbone_layers, network_layers
from avjax.weights.rules import COUNTER, to_torch
from tests.torch_files import Call, Name, save, write_zip
from tools import convert_efficientface


def state_dict(layers, shapes, seed=0):
    """Returns seeded float32 tensors with PyTorch's names, including counters."""
    empty = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
    names = {name: x.shape for name, x in to_torch(empty, layers).items()}
    arrays = golden.weights(names, seed)
    return {n: x if n.endswith(COUNTER) else np.float32(x) for n, x in arrays.items()}


variable_shapes = functools.cache(variables.variable_shapes)  # a trace takes a second


@pytest.fixture(autouse=True)
def _shapes_are_found_once(monkeypatch):
    monkeypatch.setattr(conversion, "variable_shapes", variable_shapes)


@functools.cache
def _whole_model(fusion, num_classes):
    shapes = variable_shapes(AudioVisualNet(num_classes, fusion))
    return state_dict(audio_visual_layers(fusion), shapes)


def whole_model(fusion="ia", num_classes=8):
    return dict(_whole_model(fusion, num_classes))


def efficientface(num_classes=7):
    """Returns a checkpoint of EfficientFace in its authors' format."""
    shapes = variable_shapes(AudioVisualNet())
    backbone = {name: tree["visual_model"] for name, tree in shapes.items()}
    tensors = state_dict(backbone_layers(STAGE_REPEATS), backbone)
    tensors["fc.weight"] = np.ones((num_classes, 1024), np.float32)
    tensors["fc.bias"] = np.zeros(num_classes, np.float32)
    return {"state_dict": {f"module.{name}": x for name, x in tensors.items()}}


@pytest.mark.parametrize(
    ("fusion", "num_classes", "wrapped", "legacy"),
    [("ia", 8, True, False), ("it", 5, False, True), ("lt", 8, True, True)],
)
def test_whole_models_are_recognised(tmp_path, fusion, num_classes, wrapped, legacy):
    tensors = tree = whole_model(fusion, num_classes)
    if wrapped:  # as saved by the reference's main.py on several GPUs
        prefixed = {f"module.{name}": x for name, x in tensors.items()}
        tree = {"epoch": 35, "arch": "multimodalcnn", "state_dict": prefixed, "best_prec1": 77.08}
        tree["optimizer"] = {"state": {"0": {"momentum_buffer": np.ones(3, np.float32)}}}
    converted = convert(save(tmp_path / "model.pth", tree, legacy))
    network = {"kind": "audio_visual", "fusion": fusion, "num_classes": num_classes}
    assert converted.network == network
    assert converted.epoch == (35 if wrapped else 0)
    restored = to_torch(converted.variables, audio_visual_layers(fusion))
    assert set(restored) == set(tensors)
    for name, x in tensors.items():
        np.testing.assert_array_equal(restored[name], x, err_msg=name)
    assert [route.name for route in converted.routes] == list(tensors)
    left_out = {route.name for route in converted.routes if route.target.startswith("left out")}
    assert left_out == {name for name in tensors if name.endswith(COUNTER)}


@pytest.mark.parametrize(
    ("kind", "prefix"), [("audio", "audio_model."), ("video", "visual_model.")]
)
def test_single_stream_models_are_recognised(tmp_path, kind, prefix):
    tensors = {n.removeprefix(prefix): x for n, x in whole_model().items() if n.startswith(prefix)}
    converted = convert(save(tmp_path / "branch.pth", tensors))
    assert converted.network == {"kind": kind, "num_classes": 8}
    restored = to_torch(converted.variables, network_layers(converted.network))
    assert set(restored) == set(tensors)
    for name, x in tensors.items():
        np.testing.assert_array_equal(restored[name], x, err_msg=name)


def test_float64_and_float16_become_float32(tmp_path):
    for dtype in (np.float64, np.float16):
        tree = {n: x if n.endswith(COUNTER) else dtype(x) for n, x in whole_model().items()}
        variables = convert(save(tmp_path / "model.pth", tree)).variables
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def test_all_tensors_that_do_not_fit_are_listed(tmp_path):
    tensors = whole_model()
    del tensors["audio_model.conv1d_0.0.bias"]
    del tensors["va1.q.weight"]
    tensors["visual_model.extra.weight"] = np.ones(3, np.float32)
    tensors["visual_model.extra.num_batches_tracked"] = np.zeros((), np.int64)
    tensors["classifier_1.0.bias"] = np.ones(7, np.float32)
    with pytest.raises(InputError, match=r"odd\.pth does not fit the network") as error:
        convert(save(tmp_path / "odd.pth", tensors))
    for message in (
        "missing audio_model.conv1d_0.0.bias",
        "missing va1.q.weight",
        "unexpected visual_model.extra.weight",
        "unexpected visual_model.extra.num_batches_tracked",
        "classifier_1.0.bias has shape [7] instead of [8]",
    ):
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([1, 2], "no state_dict"),
        ({}, "no state_dict"),
        ({"state_dict": 3}, "no state_dict"),
        ({"conv1.weight": np.ones((3, 3), np.float32)}, "neither .* nor EfficientFace"),
        ({"audio_model.x": np.ones(3, np.float32)}, "none of the fusions"),
        (
            {"stage2.b": np.ones(3, np.float32), "module.stage2.b": np.ones(3, np.float32)},
            r"differ in prefixes alone: module\.stage2\.b",
        ),
        ({"epoch": 3, "lr": 0.1}, r"no state_dict \(its keys are epoch, lr\)"),
        (Call(Name("__main__", "Net"), 3), r"pickled objects \(Net\).*torch\.save\(model\.state"),
        ({"model": Call(Name("nets", "Net"))}, r"\(nets\.Net\).*save its state_dict"),
        (
            {"model": Call(Name("nets", "Net")), "x": {"head.w": np.ones(3, np.float32)}},
            r"its tensors are head\.w; it also holds pickled objects \(nets\.Net\)",
        ),
    ],
)
def test_other_contents_are_refused(tmp_path, tree, message):
    with pytest.raises(InputError, match=message):
        convert(save(tmp_path / "other.pth", tree))


@pytest.mark.parametrize(
    "head",
    [
        {"module.fc.weight": np.ones((7, 1000), np.float32)},
        {"module.fc.bias": np.ones(5, np.float32)},
        {"module.fc.weight": None},
    ],
)
def test_classifier_of_another_shape_is_refused(tmp_path, head):
    tree = efficientface()
    tensors = {**tree["state_dict"], **head}
    tree["state_dict"] = {name: x for name, x in tensors.items() if x is not None}
    with pytest.raises(InputError, match=r"its classifier is fc\."):
        convert(save(tmp_path / "face.pth.tar", tree))


def backbone_tensors():
    return {n.removeprefix("module."): x for n, x in efficientface()["state_dict"].items()}


def under(prefix, tensors):
    return {f"{prefix}{name}": x for name, x in tensors.items()}


@pytest.mark.parametrize(
    ("key", "prefix"), [("", "module.module."), ("model", "model._orig_mod.net.module.")]
)
def test_wrappings_are_taken_off(tmp_path, key, prefix):
    tensors = backbone_tensors()
    tree = under(prefix, tensors)
    converted = convert(save(tmp_path / "w.pth", {"epoch": 2, key: tree} if key else tree))
    assert converted.network == {"kind": "efficientface"}
    assert [route.name for route in converted.routes] == list(tensors)
    back = to_torch(converted.variables, backbone_layers(STAGE_REPEATS))
    for name, x in back.items():
        np.testing.assert_array_equal(x, tensors[name], err_msg=name)
    assert converted.choice == "" and converted.ignored == ()


def test_of_a_model_and_its_average_the_model_is_taken(tmp_path):
    average = {name: np.zeros_like(x) for name, x in backbone_tensors().items()}
    tree = {"ema": {"module": average}, "net": backbone_tensors()}
    converted = convert(save(tmp_path / "ema.pth", tree))
    assert converted.choice == "took net rather than ema.module"
    kernel = converted.variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, tree["net"]["conv1.0.weight"].transpose(2, 3, 1, 0))


def test_what_belongs_to_no_network_is_left_out_and_named(tmp_path):
    """thop's counts, a Lightning module's loss and metrics, and what is no tensor."""
    tensors = under("model.", backbone_tensors())
    tensors["model.total_ops"] = tensors["model.stage2.0.total_params"] = np.zeros(1)
    tensors["criterion.weight"] = np.ones(7, np.float32)
    tensors["model.hyper"] = "x"
    converted = convert(save(tmp_path / "left.ckpt", {"state_dict": tensors}))
    targets = {route.name: route.target for route in converted.routes}
    assert targets["total_ops"] == targets["stage2.0.total_params"]
    assert targets["total_ops"] == "left out: thop's counts of operations"
    assert targets["criterion.weight"] == "left out: outside of the wrapped model"
    assert targets["hyper"] == "left out: not a tensor"
    del tensors["model.stage2.0.branch1.0.weight"]
    with pytest.raises(InputError, match=r"missing stage2\.0\.branch1\.0\.weight$"):
        convert(save(tmp_path / "left.ckpt", {"state_dict": tensors}))


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_types_that_are_not_supported(tmp_path, legacy):
    """One that the network does not need is left out by name."""
    tensors = {**backbone_tensors(), "window": np.ones(5, np.complex64)}
    converted = convert(save(tmp_path / "a.pth", tensors, legacy))
    targets = {route.name: route.target for route in converted.routes}
    fault = "a tensor of a type that is not supported (torch.ComplexFloatStorage)"
    assert targets["window"] == f"left out: {fault}"
    assert converted.ignored == ("torch.ComplexFloatStorage",)
    name = "stage3.1.branch2.0.weight"
    tensors[name] = tensors[name].astype(np.complex64)
    with pytest.raises(InputError, match=rf"{name} is {re.escape(fault)}; save them as float32"):
        convert(save(tmp_path / "b.pth", tensors, legacy))


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float32), (1e300, np.float64)])
def test_numbers_that_are_not_finite_are_an_error(tmp_path, value, dtype):
    tensors = backbone_tensors()
    weight = tensors["stage3.1.branch2.0.weight"].astype(dtype)
    weight[1, 2] = value
    tensors["stage3.1.branch2.0.weight"] = weight
    message = rf"diverged\.pth holds NaN .* in stage3\.1\.branch2\.0\.weight \(1 of {weight.size}\)"
    with pytest.raises(InputError, match=message):
        convert(save(tmp_path / "diverged.pth", tensors))


# ------------------------------------------------------------------------------------- the command


def run(*arguments):
    return convert_efficientface.main(["convert", *map(str, arguments)])


def test_converted_model_predicts(tmp_path, capsys):
    source = save(tmp_path / "model.pth", whole_model("lt"))
    assert run(source, tmp_path / "out", "--num-heads=4") == 0
    lines = capsys.readouterr().out.splitlines()
    counters = [name for name in whole_model("lt") if name.endswith(COUNTER)]
    assert lines[:2] == [
        f"{len(whole_model('lt')) - len(counters)} tensors went into {tmp_path / 'out'}",
        f"{len(counters)} tensors *.{COUNTER} left out: an unused counter",
    ]
    assert lines[2].startswith("fusion lt, 8 classes (neutral")
    assert "the tensors are the same for any number of heads" in lines[3]
    assert len(lines) == 4
    model = avjax.load(tmp_path / "out")
    assert model.card.network["num_heads"] == 4
    assert model.card.profile == "reference"
    batch = golden.inputs(0, 1, num_frames=2)
    mfcc = np.float32(batch.mfcc.transpose(0, 2, 1))
    logits = model.logits(mfcc, batch.frames)
    net, variables = AudioVisualNet(fusion="lt", num_heads=4), convert(source).variables
    expected = jax.jit(net.apply)(variables, mfcc, np.float32(batch.frames / 255))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_table_lists_every_tensor(tmp_path, capsys):
    source = save(tmp_path / "model.pth", whole_model("lt"))
    assert run(source, tmp_path / "out", "--table") == 0
    summary, table = capsys.readouterr().out.split("\n\n")
    assert "tensors went into" in summary
    rows = [line.split() for line in table.splitlines()]
    assert [row[0] for row in rows] == list(whole_model("lt"))
    assert ["va.mlp.fc2.weight", "params/va/mlp_fc2/kernel"] in [[r[0], r[-1]] for r in rows]


@pytest.mark.parametrize("num_classes", [7, 8, 3])
def test_converted_backbone_initialises_training(tmp_path, capsys, num_classes):
    tree = efficientface(num_classes)
    out = tmp_path / "out"
    assert run(save(tmp_path / "EfficientFace.pth.tar", tree), out) == 0
    printed = capsys.readouterr().out
    left_out = "fc.weight, fc.bias left out: the classifier of EfficientFace's own task"
    assert left_out in printed.splitlines()
    assert "EfficientFace backbone" in printed
    merged = initial_variables(AudioVisualNet(num_classes=8), 0, str(out))
    backbone = {name: part["visual_model"] for name, part in merged.items()}
    for name, x in to_torch(backbone, backbone_layers(STAGE_REPEATS)).items():
        np.testing.assert_array_equal(x, tree["state_dict"][f"module.{name}"], err_msg=name)
    with pytest.raises(InputError, match="backbone alone"):
        avjax.load(out)


def test_classes_may_be_named(tmp_path, capsys):
    source = save(tmp_path / "model.pth", whole_model("ia", 3))
    assert run(source, tmp_path / "out", "--classes=low,mid,high", "--profile=fixed") == 0
    _, card = read_model(tmp_path / "out")
    assert (card.classes, card.profile) == (["low", "mid", "high"], "fixed")
    assert run(source, tmp_path / "unnamed") == 0
    assert read_model(tmp_path / "unnamed")[1].classes == ["class_0", "class_1", "class_2"]
    assert run(source, tmp_path / "wrong", "--classes=low,high") == 1
    assert "names 2 classes; the checkpoint has 3" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_objects_beside_the_weights_are_ignored_by_name(tmp_path, capsys):
    """EfficientFace's training script saves its RecorderMeter, others their arguments."""
    tree = efficientface()
    tree["recorder"] = Call(Name("__main__", "RecorderMeter"))
    tree["args"] = Call(Name("argparse", "Namespace"))
    source = save(tmp_path / "recorder.pth.tar", tree)
    assert run(source, tmp_path / "out", "--table") == 0
    summary, table = capsys.readouterr().out.split("\n\n")
    assert "ignored: RecorderMeter, argparse.Namespace" in summary.splitlines()
    assert [row.split()[0] for row in table.splitlines()[-2:]] == [
        "RecorderMeter",
        "argparse.Namespace",
    ]


def test_wrong_arguments_are_refused(tmp_path, capsys):
    source = save(tmp_path / "model.pth", whole_model())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    marker = tmp_path / "ran"
    evil = {"state_dict": Call(Name("os", "system"), f"touch {marker}")}
    write_zip(tmp_path / "evil.pth", evil, {})
    for arguments, message in (
        ((source,), "give a PyTorch checkpoint and a directory"),
        ((source, tmp_path / "full"), "exists; choose another directory"),
        ((source, tmp_path / "out", "--num-heads=3"), "num_heads=3 does not divide"),
        ((tmp_path / "absent.pth", tmp_path / "out"), "does not exist"),
        ((tmp_path / "evil.pth", tmp_path / "out"), "os.system"),
    ):
        assert run(*arguments) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not marker.exists()
