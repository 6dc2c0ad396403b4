"""Sound only, more accurate than `audio_only`: an ensemble of small CNNs on MFCCs and pitch.

Needs a dataset with log-mel spectrograms: ``avjax prepare ... --log_mels 128``.
"""

from configs import common


def get_config():
    """AdamW with cosine decay; spectrograms shifted in time and warped along the mel axis."""
    config = common.get_config("audio_only_strong", kind="log_mel")
    config.num_epochs = 40
    config.batch_size = 32

    config.model.num_mels = 128
    config.model.coefficients = (7, 7, 10, 10, 13, 13, 20, 20, 40, 40, 80)

    config.sound_augment.shift = 10.0
    config.sound_augment.warp = 0.1

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_epochs = 2
    config.optimizer.weight_decay = 0.05
    return config
