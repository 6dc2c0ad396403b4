"""A dataset of sound alone that a small network learns, for tests of training on one stream."""

import numpy as np

from avjax.data.clip import PreparedClip
from avjax.data.ravdess_dataset_builder import ClipRecord, DatasetMetadata, write_dataset
from configs import audio_only

ACTORS = (1, 11, 5, 10)  # training, validation and two test actors of the published fold
CLIPS = 6  # of each actor


def write_sounds(directory):
    """Clips of four actors; MFCC that tell their class, no frames."""
    rng = np.random.default_rng(0)
    records, clips = [], []
    for number in range(CLIPS * len(ACTORS)):
        actor, label = ACTORS[number // CLIPS], number % 2
        name, split = f"clip-{number:02d}", f"actor_{actor:02d}"
        records.append(ClipRecord(name, split, label, actor, 1, 1, 1, "x", has_video=False))
        mfcc = rng.normal(4 * label, 1, (16, 10)).astype(np.float32)
        clips.append(PreparedClip(np.zeros((0, 64, 64, 3), np.uint8), mfcc, True, False))
    metadata = DatasetMetadata("reference", ("low", "high"), 0, 64, 16, {})
    return write_dataset(directory, metadata, records, clips)


def audio_config(data_dir):
    """A short run of the audio network."""
    config = audio_only.get_config()
    config.data.dir = str(data_dir)
    config.num_epochs, config.batch_size = 3, 4
    return config
