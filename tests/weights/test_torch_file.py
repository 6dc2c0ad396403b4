"""The reader of torch.save files, on handmade files and on files written by torch."""

import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from avjax.errors import InputError
from avjax.weights.plain_pickle import Foreign
from avjax.weights.torch_file import load_torch_file, read_torch_file
from tests.torch_files import (
    Call,
    Name,
    New,
    Storage,
    tensor,
    write_legacy,
    write_safetensors,
    write_zip,
)

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)
COUNTER = np.array([7], np.int64)


def checkpoint(location="cpu", legacy=False):
    """Returns a checkpoint: a matrix, two more views of its storage, a counter, settings."""
    floats = Storage("FloatStorage", "0", 6, location, legacy)
    longs = Storage("LongStorage", "1", 1, location, legacy)
    parameter = Call(
        Name("torch._utils", "_rebuild_parameter"), tensor(floats, (2, 3), (3, 1)), True, None
    )
    state_dict = OrderedDict(
        weight=parameter,
        transposed=tensor(floats, (3, 2), (1, 3)),
        tail=tensor(floats, (2,), (1,), offset=4),
        count=tensor(longs, (), ()),
    )
    tree = {"epoch": 3, "arch": "ia", "best": 81.5, "state_dict": state_dict, "flags": [True, None]}
    return tree, {"0": WEIGHTS, "1": COUNTER}


@pytest.mark.parametrize("location", ["cpu", "cuda:0"])
@pytest.mark.parametrize("legacy", [False, True])
def test_both_formats_are_read(tmp_path, location, legacy):
    write = write_legacy if legacy else write_zip
    loaded = load_torch_file(write(tmp_path / "a.pth", *checkpoint(location, legacy)))
    assert {k: v for k, v in loaded.items() if k != "state_dict"} == {
        "epoch": 3,
        "arch": "ia",
        "best": 81.5,
        "flags": [True, None],
    }
    state_dict = loaded["state_dict"]
    assert list(state_dict) == ["weight", "transposed", "tail", "count"]
    np.testing.assert_array_equal(state_dict["weight"], WEIGHTS)
    np.testing.assert_array_equal(state_dict["transposed"], WEIGHTS.T)
    np.testing.assert_array_equal(state_dict["tail"], [4, 5])
    assert state_dict["count"].shape == () and state_dict["count"] == 7
    assert state_dict["weight"].dtype == np.float32 and state_dict["count"].dtype == np.int64
    assert np.shares_memory(state_dict["weight"], state_dict["transposed"])
    assert not state_dict["weight"].flags.writeable


def test_all_dtypes_are_read(tmp_path):
    stored = {
        "HalfStorage": np.array([1.5, -2], np.float16),
        "DoubleStorage": np.array([1e300, -1], np.float64),
        "BFloat16Storage": np.array([0x3F80, 0xC040], np.uint16),  # 1.0, -3.0
        "BoolStorage": np.array([0, 1, 5], np.uint8),
        "CharStorage": np.array([-5], np.int8),
    }
    tree = {
        kind: tensor(Storage(kind, kind, len(array)), (len(array),), (1,))
        for kind, array in stored.items()
    }
    loaded = load_torch_file(write_zip(tmp_path / "types.pt", tree, stored))
    assert loaded["HalfStorage"].dtype == np.float16
    np.testing.assert_array_equal(loaded["DoubleStorage"], stored["DoubleStorage"])
    np.testing.assert_array_equal(loaded["BFloat16Storage"], np.array([1, -3], np.float32))
    np.testing.assert_array_equal(loaded["BoolStorage"], [False, True, True])
    np.testing.assert_array_equal(loaded["CharStorage"], [-5])


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
def test_numpy_scalars_become_python_numbers(tmp_path, package):
    """Schedules computed with NumPy leave such learning rates in the optimizer's state."""
    dtype = Call(Name("numpy", "dtype"), "f8", False, True)
    data = Call(Name("_codecs", "encode"), np.float64(0.04).tobytes().decode("latin1"), "latin1")
    tree = {"lr": Call(Name(f"{package}.multiarray", "scalar"), dtype, data)}
    loaded = load_torch_file(write_zip(tmp_path / "lr.pth", tree, {}))
    assert loaded == {"lr": 0.04} and type(loaded["lr"]) is float


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_of_other_classes_stay_inert_and_are_named(tmp_path, legacy):
    epochs = Call(Name("numpy.core.multiarray", "_reconstruct"), Name("numpy", "ndarray"), (0,))
    tree = {
        "recorder": New(Name("__main__", "RecorderMeter"), state={"losses": epochs}),
        "args": New(Name("argparse", "Namespace"), state={"lr": 0.1}),
        "best": Call(Name("collections", "defaultdict"), Name("__builtin__", "list")),
        "when": Call(Name("datetime", "datetime"), "x"),
        "where": Call(Name("pathlib", "PosixPath"), "a", "b"),
        "which": {(1, 2): 3, Call(Name("nets", "Kind"), 1): 4, "plain": 5},
        "set": {1, 2},
        "scaler": New(Name("torch.cuda.amp.grad_scaler", "GradScaler"), state={"self": 1}),
    }
    write = write_legacy if legacy else write_zip
    file = read_torch_file(write(tmp_path / "a.pth", tree, {}))
    assert file.foreign == (
        "__main__.RecorderMeter",
        "argparse.Namespace",
        "datetime.datetime",
        "pathlib.PosixPath",
        "nets.Kind",
        "torch.cuda.amp.grad_scaler.GradScaler",
    )
    assert file.tree["args"].name == "argparse.Namespace"
    assert file.tree["best"] == {}
    assert file.tree["which"]["plain"] == 5 and len(file.tree["which"]) == 3


