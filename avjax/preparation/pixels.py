"""Decoded frames as viewers see them: upright, square pixels, standard dynamic range, RGB."""

import functools
from fractions import Fraction
from typing import Any, cast

import cv2
import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import Type
from jaxtyping import Float, UInt8, UInt16

from avjax.preparation import notes

_PQ, _HLG = 16, 18  # transfer characteristics, ITU-T H.273
_WHITE_NITS = 203.0  # of HDR reference white, ITU-R BT.2408
_HLG_PEAK_NITS, _HLG_GAMMA = 1000.0, 1.2  # of the nominal display, ITU-R BT.2100
_KNEE = 0.8  # of SDR's white; brighter light is compressed
_DISPLAY_GAMMA = 2.4  # ITU-R BT.1886
_FULL_RANGE = 2  # ITU-T H.273's, as FFmpeg counts
# R'G'B' of Y'CbCr, and BT.709's primaries of BT.2020's, ITU-R BT.2020 and BT.2087.
_YUV_TO_RGB = np.array(
    [[1, 0, 1.4746], [1, -0.16455, -0.57135], [1, 1.8814, 0]], np.float32
)  # fmt: skip
_2020_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
_GAMMA_STEPS = 1 << 14


def display_matrix(frame: VideoFrame) -> bytes | None:
    """Returns how a frame is to be turned; None if it is not.

    PyAV then keeps the frame until the next collection of cycles, so ask a few frames only.
    """
    matrix: Any = cast(Any, frame.side_data).get(Type.DISPLAYMATRIX)
    return None if matrix is None else bytes(matrix)


def shown(
    frame: VideoFrame,
    pixel_format: str,
    aspect: Fraction | None,
    matrix: bytes | None,
    told: dict[str, None],
) -> UInt8[np.ndarray, "h w 3"]:
    """Converts a frame to what a player shows.

    Args:
      frame: as decoded.
      pixel_format: `rgb24` or `bgr24`.
      aspect: width by height of a pixel; None if unknown.
      matrix: the frame's `display_matrix`.
      told: receives notes as keys.
    """
    size: dict[str, Any] = {}
    if aspect and aspect > 0 and aspect != 1:
        wider, taller = max(Fraction(1), aspect), max(Fraction(1), 1 / aspect)
        size = {"width": round(frame.width * wider), "height": round(frame.height * taller)}
        told[notes.scaled_pixels(aspect)] = None
    if frame.color_trc in (_PQ, _HLG):
        image = _tone_mapped(frame.to_ndarray(format="yuv444p16le", **size), frame)
        image = image if pixel_format == "rgb24" else np.ascontiguousarray(image[..., ::-1])
        told[notes.HDR] = None
    else:
        image = frame.to_ndarray(format=pixel_format, **size)
    return image if matrix is None else _upright(image, matrix, told)


def _upright(image: np.ndarray, matrix: bytes, told: dict[str, None]) -> np.ndarray:
    """Turns and mirrors an image by a display matrix, in steps of 90 degrees."""
    a, b, _, c, d, *_ = np.frombuffer(matrix, "<i4") / 65536
    # Row vectors times the matrix: (x, y) is shown at (a x + c y, b x + d y), y downward.
    mirrored = a * d - b * c < 0
    if mirrored:  # first mirrored left to right, then turned
        a, b = -a, -b
    turns = round(np.degrees(np.arctan2(b, a)) / 90) % 4  # clockwise
    if not turns and not mirrored:
        return image
    told[notes.turned(90 * turns, bool(mirrored))] = None
    image = image[:, ::-1] if mirrored else image
    return np.ascontiguousarray(np.rot90(image, -turns))


def _tone_mapped(
    planes: UInt16[np.ndarray, "3 h w"], frame: VideoFrame
) -> UInt8[np.ndarray, "h w 3"]:
    """Maps HDR in BT.2020 to SDR in BT.709; reference white becomes white."""
    planes = planes if planes.shape[0] == 3 else np.moveaxis(planes, -1, 0)
    luma, blue, red = (plane.astype(np.float32) for plane in planes)
    if frame.color_range == _FULL_RANGE:
        yuv = np.stack([luma / 65535, blue / 65535 - 0.5, red / 65535 - 0.5], -1)
    else:
        yuv = np.stack(
            [(luma - 4096) / 56064, (blue - 32768) / 57344, (red - 32768) / 57344], axis=-1
        )
    signal = np.clip(cv2.transform(yuv, _YUV_TO_RGB), 0, 1)
    light = _light(frame.color_trc)[(signal * 4095 + 0.5).astype(np.int32)]
    light = np.maximum(cv2.transform(light, _2020_TO_709), 0)
    brightest = light.max(-1, keepdims=True)
    excess = np.maximum(brightest - _KNEE, 0) / (1 - _KNEE)
    compressed = _KNEE + (1 - _KNEE) * (1 - np.exp(-excess))
    light *= np.where(brightest > _KNEE, compressed / np.maximum(brightest, _KNEE), 1)
    return _gamma()[(light * (_GAMMA_STEPS - 1) + 0.5).astype(np.int32)]


@functools.cache
def _light(transfer: int) -> Float[np.ndarray, "4096"]:
    """Returns displayed light, 1 for reference white, of 12 bits of signal (ITU-R BT.2100)."""
    signal = np.arange(4096) / 4095
    if transfer == _PQ:
        root = signal ** (1 / 78.84375)
        nits = 1e4 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (
            1 / 0.1593017578125
        )
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        nits = _HLG_PEAK_NITS * scene**_HLG_GAMMA
    return (nits / _WHITE_NITS).astype(np.float32)


@functools.cache
def _gamma() -> UInt8[np.ndarray, "16384"]:
    """Returns eight bits of signal by displayed light."""
    light = np.arange(_GAMMA_STEPS) / (_GAMMA_STEPS - 1)
    return np.round(255 * light ** (1 / _DISPLAY_GAMMA)).astype(np.uint8)
