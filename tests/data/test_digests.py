"""A dataset's metadata and records prove themselves."""

import contextlib
import shutil

import numpy as np
import pytest

from avjax.data.pipeline import open_dataset
from avjax.errors import InputError
from tests.sound_dataset import write_sounds

COUNTS = {1: 3, 2: 2}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"), COUNTS)


@pytest.fixture
def dataset(written, tmp_path):
    return shutil.copytree(written, tmp_path / "dataset")


def content(directory):
    """Returns everything that training reads."""
    opened = open_dataset(directory)
    return opened.metadata, opened.records, opened.select("").columns


def test_digests_are_those_of_sha256sum(dataset):
    lines = (dataset / "metadata.sha256").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
        "metadata.json",
    ]


def test_dataset_without_digests_is_told_to_be_unverified(dataset, capsys):
    (dataset / "metadata.sha256").unlink()
    open_dataset(dataset)
    open_dataset(dataset)
    assert capsys.readouterr().err == f"note: {dataset} is unverified (it holds no digest)\n"


@pytest.mark.parametrize(
    "name",
    ["dataset_info.json", "features.json", "label.labels.txt", "metadata.json", "metadata.sha256"],
)
def test_damaged_metadata_is_refused(dataset, name):
    path = dataset / name
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 20 + 1):
        for damaged in (
            whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :],
            whole[:place],
        ):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=str(dataset)):
                open_dataset(dataset)
    if name != "metadata.sha256":
        path.unlink()
        with pytest.raises(InputError, match=name if name != "dataset_info.json" else "prepared"):
            open_dataset(dataset)


def test_damaged_records_are_never_read_as_others(dataset):
    metadata, records, columns = content(dataset)
    for path in dataset.glob("*.array_record*"):
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        damaged = [whole[:place] for place in rng.integers(0, len(whole), 4)]
        for place in rng.integers(0, len(whole), 12):
            damaged.append(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        for changed in damaged:
            path.write_bytes(changed)
            with contextlib.suppress(InputError):
                found = content(dataset)
                assert found[:2] == (metadata, records)
                for name, column in columns.items():
                    np.testing.assert_array_equal(found[2][name], column)
        path.write_bytes(whole)


def test_records_of_another_split_are_refused(dataset):
    first, second = sorted(dataset.glob("*.array_record*"))
    shutil.copyfile(second, first)
    with pytest.raises(InputError, match=r"is clip-02-00, not clip-01-00|cannot be read"):
        content(dataset)