PAYLOADS = {
    "system": lambda ran: Call(Name("os", "system"), f"touch {ran}"),
    "eval": lambda ran: Call(Name("__builtin__", "eval"), f"open({ran!r}, 'w')"),
    "new": lambda ran: New(Name("subprocess", "Popen"), ["touch", ran]),
    "getattr": lambda ran: Call(
        Call(Name("builtins", "getattr"), Call(Name("importlib", "import_module"), "os"), "mknod"),
        ran,
    ),
    "nested": lambda ran: New(
        Name("__main__", "Meter"), state={"a": [Call(Name("os", "mknod"), ran)]}
    ),
    "within a tensor": lambda ran: tensor(Call(Name("os", "mknod"), ran), (2,), (1,)),
    "dotted": lambda ran: Call(Name("pathlib", "Path.touch"), ran),
    "factory": lambda ran: Call(Name("collections", "defaultdict"), Call(Name("os", "mknod"), ran)),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_in_a_file_runs(tmp_path, legacy, payload):
    ran = tmp_path / "ran"
    tree = {"state_dict": PAYLOADS[payload](str(ran)), "epoch": 3}
    path = (write_legacy if legacy else write_zip)(tmp_path / "evil.pth", tree, {})
    if payload == "within a tensor":
        with pytest.raises(InputError, match=r"evil\.pth.*not made from a storage"):
            read_torch_file(path)
    else:
        file = read_torch_file(path)
        assert file.tree["epoch"] == 3 and file.foreign
    assert not ran.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"(VRAN\nios\nsystem\n.",
        b"(cos\nsystem\nX\x03\x00\x00\x00RANo.",
        b"\x80\x02cos\nsystem\n)}\x92.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x03RAN\x85R.",
        b"\x80\x02\x82\x01)R.",
        b"P12\n.",
        b"\x80\x04\x8f(K\x01\x90.",
    ],
)
def test_old_and_rare_opcodes_are_inert(tmp_path, code, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("a.pth", "w") as archive:
        archive.writestr("a/data.pkl", code)
    assert isinstance(read_torch_file("a.pth").tree, Foreign)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_safetensors_are_read(tmp_path):
    tensors = {
        "a": ("F32", [2, 3], WEIGHTS.tobytes()),
        "b": ("BF16", [2], np.array([0x3F80, 0xC040], np.uint16).tobytes()),
        "c": ("BOOL", [3], b"\1\0\1"),
        "d": ("I64", [], COUNTER.tobytes()),
        "e": ("F8_E4M3", [2], b"xy"),
    }
    path = write_safetensors(tmp_path / "a.safetensors", tensors)
    loaded = load_torch_file(path)
    assert list(loaded) == list(tensors)
    np.testing.assert_array_equal(loaded["a"], WEIGHTS)
    np.testing.assert_array_equal(loaded["b"], np.array([1, -3], np.float32))
    np.testing.assert_array_equal(loaded["c"], [True, False, True])
    assert loaded["d"].shape == () and loaded["d"] == 7
    assert loaded["e"].name == "safetensors F8_E4M3"
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.safetensors"):
            load_torch_file(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("F32", [1 << 40], b""), "shape and bytes differ"),
        (("F32", [-1], b""), "impossible shape"),
        (("F32", "x", b""), "impossible shape"),
    ],
)
def test_impossible_safetensors_are_refused(tmp_path, entry, message):
    with pytest.raises(InputError, match=message):
        load_torch_file(write_safetensors(tmp_path / "a.safetensors", {"a": entry}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"", "is empty"),
    ],
)
def test_other_files_are_called_by_their_kind(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_torch_file(tmp_path / "a.pth")


def test_torchscript_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/code/__torch__.py", "")
        archive.writestr("a/constants.pkl", pickle.dumps((), 2))
    with pytest.raises(InputError, match=r"TorchScript.*torch\.save\(model\.state_dict\(\)"):
        load_torch_file(tmp_path / "a.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_files_are_refused(tmp_path, legacy):
    write = write_legacy if legacy else write_zip
    content = write(tmp_path / "whole.pth", *checkpoint(legacy=legacy)).read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(0, len(content), 7):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.pth"):
            load_torch_file(cut)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"epoch,loss\n1,2.0\n",
        b"PK\x03\x04 and nothing else",
        pickle.dumps(3),
        pickle.PROTO + b"\x02" + pickle.BINBYTES8 + struct.pack("<Q", 1 << 40),
        pickle.PROTO + b"\x02N" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f.",
        pickle.PROTO + b"\x02" + pickle.BINUNICODE + struct.pack("<I", 0xFFFFFFFF),
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"other\.pth"):
        load_torch_file(tmp_path / "other.pth")


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_torch_file(tmp_path / "absent.pth")
    with pytest.raises(InputError, match="directory"):
        load_torch_file(tmp_path)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (tensor(Storage("FloatStorage", "0", 1 << 40), (1,), (1,)), "larger than the file"),
        (tensor(Storage("FloatStorage", "0", 6), (7,), (1,)), "beyond its storage"),
        (tensor(Storage("FloatStorage", "0", 6), (2,), (1,), offset=5), "beyond its storage"),
        (tensor(Storage("FloatStorage", "0", 6), (2,), (-1,)), "impossible shape"),
        (tensor(Storage("FloatStorage", "9", 6), (2,), (1,)), "data/9 is missing"),
        (Call(Name("_codecs", "encode"), "x", "zip"), "other than bytes"),
    ],
)
def test_inconsistent_contents_are_refused(tmp_path, tree, message):
    with pytest.raises(InputError, match=message):
        load_torch_file(write_zip(tmp_path / "odd.pth", tree, {"0": WEIGHTS}))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_tensors_of_other_types_stay_inert(tmp_path, write):
    legacy = write is write_legacy
    storages = {"0": np.zeros(6, np.complex64), "1": WEIGHTS.ravel(), "2": np.zeros(3, np.int8)}
    kinds = ("ComplexFloatStorage", "FloatStorage", "QInt8Storage")
    spectrum, weight, codes = (
        Storage(kind, key, len(array), "cpu", legacy)
        for kind, (key, array) in zip(kinds, storages.items(), strict=True)
    )
    quantized = Call(Name("torch._utils", "_rebuild_qtensor"), codes, 0, (3,), (1,))
    tree = {
        "spectrum": tensor(spectrum, (6,), (1,)),
        "weight": tensor(weight, (2, 3), (3, 1)),
        "codes": quantized,
    }
    file = read_torch_file(write(tmp_path / "a.pth", tree, storages))
    np.testing.assert_array_equal(file.tree["weight"], WEIGHTS)
    assert file.tree["spectrum"].name == "torch.ComplexFloatStorage"
    assert file.tree["codes"].name == "torch._utils._rebuild_qtensor"
    if legacy:  # where a storage's bytes must be passed
        tree["spectrum"] = tensor(Storage("Odd", "0", 6, "cpu", True), (6,), (1,))
        with pytest.raises(InputError, match=r"type torch\.Odd, whose size is unknown"):
            load_torch_file(write(tmp_path / "b.pth", tree, storages))


def test_compressed_archives_are_refused(tmp_path):
    """torch.save does not compress; a compressed record could be a bomb."""
    tree, storages = checkpoint()
    path = write_zip(tmp_path / "bomb.pth", tree, storages, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        load_torch_file(path)


@pytest.mark.torch
@pytest.mark.parametrize("new_format", [True, False])
def test_result_equals_torch_load(tmp_path, new_format, torch):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    base = torch.randn(4, 6)
    tree = {
        "state_dict": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "strided": base[1:, ::2],
        "bfloat16": base.bfloat16(),
        "expanded": torch.ones(1, 3).expand(5, 3),
        "parameter": torch.nn.Parameter(base),
        "shape": base.shape,
        "dtype": base.dtype,
        "empty": torch.zeros(0, 3),
        "numpy": [np.float64(0.5), np.int64(3), np.float32(0.1)],
    }
    torch.save(tree, tmp_path / "t.pth", _use_new_zipfile_serialization=new_format)
    loaded = load_torch_file(tmp_path / "t.pth")

    def compare(actual, expected):
        if isinstance(expected, torch.Tensor):
            expected = expected.detach()
            expected = expected.float() if expected.dtype == torch.bfloat16 else expected
            np.testing.assert_array_equal(actual, expected.numpy(), strict=True)
        elif isinstance(expected, dict):
            assert list(actual) == list(expected)
            for key in expected:
                compare(actual[key], expected[key])
        elif isinstance(expected, list | tuple):
            assert len(actual) == len(expected)
            for a, b in zip(actual, expected, strict=True):
                compare(a, b)
        elif isinstance(expected, torch.dtype):
            assert actual == np.float32
        else:
            assert actual == expected

    compare(loaded, tree)


@pytest.mark.torch
@pytest.mark.golden
def test_result_equals_torch_load_on_golden_files(shared_dir, torch):
    paths = sorted((shared_dir / "golden").glob("*.pth"))
    assert len(paths) >= 5
    for path in paths:
        expected = torch.load(path, weights_only=True)
        actual = load_torch_file(path)
        assert list(actual) == list(expected)
        for name, x in expected.items():
            np.testing.assert_array_equal(actual[name], x.numpy(), err_msg=name, strict=True)
