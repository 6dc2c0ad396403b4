"""Models for tests of the server, which load in its worker's process."""

import os
import signal
import time

import numpy as np

from avjax import predict
from avjax.models.audio_visual import AudioVisualNet
from avjax.predictions.prediction import Scored, summarise
from tests.clips import WholeFrame
from tests.small_networks import CLASSES, random_variables, small_card

NET = AudioVisualNet(num_classes=3, stage_repeats=(1, 1, 1))
CARD = small_card(
    num_frames=4,
    image_size=32,
    audio_steps=44,
    seconds=1.0,
    temperatures={"both": 2.0, "audio": 1.5, "video": 3.0},
    about={"name": "small", "limits": "it knows nothing"},
)


def small_model() -> predict.Model:
    """Returns a small model with random weights that sees every frame as a face."""
    inputs = np.zeros((1, 44, 10), np.float32), np.zeros((1, 4, 32, 32, 3), np.float32)
    variables = random_variables(NET, *inputs, divisor=30)
    predict.build_network = lambda network: NET
    return predict.Model(variables, CARD, WholeFrame())


class Scripted:
    """Answers at once, and does what a clip says in words: sleeps, dies, eats memory."""

    def __init__(self) -> None:
        self.card, self.net = CARD, NET
        self._eaten = []

    def predict(self, path):
        words = path.read_bytes()[-64:].partition(b"do:")[2].split(b"\0")[0].decode()
        if words == "sleep":
            time.sleep(60)
        elif words == "nap":
            time.sleep(0.3)
        elif words == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif words == "eat":
            while True:
                self._eaten.append(np.ones(40_000_000, np.uint8))
                time.sleep(0.02)
        elif words == "bug":
            raise ZeroDivisionError("a bug")
        scored = [Scored(0.0, 1.0, np.array([0.0, 1.0, 3.0], np.float32), ())]
        return summarise(
            scored,
            [],
            [],
            classes=CLASSES,
            streams=("audio", "video"),
            temperatures=CARD.temperatures,
        )

    def predict_apart(self, path):
        return {"whole": self.predict(path)}
