"""Compares avjax's preparation with the reference's libraries on the same files.

python tools/compare_preparation.py --ravdess FOLDER [--librosa_python PYTHON]

FOLDER holds audio/ (wav or flac), video/ (mp4) and reference_crops/ (npy). Comparisons that lack
files or packages are skipped with a message. Boxes need PyTorch and facenet-pytorch. MFCCs need a
Python with librosa 0.8.1 and resampy 0.2.2 (see tools/peers/librosa_mfcc.py). Exits with status 1
if a bound is exceeded.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from avjax import cli
from avjax.errors import InputError
from avjax.preparation import face_detector, media
from avjax.preparation.clip import reference_indices
from avjax.preparation.crops import reference_crops
from avjax.runtime.progress import progress_bar
from avjax.training.augment import MAX_ANGLE, flip_and_rotate

PEER = Path(__file__).parent / "peers" / "librosa_mfcc.py"
MFCC_BOUND, BOX_BOUND, ROTATION_SHARE = 1e-3, 0.1, 1e-3


def files(folder: Path, *suffixes: str) -> list[Path]:
    """Returns the files below a folder, none if it does not exist."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)


def compare_mfccs(folder: Path, python: str) -> bool:
    """Compares MFCCs of all sound files, resampled, cut and rounded to 16 bit, with librosa's."""
    paths = files(folder / "audio", ".wav", ".flac")
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "mfccs.npz"
        listing = "\n".join(str(path.resolve()) for path in paths)
        subprocess.run([python, str(PEER), str(out)], input=listing, text=True, check=True)
        expected = np.load(out)
        differences = []
        for number, path in enumerate(progress_bar(paths, desc="MFCC")):
            samples = media.read_audio(path)
            if samples is None:
                raise InputError(f"{path} holds no sound; replace the file")
            actual = media.mfcc(media.fit_audio(samples))
            differences.append(np.abs(actual.T - expected[str(number)]).max())
    worst = int(np.argmax(differences))
    print(
        f"MFCC of {len(paths)} clips against librosa 0.8.1: largest difference "
        f"{differences[worst]:.1e} ({paths[worst].name}), median of the clips' largest "
        f"{np.median(differences):.1e}; bound {MFCC_BOUND:.0e}"
    )
    return differences[worst] <= MFCC_BOUND


def opencv_frames(path: Path) -> np.ndarray:
    """Decodes the frames that the reference selects with OpenCV, as RGB."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.ascontiguousarray([frames[i] for i in reference_indices(15) if i < len(frames)])


def avjax_frames(path: Path) -> np.ndarray:
    """Decodes the same frames as `avjax.prepare` does."""
    count = len(media.frame_times(path))
    return media.read_frames(path, [i for i in reference_indices(15) if i < count])


def facenet() -> Callable[[np.ndarray], np.ndarray]:
    """Returns facenet-pytorch's MTCNN as a function from a frame to its largest face's box."""
    import torch
    from peers import torchvision_stand_in

    torchvision_stand_in.install()
    from facenet_pytorch import MTCNN

    detector = MTCNN(device="cpu")

    def largest_box(frame: np.ndarray) -> np.ndarray:
        boxes, _ = detector.detect(torch.tensor(frame))
        if boxes is None:
            raise InputError("facenet-pytorch finds no face in a frame; use other clips")
        return boxes[0]

    return largest_box


def compare_boxes(folder: Path) -> bool:
    """Compares the box of every selected frame with facenet-pytorch's."""
    expected_box, detector = facenet(), face_detector.default_detector()
    differences, corners = [], 0
    for path in progress_bar(files(folder / "video", ".mp4"), desc="boxes"):
        frames = opencv_frames(path)
        for box, frame in zip(detector.largest_boxes(frames), frames, strict=True):
            expected = expected_box(frame)
            actual = np.full(4, np.nan) if box is None else np.asarray(box)
            differences.append(np.abs(actual - expected).max())
            corners += [round(x) for x in actual.tolist()] != [round(x) for x in expected.tolist()]
    print(
        f"boxes of {len(differences)} frames against facenet-pytorch: largest difference "
        f"{max(differences):.1e} px (bound {BOX_BOUND}), rounded corners that differ: {corners}"
    )
    return max(differences) <= BOX_BOUND and corners == 0


