"""Sound alone over log-mel spectra: three small networks that vote, augmentation, AdamW.

Not better than `audio_only.py` so far (README, Figures).

Needs a dataset with spectra: ``python -m avjax.prepare ... --log_mels 64``.
"""

from configs import common


def get_config():
    """Small residual CNNs over log-mel spectra, with AdamW and changed, mixed spectra."""
    config = common.get_config("audio_log_mel", kind="log_mel")
    config.num_epochs = 40
    config.batch_size = 32
    config.label_smoothing = 0.1

    config.model.num_mels = 64
    config.model.dropout = 0.3

    config.sound_augment.stretch = 0.1
    config.sound_augment.shift = 10.0
    config.sound_augment.warp = 0.05
    config.sound_augment.gain = 0.3
    config.sound_augment.time_mask = 20.0
    config.sound_augment.band_mask = 8.0
    config.sound_augment.mixup = 0.2

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_epochs = 5
    config.optimizer.weight_decay = 0.02
    return config
