"""Models in other formats, read back by the libraries that read them, without avjax."""

import dataclasses
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from avjax import export
from avjax.errors import InputError
from avjax.models.variables import init_variables
from avjax.preparation import media
from avjax.runs.model_readme import model_readme
from avjax.runs.saved_model import ModelCard, load_model, save_model
from avjax.training.step import present_streams
from avjax.weights.conversion import to_state_dict
from avjax.weights.torch_file import load_torch_file
from tests.small_networks import small_network
from tests.torch_files import save
from tests.weights.test_conversion import whole_model
from tools import convert_efficientface

CLASSES = ["calm", "angry", "happy"]
TEMPERATURES = {"both": 2.0, "audio": 4.0, "video": 0.5}
KINDS = {
    "audio_visual": {"kind": "audio_visual", "fusion": "ia", "num_heads": 1, "num_classes": 3},
    "video": {"kind": "video", "num_classes": 3},
    "audio": {"kind": "audio", "num_classes": 3},
    "log_mel": {"kind": "log_mel", "num_classes": 3, "num_mels": 6, "coefficients": [2, 5]},
}
# Runs an exported program as a user without avjax would.
STABLEHLO = """
import sys, jax, numpy as np
model = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
assert model.platforms == ("cpu", "cuda", "tpu"), model.platforms
for given in sys.argv[1:]:
    outputs = model.call(*np.load(given).values())
    np.savez(given.replace("inputs", "outputs"), *outputs)
assert "avjax" not in sys.modules
"""


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch):
    """Replaces networks by smaller ones, which compile quickly."""

    def build(network):
        fields = {name: x for name, x in network.items() if name not in ("kind", "num_classes")}
        return small_network(network["kind"], **{k: x for k, x in fields.items() if k == "fusion"})

    monkeypatch.setattr(export, "build_network", build)


def saved(folder, kind, **fields):
    """Saves a small model with random variables; returns its folder."""
    variables = init_variables(small_network(kind), jax.random.key(0))
    card = ModelCard(KINDS[kind], CLASSES, "fixed", 2, 64, 40, temperatures=TEMPERATURES, **fields)
    save_model(folder / kind, variables, card)
    return folder / kind


def random_inputs(card, count):
    """Returns inputs of a program by name; the first clip lacks sound, the second video."""
    rng = np.random.default_rng(count)
    made = {}
    for name, (shape, dtype) in export.signature(card).items():
        shape = [count if n == "b" else n for n in shape]
        if dtype == "bool":
            made[name] = np.arange(count) != (name == "has_video")
        elif dtype == "uint8":
            made[name] = rng.integers(0, 256, shape, np.uint8)
        else:
            made[name] = rng.normal(0, 5, shape).astype(np.float32)
    return made


def expected(path, given):
    """Returns logits and probabilities of the network itself."""
    variables, card = load_model(path)
    net, count = small_network(card.network["kind"]), len(next(iter(given.values())))
    streams = net.inputs.streams
    has = {s: given.get(f"has_{s}", np.full(count, s in streams)) for s in ("audio", "video")}
    batch = {
        "audio": given.get(net.inputs.audio, np.zeros((count, 1, 1), np.float32)),
        "frames": given.get("frames", np.zeros((count, 0, 1, 1, 3), np.uint8)),
        "has_audio": has["audio"],
        "has_video": has["video"],
    }
    run = jax.jit(lambda batch: net.apply(variables, *present_streams(batch, "fixed")))
    logits = run(batch)
    names = [
        "both" if a and v else "audio" if a else "video" for a, v in zip(*has.values(), strict=True)
    ]
    scaled = np.float64(logits) / np.array([[TEMPERATURES[name]] for name in names])
    exponentials = np.exp(scaled - scaled.max(1, keepdims=True))
    return logits, exponentials / exponentials.sum(1, keepdims=True)


