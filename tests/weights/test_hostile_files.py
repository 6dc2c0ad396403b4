"""Files that were damaged, or made to fill the memory or take forever."""

import contextlib
import json
import pickle
import pickletools
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.errors import InputError
from avjax.weights.conversion import convert
from avjax.weights.torch_file import read_torch_file
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

MEMORY = 50e6  # bytes, beside four times the file's size
SECONDS = 20.0  # for files of 1 MB on a slow, busy machine; what these files ask for takes hours


def with_pickle(path, code: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.PROTO + b"\x02" + code + pickle.STOP)
    return path


def doubled(opcode: bytes, times: int) -> bytes:
    """A container of itself twice, of that twice, ..."""
    return b"N" + times * (b"2" + opcode)


HUGE_TEXT = b"X" + struct.pack("<I", 500_000) + 500_000 * b"x"
HUGE_LIST = b"](" + 300_000 * b"N" + b"e"
# Each stands for a pickle of at most 1 MB.
BOMBS = {
    "shared tuples": doubled(b"\x86", 60),
    "shared tuples as a key": b"}" + doubled(b"\x86", 60) + b"Ns",
    "shared tuples as a dtype": b"cnumpy\ndtype\n" + doubled(b"\x86", 60) + b"\x85R",
    "shared tuples as an id": doubled(b"\x86", 60) + b"Q",
    "deep tuples": b"N" + 100_000 * b"\x85",
    "deep tuple as a key": b"}" + b"N" + 100_000 * b"\x85" + b"Ns",
    "deep lists": 100_000 * b"]" + 99_999 * b"a",
    "list in itself": b"]q\x00h\x00a",
    "dict in itself": b"}q\x00X\x05\x00\x00\x00modelh\x00s",
    "empty lists": b"(" + 800_000 * b"]" + b"l",
    "memo": b"N" + 800_000 * b"\x94",
    "marks": 900_000 * b"(",
    "huge integer": b"\x8b" + struct.pack("<i", 1 << 30) + b"\x01",
    "huge text": b"\x8d" + struct.pack("<Q", 1 << 40) + b"x",
    "huge memo index": b"Nr\xff\xff\xff\xff",
    "copies of bytes": b"(" + HUGE_TEXT
    + b"q\x00c_codecs\nencode\nq\x01h\x00X\x06\x00\x00\x00latin1\x86"
    + b"q\x02" + 90_000 * b"h\x01h\x02R" + b"l",
    "copies of a list": b"(" + HUGE_LIST + b"\x85q\x00ctorch\nSize\nq\x01" + 90_000 * b"h\x01h\x00R"
    b"l",
    "copies of a dict": b"(](" + 50_000 * b"NN\x86" + b"e\x85q\x00ccollections\nOrderedDict\nq\x01"
    + 90_000 * b"h\x01h\x00R" + b"l",
    "long names": b"\x80\x04(" + HUGE_TEXT + b"q\x00" + 100_000 * b"h\x00h\x00\x93" + b"l",
    "long keys": b"}" + HUGE_TEXT + b"q\x00" + HUGE_TEXT[:100] + b"q\x01"
    + 100_000 * b"h\x00Nsh\x01Ns",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_memory_and_time_are_bounded_by_the_files_size(tmp_path, bomb):
    path = with_pickle(tmp_path / "bomb.pth", BOMBS[bomb])
    check_bounded(path)


def check_bounded(path):
    began = time.process_time()
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.pth") as caught:
        convert(path)
    assert len(str(caught.value)) < 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * path.stat().st_size + MEMORY
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("shape", "strides"),
    [((1 << 40,), (0,)), ((1 << 20, 1 << 20), (0, 0)), ((0, 1 << 2000), (1, 1)), ((1,) * 70,) * 2],
)
def test_tensors_of_a_few_bytes_stand_for_few_numbers(tmp_path, shape, strides, legacy):
    storage = Storage("FloatStorage", "0", 1, legacy=legacy)
    tree = {"stage2.w": tensor(storage, shape, strides)}
    write = write_legacy if legacy else write_zip
    path = write(tmp_path / "bomb.pth", tree, {"0": np.ones(1, np.float32)})
    with pytest.raises(InputError):
        read_torch_file(path)


def test_many_views_share_one_storage(tmp_path):
    storage = Storage("FloatStorage", "0", 1 << 18)
    tree = {f"stage2.{i}": tensor(storage, (1 << 18,), (1,)) for i in range(2000)}
    path = write_zip(tmp_path / "views.pth", tree, {"0": np.ones(1 << 18, np.float32)})
    tracemalloc.start()
    tensors = read_torch_file(path).tree
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * path.stat().st_size + MEMORY
    assert np.shares_memory(tensors["stage2.0"], tensors["stage2.1999"])


def test_an_archive_of_very_many_records_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(30_000):
            archive.writestr(f"a/data/{number}", b"")
    check_bounded(path)


def test_a_record_larger_than_the_file_is_refused(tmp_path):
    path = with_pickle(tmp_path / "bomb.pth", b"}")
    content = path.read_bytes()
    entry = content.index(b"PK\x01\x02")
    sizes = struct.pack("<II", 1 << 31, 1 << 31)
    path.write_bytes(content[: entry + 20] + sizes + content[entry + 28 :])
    with pytest.raises(InputError, match="claims to be larger than the file"):
        read_torch_file(path)


def test_a_header_of_very_many_tensors_is_refused(tmp_path):
    path = write_safetensors(tmp_path / "bomb.pth", {})
    text = b'{"a":' + 2_000_000 * b"[" + b"}"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    check_bounded(path)
    path.write_bytes(struct.pack("<Q", 90_000) + 90_000 * b"{")
    check_bounded(path)


# ------------------------------------------------------------------------------------------ damage


def small_files(folder):
    """Small valid files of every format."""
    for legacy in (False, True):
        floats = Storage("FloatStorage", "0", 6, legacy=legacy)
        state_dict = OrderedDict(
            weight=tensor(floats, (2, 3), (3, 1)), tail=tensor(floats, (2,), (1,), 4)
        )
        dtype = Call(Name("numpy", "dtype"), "f8", False, True)
        data = Call(Name("_codecs", "encode"), "\x00" * 8, "latin1")
        tree = {
            "state_dict": state_dict,
            "epoch": 3,
            "lr": Call(Name("numpy.core.multiarray", "scalar"), dtype, data),
            "recorder": New(Name("__main__", "Meter"), state={"values": [0.5, None, True]}),
        }
        write = write_legacy if legacy else write_zip
        yield write(folder / f"{legacy}.pth", tree, {"0": np.arange(6, dtype=np.float32)})
    yield write_safetensors(folder / "a.safetensors", {"weight": ("F32", [2], 8 * b"\1")})
    with zipfile.ZipFile(folder / "p4.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"a": {1, 2}, "b": [1.5, b"x", "y" * 300]}, 4))
    yield folder / "p4.pth"


def mutated(content: bytes, rng) -> bytes:
    """Changes, cuts, repeats or inserts bytes, once or some times."""
    for _ in range(rng.integers(1, 4)):
        start = int(rng.integers(len(content) + 1))
        stop = start + int(rng.integers(1, 9))
        match rng.integers(5):
            case 0:
                content = content[:start] + rng.bytes(1) + content[start + 1 :]
            case 1:
                content = content[:start]
            case 2:
                content = content[:start] + rng.bytes(stop - start) + content[start:]
            case 3:
                content = content[:start] + content[stop:]
            case 4:
                content = content[:stop] + content[start:]
    return content


@pytest.mark.parametrize(
    "seeds", [range(80), pytest.param(range(80, 5000), marks=pytest.mark.slow)]
)
def test_damage_is_an_input_error_or_harmless(tmp_path, seeds):
    wholes = [path.read_bytes() for path in small_files(tmp_path)]
    path, refused = tmp_path / "damaged.pth", 0
    for seed in seeds:
        for number, whole in enumerate(wholes):
            path.write_bytes(mutated(whole, np.random.default_rng([seed, number])))
            began = time.process_time()
            try:
                read_torch_file(path)
            except InputError as error:
                refused += 1
                if "damaged.pth" not in str(error):
                    pytest.fail(f"seed {seed}, file {number}: {error}")
            assert time.process_time() - began < 5, (seed, number)
    assert refused > len(seeds)


OPCODES = st.sampled_from([code.code.encode("latin1") for code in pickletools.opcodes])


@given(st.lists(OPCODES | st.binary(max_size=4), max_size=60).map(b"".join))
def test_any_program_is_refused_or_harmless(tmp_path_factory, code):
    path = with_pickle(tmp_path_factory.mktemp("program") / "x.pth", code)
    with contextlib.suppress(InputError):
        read_torch_file(path)


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "BOOL", "F8_E4M3", 7]),
        "shape": st.lists(st.integers(-1, 1 << 40)) | st.none(),
        "data_offsets": st.lists(st.integers(-1, 1 << 70), max_size=3) | st.text(),
    },
)


@given(st.dictionaries(st.text(), ENTRY | st.none()), st.binary())
def test_any_header_of_safetensors_is_refused_or_harmless(tmp_path_factory, header, data):
    path, text = tmp_path_factory.mktemp("header") / "x.safetensors", json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    with contextlib.suppress(InputError):
        read_torch_file(path)