def compare_crops(folder: Path) -> bool:
    """Compares crops byte for byte with those written by the reference's extract_faces.py."""
    detector, differing, decoded, frames = face_detector.default_detector(), 0, 0, 0
    for path in progress_bar(files(folder / "video", ".mp4"), desc="crops"):
        name = f"{path.parent.name}/{path.stem}_facecroppad.npy"
        expected = np.load(folder / "reference_crops" / name)
        images = avjax_frames(path)
        frames += len(images)
        crops = reference_crops(images, detector.largest_boxes(images))
        differing += sum((a != b).any() for a, b in zip(crops, expected, strict=False))
        differing += expected[len(crops) :].any()
        decoded += sum((a != b).any() for a, b in zip(images, opencv_frames(path), strict=True))
    print(
        f"crops of {frames} frames against the reference's: {differing} differ "
        f"(frames that OpenCV and PyAV decode differently: {decoded})"
    )
    return differing == 0


def compare_rotation(folder: Path) -> bool:
    """Compares flip and rotation of real crops by all angles with Pillow."""
    crops = [np.load(path)[0] for path in files(folder / "reference_crops", ".npy")]
    frames = np.stack([crop[..., ::-1] for crop in crops])
    rotate = jax.jit(flip_and_rotate)
    levels: Counter[int] = Counter()
    large = []
    for angle in progress_bar(range(-MAX_ANGLE, MAX_ANGLE + 1), desc="rotation"):
        for flip in (False, True):
            actual = np.asarray(rotate(frames, jnp.asarray(flip), jnp.asarray(angle)))
            for number, frame in enumerate(frames):
                image = Image.fromarray(frame[:, ::-1] if flip else frame)
                expected = np.asarray(image.rotate(angle, resample=Image.Resampling.BILINEAR))
                difference = np.abs(actual[number].astype(int) - expected)
                levels.update(dict(zip(*np.unique(difference, return_counts=True), strict=True)))
                where = np.argwhere((difference > 1).any(-1))
                large += [(angle, flip, number, *map(int, index)) for index in where]
    values = sum(levels.values())
    different = sum(count for level, count in levels.items() if level)
    print(
        f"rotation and flip of {len(frames)} crops by all angles against Pillow: "
        f"{different / values:.1e} of {values} values differ, by level: "
        f"{ {int(k): v for k, v in sorted(levels.items())} }; more than one level at {large[:5]}"
    )
    return sum(count for level, count in levels.items() if level > 1) <= ROTATION_SHARE * values


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("ravdess", None, "Folder with real clips.", flag_values=values)
    flags.DEFINE_string("librosa_python", None, "Python with librosa 0.8.1.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Runs every comparison whose files and packages are available."""
    if positional or not values.ravdess:
        raise InputError("give --ravdess FOLDER, with audio/, video/ and reference_crops/ in it")
    folder = Path(values.ravdess)
    has_video = bool(files(folder / "video", ".mp4"))
    has_crops = bool(files(folder / "reference_crops", ".npy"))
    has_peer = all(map(importlib.util.find_spec, ("torch", "facenet_pytorch")))
    passed = []
    for name, possible, compare in (
        ("rotation", has_crops, lambda: compare_rotation(folder)),
        ("crops", has_video and has_crops, lambda: compare_crops(folder)),
        ("boxes (PyTorch, facenet-pytorch)", has_video and has_peer, lambda: compare_boxes(folder)),
        (
            "MFCC (--librosa_python)",
            values.librosa_python is not None,
            lambda: compare_mfccs(folder, values.librosa_python),
        ),
    ):
        if possible:
            passed.append(compare())
        else:
            print(f"not compared, for want of files or packages: {name}")
    if not passed:
        raise InputError(f"{folder} holds nothing to compare; see --help for what it needs")
    return int(not all(passed))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    return cli.run(argv, define_flags, job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