def run_stablehlo(out, inputs):
    """Runs an exported program in a process without avjax; returns its outputs per inputs."""
    files = []
    for given in inputs:
        files.append(out / f"inputs_{len(files)}.npz")
        np.savez(files[-1], **given)
    command = [sys.executable, "-I", "-c", STABLEHLO, *map(str, files)]
    subprocess.run(command, check=True, cwd=out)
    return [list(np.load(str(file).replace("inputs", "outputs")).values()) for file in files]


@pytest.mark.parametrize("kind", ["audio_visual", "log_mel"])
def test_stablehlo_runs_without_avjax_for_any_number_of_clips(tmp_path, kind):
    path = saved(tmp_path, kind)
    file = export.export_model(path, tmp_path / "out")
    assert file == tmp_path / "out" / "model.stablehlo"
    inputs = [random_inputs(load_model(path)[1], count) for count in (3, 1)]
    for given, actual in zip(inputs, run_stablehlo(file.parent, inputs), strict=True):
        for name, x, y in zip(export.OUTPUTS, actual, expected(path, given), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.onnx
@pytest.mark.parametrize("kind", ["audio_visual", "video", "audio", "log_mel"])
def test_onnx_runs_in_onnxruntime(tmp_path, kind):
    pytest.importorskip("jax2onnx", reason=f"jax2onnx is not installed: {export.INSTALL_ONNX}")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = saved(tmp_path, kind)
    file = export.export_model(path, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(file)
    assert [output.name for output in session.get_outputs()] == list(export.OUTPUTS)
    for count in (3, 1):
        given = random_inputs(load_model(path)[1], count)
        for x, y in zip(session.run(None, given), expected(path, given), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


def test_missing_jax2onnx_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match=r"needs jax2onnx .* pip install --no-deps jax2onnx"):
        export.export_model(saved(tmp_path, "audio"), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_safetensors_hold_variables_and_card(tmp_path):
    path = saved(tmp_path, "audio")
    file = export.export_model(path, tmp_path / "out", "safetensors")
    variables, card = load_model(path)
    again, same_card = load_model(tmp_path / "out")
    assert same_card == card
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    weight = library.load_file(file)["params/audio_model/classifier_1/kernel"]
    kernel = variables["params"]["audio_model"]["classifier_1"]["kernel"]
    np.testing.assert_array_equal(weight, kernel)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A converted model's directory and the tensors that it was made from."""
    folder = tmp_path_factory.mktemp("converted")
    tensors = whole_model("ia")
    source = save(folder / "model.pth", tensors)
    assert convert_efficientface.main(["convert", str(source), str(folder / "model")]) == 0
    return folder / "model", tensors


@pytest.mark.torch
def test_pytorch_reads_the_tensors_that_were_converted(torch, converted, tmp_path):
    model, tensors = converted
    exported = torch.load(export.export_model(model, tmp_path, "pytorch"), weights_only=True)
    assert set(exported) == set(tensors)
    for name, x in tensors.items():
        np.testing.assert_array_equal(exported[name].numpy(), x, err_msg=name, strict=True)


def test_exported_tensors_are_those_that_were_converted(converted, tmp_path):
    model, tensors = converted
    exported = load_torch_file(export.export_model(model, tmp_path, "pytorch"))
    assert set(exported) == set(tensors)
    for name, x in tensors.items():
        np.testing.assert_array_equal(exported[name], x, err_msg=name, strict=True)
    text = (tmp_path / "README.md").read_text()
    assert "MultiModalCNN(num_classes=8, fusion='ia', seq_length=15, num_heads=1)" in text
    assert '{"epoch": 0, "arch": "multimodalcnn",' in text
    assert "Feed the model 10 MFCCs of" in text and "and BGR frames, divided by 255" in text


@pytest.mark.parametrize(
    ("kind", "constructor", "fed"),
    [
        ("audio", "AudioCNNPool(num_classes=3)", "Feed the model 10 MFCCs"),
        ("video", "num_classes=3, im_per_sample=2)", "Feed the model RGB frames, normalised"),
    ],
)
def test_readme_has_the_constructor_and_inputs_of_its_kind(tmp_path, kind, constructor, fed):
    card = load_model(saved(tmp_path, kind))[1]
    text = model_readme(card, "pytorch", export.signature(card))
    assert constructor in text and fed in text
    assert ("frames" in text, "MFCCs" in text) == (kind == "video", kind == "audio")
    assert "main.py" not in text  # which runs models of both streams only


def test_readme_of_the_carried_model_says_each_thing_once():
    card = load_model("voice")[1]
    signature = {"log_mel": (("b", card.audio_steps, 128), "float32")}
    text = model_readme(card, "stablehlo", signature)
    assert "log(1 + 400000 power), as `log_mel` in `docs/deploy.md`" in text
    limits = text.split("## Limits\n\n")[1]
    assert limits.startswith("Acted speech in eight classes; ")
    assert limits.count("decisions") == 1


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
    out = tmp_path / "out"
    assert export.main(["export", str(tmp_path / "model"), str(out), "--format=pytorch"]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not out.exists()


def test_layer_missing_from_the_key_map_is_refused(converted):
    variables, card = load_model(converted[0])
    variables["params"]["gate"] = {"kernel": np.ones((2, 2))}
    with pytest.raises(InputError, match=r"fusion=ia.*: unexpected params/gate/kernel; choose"):
        to_state_dict(variables, card.network)


def test_readme_tells_use_worth_and_limits(tmp_path):
    path = saved(tmp_path, "audio_visual", metrics={"accuracy": 0.5}, epoch=7)
    assert export.main(["export", str(path), str(tmp_path / "out"), "--format=safetensors"]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "50.0% of the validation clips, epoch 7" in text
    assert "2.000 (both), 4.000 (audio), 0.500 (video)" in text
    sections = re.findall("^## (.*)", text, re.MULTILINE)
    assert sections == ["Use", "Calibration", "Data and licence", "Accuracy", "Limits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audio"], "name a model and a folder"),
        (["audio", "out", "--format=tflite"], "unknown format 'tflite'; choose one of stablehlo"),
        (["log_mel", "out", "--format=pytorch"], "PyTorch"),
        (["nowhere", "out"], "there is no checkpoint at nowhere"),
        (["audio", "file", "--format=safetensors"], "file is a file; name a folder"),
    ],
)
def test_unusable_arguments_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for kind in ("audio", "log_mel"):
        saved(tmp_path, kind)
    assert export.main(["export", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_only_exports_are_replaced(tmp_path):
    path = saved(tmp_path, "audio")
    with pytest.raises(InputError, match=r"audio/model.safetensors is of no export.*folder"):
        export.export_model(saved(tmp_path / "other", "audio"), path, "safetensors")
    out = tmp_path / "project"
    out.mkdir()
    (out / "README.md").write_text("# My project")
    with pytest.raises(InputError, match=r"project/README.md is of no export, and is not replaced"):
        export.export_model(path, out, "safetensors")
    assert [file.name for file in out.iterdir()] == ["README.md"]
    assert (out / "README.md").read_text() == "# My project"
    (out / "README.md").unlink()
    for _ in range(2):
        assert export.export_model(path, out, "safetensors").exists()


def test_features_in_the_docs_equal_those_of_preparation(root_dir):
    text = (root_dir / "docs" / "deploy.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace = {}
    exec(compile(script, "docs/deploy.md", "exec"), namespace)
    time = np.arange(22050) / 22050
    noise = np.random.default_rng(0).normal(0, 0.01, 22050)
    sound = np.float32(0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time) + noise)
    sound[:4000] = 0
    mfcc, log_mel = namespace["mfcc"](sound), namespace["log_mel"](sound, 20)
    np.testing.assert_allclose(mfcc, media.mfcc(sound), atol=1e-3)
    np.testing.assert_allclose(log_mel, media.log_mel(sound, 20), atol=1e-4)
    assert mfcc.dtype == log_mel.dtype == np.float32
