"""The demo's faces, drawn from an actor's look and an expression.

`FACES` defines each emotion's expression, `JITTER` the standard deviation of clips around it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Colour = tuple[int, int, int]  # RGB


class Expression(NamedTuple):
    """The moving parts of a face; symmetric, so mirroring and tilting keep the emotion.

    Attributes:
      brow_raise: 0 at rest, 1 fully raised, negative when lowered.
      brow_slant: positive with inner ends up (grief), negative with inner ends down (anger).
      eye_open: 1 at rest.
      mouth_curve: positive with corners up.
      mouth_open: 0 closed, 1 wide open; speech opens it further.
      mouth_width: 1 at rest.
      sneer: upper lip and nose wrinkled up, 0 to 1.
      bow: head lowered, 0 upright.
      sway: how far the head moves, 0 to 1.
      tempo: frequency of the head's movement in Hz.
    """

    brow_raise: float
    brow_slant: float
    eye_open: float
    mouth_curve: float
    mouth_open: float
    mouth_width: float
    sneer: float
    bow: float
    sway: float
    tempo: float


REST = Expression(0.0, 0.0, 1.0, 0.0, 0.05, 1.0, 0.0, 0.0, 0.3, 0.4)

# Calm and neutral differ by a slight smile, surprise and fear by brows and mouth, disgust and anger
# by the sneer. These pairs need the voice.
FACES: dict[str, Expression] = {
    "neutral": REST,
    "calm": Expression(0.05, 0.10, 0.85, 0.25, 0.03, 1.05, 0.0, 0.0, 0.2, 0.3),
    "happy": Expression(0.20, 0.05, 0.80, 1.10, 0.25, 1.30, 0.0, -0.1, 0.7, 1.0),
    "sad": Expression(0.05, 0.90, 0.65, -0.80, 0.04, 0.90, 0.0, 0.8, 0.2, 0.25),
    "angry": Expression(-0.75, -1.00, 0.85, -0.45, 0.12, 0.85, 0.25, 0.1, 0.8, 1.3),
    "fearful": Expression(0.70, 0.75, 1.40, -0.25, 0.35, 1.00, 0.0, -0.1, 0.5, 1.6),
    "disgust": Expression(-0.50, -0.50, 0.55, -0.55, 0.10, 0.95, 1.00, -0.2, 0.4, 0.5),
    "surprised": Expression(1.00, 0.10, 1.50, 0.05, 0.60, 0.80, 0.0, -0.3, 0.5, 0.7),
}
JITTER = Expression(0.22, 0.24, 0.13, 0.24, 0.08, 0.08, 0.15, 0.2, 0.2, 0.3)
LOWEST = Expression(-1.0, -1.3, 0.3, -1.3, 0.0, 0.7, 0.0, -0.5, 0.05, 0.1)
HIGHEST = Expression(1.3, 1.3, 1.7, 1.4, 0.9, 1.5, 1.2, 1.2, 1.0, 2.0)


def draw_expression(emotion: str, strength: float, rng: np.random.Generator) -> Expression:
    """Draws a clip's expression: the emotion's, scaled by ``strength`` and jittered."""
    rest, target = np.array(REST), np.array(FACES[emotion])
    values = rest + strength * (target - rest) + rng.normal(size=len(REST)) * np.array(JITTER)
    return Expression(*np.clip(values, LOWEST, HIGHEST).tolist())


class Look(NamedTuple):
    """An actor's fixed features. Lengths are fractions of half the head's height.

    Attributes:
      skin: colour.
      hair: colour.
      iris: colour.
      cloth: colour.
      wall: colour.
      height: half the head's height as a fraction of the frame.
      width: half the head's width.
      jaw: narrowing of the head towards the chin.
      eye_gap: from the middle of the face to an eye.
      eye_size: half the width of an eye.
      brow_weight: thickness of the brows.
      nose_width: half the width of the nose.
      mouth_size: half the width of the mouth at rest.
      hairline: height of the hair's lower edge above the middle of the head.
      hair_length: lower end of the hair beside the head, -1 to 1.
      light: direction of the light, x to the right and y down.
    """

    skin: Colour
    hair: Colour
    iris: Colour
    cloth: Colour
    wall: Colour
    height: float
    width: float
    jaw: float
    eye_gap: float
    eye_size: float
    brow_weight: float
    nose_width: float
    mouth_size: float
    hairline: float
    hair_length: float
    light: tuple[float, float]


SKINS: Sequence[Colour] = (
    (240, 204, 180),
    (228, 184, 152),
    (214, 166, 130),
    (190, 140, 104),
    (160, 112, 80),
    (128, 88, 64),
)
HAIRS: Sequence[Colour] = (
    (34, 26, 22),
    (62, 42, 28),
    (104, 70, 40),
    (150, 108, 60),
    (120, 52, 30),
    (120, 118, 116),
)
EYEBALL, PUPIL, GLINT, LASHES = (236, 232, 228), (16, 12, 12), (250, 250, 250), (40, 28, 24)
LIP_RED, THROAT, TEETH, FLUSH = (170, 60, 66), (62, 18, 22), (232, 228, 218), (200, 80, 80)

# Heights on the head, in halves of its height, down from its middle.
EYE_LEVEL, NOSE_LEVEL, MOUTH_LEVEL = -0.1, 0.27, 0.55

IRISES: Sequence[Colour] = ((70, 46, 28), (60, 90, 120), (70, 100, 66), (90, 70, 40))


def draw_look(rng: np.random.Generator, actor: int) -> Look:
    """Draws an actor's look; consecutive actors differ in skin and hair."""
    uniform = rng.uniform
    return Look(
        skin=_shift(SKINS[actor % len(SKINS)], 10, rng),
        hair=_shift(HAIRS[(actor * 5 + actor // 6) % len(HAIRS)], 8, rng),
        iris=IRISES[int(rng.integers(len(IRISES)))],
        cloth=_shift((110, 110, 120), 80, rng),
        wall=_shift((170, 170, 175), 50, rng),
        height=uniform(0.315, 0.35),
        width=uniform(0.72, 0.82),
        jaw=uniform(0.12, 0.3),
        eye_gap=uniform(0.33, 0.39),
        eye_size=uniform(0.145, 0.175),
        brow_weight=uniform(0.045, 0.075),
        nose_width=uniform(0.11, 0.16),
        mouth_size=uniform(0.25, 0.3),
        hairline=uniform(0.52, 0.66),
        hair_length=uniform(-0.6, 0.9),
        light=(uniform(-0.6, 0.6), uniform(-0.7, -0.2)),
    )


def _shift(colour: Colour, limit: int, rng: np.random.Generator) -> Colour:
    red, green, blue = np.clip(
        np.array(colour) + rng.integers(-limit, limit + 1, 3), 0, 255
    ).tolist()
    return red, green, blue


class Pose(NamedTuple):
    """Position of the head in a frame.

    Attributes:
      x: shift to the right as a fraction of the frame.
      y: shift down.
      turn: rotation in the image plane in radians.
      zoom: size relative to the actor's usual one.
    """

    x: float = 0.0
    y: float = 0.0
    turn: float = 0.0
    zoom: float = 1.0


class FaceArtist:
    """Draws one actor: paints fixed parts once and the moving ones for every frame."""

    SCALE = 2  # supersampling, for smooth edges
    FIXED_POINT = 4  # fractional bits of OpenCV's coordinates

    def __init__(self, look: Look, size: int):
        """Paints the wall, the shoulders and the bare head for frames of ``size`` pixels."""
        self._look = look
        self.size = size
        self._unit = look.height * size * self.SCALE  # half the head's height in canvas pixels
        self._centre = size * self.SCALE / 2
        self._wall = _paint_wall(look, size)
        self._head, self._alpha = _paint_head(look, size * self.SCALE)
        self._shadow = _scaled(look.skin, 0.62)
        self._lips = _mixed(_scaled(look.skin, 0.8), LIP_RED, 0.55)
        self._brows = _scaled(look.hair, 0.8)

    def draw(self, expression: Expression, pose: Pose) -> UInt8[np.ndarray, "s s 3"]:
        """Draws one RGB frame."""
        canvas = self._head.copy()
        drop = 0.07 * expression.bow
        for side in (-1, 1):
            self._eye(canvas, side, drop, expression)
            self._brow(canvas, side, drop, expression)
            self._fold(canvas, side, drop, expression)
        self._mouth(canvas, drop, expression)
        return self._place(canvas, pose)

    def _place(self, canvas: np.ndarray, pose: Pose) -> UInt8[np.ndarray, "s s 3"]:
        """Rotates and moves the head and blends it over the wall."""
        turn = cv2.getRotationMatrix2D(
            (self._centre, self._centre), np.degrees(pose.turn), pose.zoom / self.SCALE
        )
        middle = np.array([0.5 + pose.x, 0.5 + pose.y]) * self.size
        turn[:, 2] = turn[:, 2] + middle - self._centre
        size = (self.size, self.size)
        head = cv2.warpAffine(canvas, turn, size, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(self._alpha, turn, size)
        return cv2.blendLinear(head, self._wall, alpha, 1 - alpha)

    def _points(self, x: object, y: object) -> np.ndarray:
        """Converts head coordinates (unit: half its height, y down) to OpenCV's fixed point."""
        points = np.stack(np.broadcast_arrays(np.asarray(x), np.asarray(y)), -1).astype(float)
        return np.round((points * self._unit + self._centre) * 2**self.FIXED_POINT).astype(np.int32)

    def _fill(self, canvas: np.ndarray, points: np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(canvas, [points], colour, cv2.LINE_AA, self.FIXED_POINT)

    def _line(self, canvas: np.ndarray, points: np.ndarray, colour: Colour, weight: float) -> None:
        pixels = max(1, round(weight * self._unit))
        cv2.polylines(canvas, [points], False, colour, pixels, cv2.LINE_AA, self.FIXED_POINT)

    def _disc(self, canvas: np.ndarray, x: float, y: float, radius: float, colour: Colour) -> None:
        centre = tuple(self._points(x, y).tolist())
        size = round(radius * self._unit * 2**self.FIXED_POINT)
        cv2.circle(canvas, centre, size, colour, -1, cv2.LINE_AA, self.FIXED_POINT)

    def _eye(self, canvas: np.ndarray, side: int, drop: float, expression: Expression) -> None:
        """Draws white, iris and pupil between the lids."""
        x, y, half = side * self._look.eye_gap, EYE_LEVEL + drop, self._look.eye_size
        along = np.linspace(-1, 1, 13)
        arc = np.sqrt(1 - along**2)
        upper = y - 0.095 * max(expression.eye_open, 0.06) * arc
        lower = y + 0.055 * min(expression.eye_open, 1.3) * arc
        opening = np.concatenate(
            [self._points(x + half * along, upper), self._points(x + half * along, lower)[::-1]]
        )
        corners = self._points(x + np.array([-0.2, 0.2]), y + np.array([-0.2, 0.2]))
        (left, top), (right, bottom) = (corners >> self.FIXED_POINT).tolist()
        window = canvas[top:bottom, left:right]
        skin = window.copy()
        mask = np.zeros(window.shape[:2], np.uint8)
        origin = np.array([left, top]) << self.FIXED_POINT
        cv2.fillPoly(mask, [(opening - origin).astype(np.int32)], 1, shift=self.FIXED_POINT)
        window[:] = EYEBALL
        self._disc(canvas, x, y - 0.01, 0.08, self._look.iris)
        self._disc(canvas, x, y - 0.01, 0.04, PUPIL)
        self._disc(canvas, x + 0.025, y - 0.04, 0.016, GLINT)
        cv2.copyTo(skin, 1 - mask, window)
        self._line(canvas, self._points(x + half * along, upper), LASHES, 0.03)
        self._line(canvas, self._points(x + half * along, lower), self._shadow, 0.012)
        self._line(canvas, self._points(x + half * along, upper - 0.05), self._shadow, 0.014)

    def _brow(self, canvas: np.ndarray, side: int, drop: float, expression: Expression) -> None:
        along = np.linspace(-1, 1, 9)  # from the inner to the outer end
        x = side * (self._look.eye_gap + 0.2 * along - 0.015)
        y = EYE_LEVEL - 0.22 + drop - 0.11 * expression.brow_raise - 0.035 * (1 - along**2)
        points = self._points(x, y + 0.085 * expression.brow_slant * along)
        self._line(canvas, points, self._brows, self._look.brow_weight)

    def _fold(self, canvas: np.ndarray, side: int, drop: float, expression: Expression) -> None:
        """Draws the nostril, and the nasolabial fold that smiles and sneers deepen."""
        nose = NOSE_LEVEL + drop - 0.04 * expression.sneer
        x = side * self._look.nose_width
        self._disc(canvas, x * 0.55, nose + 0.025, 0.032, _scaled(self._look.skin, 0.4))
        wing = self._points(np.array([1.0, 1.15, 0.9]) * x, nose + np.array([-0.08, -0.02, 0.03]))
        self._line(canvas, wing, self._shadow, 0.02)
        depth = max(expression.sneer, 0.7 * max(expression.mouth_curve, 0.0))
        if depth > 0.2:
            along = np.linspace(0, 1, 6)
            fold_x = side * (self._look.nose_width + 0.06 + 0.16 * along**0.8)
            fold = self._points(fold_x, nose - 0.04 + 0.22 * along)
            self._line(canvas, fold, self._shadow, 0.03 * min(depth, 1.0))
        if expression.sneer > 0.3:
            for row in (0.0, 0.07):
                wrinkle = self._points(
                    side * np.array([0.02, 0.09]),
                    EYE_LEVEL + 0.1 + drop + row + np.array([0, -0.04]),
                )
                self._line(canvas, wrinkle, self._shadow, 0.022)

    def _mouth(self, canvas: np.ndarray, drop: float, expression: Expression) -> None:
        """Draws the lips, and between them the throat and the upper teeth."""
        along = np.linspace(-1, 1, 21)
        arc = np.sqrt(1 - along**2)
        x = self._look.mouth_size * expression.mouth_width * along
        bent = MOUTH_LEVEL + drop - 0.13 * expression.mouth_curve * (along**2 - 0.4)
        open_up = 0.07 * expression.mouth_open * arc + 0.05 * expression.sneer * arc
        open_down = 0.24 * expression.mouth_open * arc
        top = bent - open_up
        bottom = bent + open_down - 0.03 * expression.sneer * arc
        cupid = 0.055 * arc * (1 - 0.25 * np.exp(-((along / 0.12) ** 2)))
        outline = [self._points(x, top - cupid), self._points(x, bottom + 0.075 * arc)[::-1]]
        self._fill(canvas, np.concatenate(outline), self._lips)
        inside = [self._points(x * 0.94, top), self._points(x * 0.94, bottom)[::-1]]
        self._fill(canvas, np.concatenate(inside), THROAT)
        teeth = np.minimum(top + 0.07 * arc, bottom)
        if np.max(teeth - top) > 0.02:
            edges = [self._points(x * 0.86, top), self._points(x * 0.86, teeth)[::-1]]
            self._fill(canvas, np.concatenate(edges), TEETH)
        self._line(
            canvas,
            self._points(x, (top + bottom) / 2 if open_down.max() < 0.01 else top),
            _scaled(self._lips, 0.5),
            0.014,
        )


def _grid(side: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the head coordinates of every pixel of a square canvas."""
    line = (np.arange(side, dtype=np.float32) + 0.5 - side / 2) / unit
    return line[None, :], line[:, None]


def _paint_wall(look: Look, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Paints a lit wall with neck and shoulders in front."""
    unit = look.height * size
    x, y = _grid(size, unit)
    light = 1 + 0.12 * (x * look.light[0] + y * look.light[1])
    image = np.array(look.wall, np.float32) * light[..., None]
    neck = _inside(np.abs(x) / 0.42 + 0 * y, unit * 0.42) * (y > 0)
    shoulders = _inside(np.hypot(x / 1.25, (y - 1.75) / 0.65), unit * 0.65)
    shade = (0.72 + 0.15 * look.light[0] * x)[..., None] + 0 * y[..., None]
    image += neck[..., None] * (np.array(look.skin, np.float32) * shade - image)
    image += shoulders[..., None] * (np.array(look.cloth, np.float32) * light[..., None] - image)
    return np.clip(image, 0, 255).astype(np.uint8)


def _paint_head(
    look: Look, side: int
) -> tuple[UInt8[np.ndarray, "c c 3"], Float[np.ndarray, "s s"]]:
    """Paints the head without features, shaded as a bulging oval; also returns its alpha."""
    unit = look.height * side
    x, y = _grid(side, unit)
    half = look.width * (1 - look.jaw * np.clip(y, 0, 1.2) ** 2)
    radius = np.hypot(x / half, y)
    bulge = np.sqrt(np.clip(1 - radius**2, 0, 1))
    lit = (x / half * look.light[0] + y * look.light[1] + 0.9 * bulge) / 1.25
    shade = 0.5 + 0.55 * np.clip(lit, 0, 1)
    shade -= _relief(x, y, look)
    image = np.array(look.skin, np.float32) * shade[..., None]
    for cheek in (-0.45, 0.45):
        flush = 0.12 * _spot(x - cheek, y - 0.25, 0.2, 0.16)
        image += flush[..., None] * (np.array(FLUSH, np.float32) - image)
    face = _inside(radius, unit)
    ears = _inside(np.hypot((np.abs(x) - look.width) / 0.1, (y - 0.02) / 0.2), unit * 0.1)
    hair = _inside(np.hypot(x / (look.width * 1.14), (y + 0.1) / 1.08), unit)
    hair = hair * np.clip((look.hair_length - y) * unit / 4, 0, 1)
    fringe = np.clip((-look.hairline + 0.25 * (x / look.width) ** 2 - y) * unit / 4, 0, 1)
    strands = (0.85 + 0.3 * np.clip(lit, -0.3, 1))[..., None] * np.array(look.hair, np.float32)
    canvas = strands.copy()
    ear_colour = np.array(_scaled(look.skin, 0.75), np.float32)
    canvas += ears[..., None] * (ear_colour - canvas)
    canvas += (face * (1 - fringe))[..., None] * (image - canvas)
    alpha = np.maximum.reduce([face, hair, ears])
    return np.clip(canvas, 0, 255).astype(np.uint8), alpha.astype(np.float32)


def _relief(x: np.ndarray, y: np.ndarray, look: Look) -> np.ndarray:
    """Returns how much darker the skin is; negative on the nose ridge and the chin."""
    darker = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for side in (-1, 1):
        darker += 0.2 * _spot(x - side * look.eye_gap, y - EYE_LEVEL + 0.02, 0.19, 0.12)
        flank = look.nose_width * (0.7 + 0.5 * np.clip(y / NOSE_LEVEL, 0, 1))
        darker += 0.16 * _spot(x - side * flank, y - 0.12, 0.05, 0.2)
    darker += 0.22 * _spot(x, y - NOSE_LEVEL - 0.06, look.nose_width, 0.045)
    darker += 0.12 * _spot(x, y - MOUTH_LEVEL - 0.19, 0.2, 0.05)
    darker -= 0.14 * _spot(x, y - 0.08, 0.05, 0.2)
    return darker - 0.08 * _spot(x, y - 0.85, 0.16, 0.1)


def _spot(x: np.ndarray, y: np.ndarray, width: float, height: float) -> np.ndarray:
    return np.exp(-((x / width) ** 2) - (y / height) ** 2)


def _inside(radius: np.ndarray, pixels: float) -> np.ndarray:
    """Returns the coverage of a shape with its edge at radius 1, ``pixels`` from its centre."""
    return np.clip((1 - radius) * pixels + 0.5, 0, 1)


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(value * factor)) for value in colour)
    return red, green, blue


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (int(a + share * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue
