"""A sound dataset that a small network learns, for tests of training on one stream."""

import numpy as np

from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from configs import audio_only

ACTORS = (1, 11, 5, 10)  # training, validation and two test actors of the published fold
CLIPS = 6  # per actor


def write_sounds(directory, counts=None, log_mels=0):
    """Writes clips whose MFCCs, and log-mel spectra if requested, depend on the class."""
    counts = counts or dict.fromkeys(ACTORS, CLIPS)
    rng = np.random.default_rng(0)
    records, prepared = [], []
    for actor, count in counts.items():
        for number in range(count):
            label, name = number % 2, f"clip-{actor:02d}-{number:02d}"
            split = f"actor_{actor:02d}"
            records.append(ClipRecord(name, split, label, actor, 1, 1, 1, "x", has_video=False))
            mfcc = rng.normal(4 * label, 1, (16, 10)).astype(np.float32)
            blank, spectrum = np.zeros((0, 64, 64, 3), np.uint8), None
            if log_mels:
                loud = 2 * np.arange(log_mels) // log_mels == label  # low or high bands
                spectrum = np.float32(rng.uniform(0, 1, (16, log_mels)) + 4 * loud)
            prepared.append(PreparedClip(blank, mfcc, True, False, 0, spectrum))
    metadata = DatasetMetadata("reference", ("low", "high"), 0, 64, 16, {}, log_mels=log_mels)
    return write_dataset(directory, metadata, records, prepared)


def audio_config(data_dir):
    """Returns the config of a short run of the audio network."""
    config = audio_only.get_config()
    config.data.dir = str(data_dir)
    config.num_epochs, config.batch_size = 3, 4
    return config
