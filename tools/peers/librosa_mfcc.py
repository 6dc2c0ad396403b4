"""Computes MFCCs as the reference's scripts do, with librosa 0.8.1.

Run by compare_preparation.py in a separate environment with
librosa==0.8.1 resampy==0.2.2 numpy==1.23.5 numba==0.57.1.

python tools/peers/librosa_mfcc.py OUT.npz < list_of_sound_files
"""

import io
import sys

import librosa
import numpy as np
import soundfile

RATE, SAMPLES = 22050, 79380


def mfcc(path):
    """Returns the MFCCs ``[10, 156]`` that the reference's network receives."""
    samples, _ = librosa.load(path, sr=RATE)
    surplus = len(samples) - SAMPLES
    if surplus < 0:
        samples = np.pad(samples, (0, -surplus))
    elif surplus > 0:
        samples = samples[surplus // 2 :][:SAMPLES]
    stored = io.BytesIO()  # the reference stores the cut sound as 16-bit wav
    soundfile.write(stored, samples, RATE, format="WAV")
    stored.seek(0)
    samples, _ = librosa.load(stored, sr=RATE)
    return librosa.feature.mfcc(y=samples, sr=RATE, n_mfcc=10)


if __name__ == "__main__":
    paths = sys.stdin.read().splitlines()
    np.savez(sys.argv[1], **{str(i): mfcc(path) for i, path in enumerate(paths)})
