"""What every configuration shares: the recipe of the reference (SGD with dampening, 100 epochs)."""

from ml_collections import ConfigDict


def get_config(
    name: str, *, kind: str = "audio_visual", fusion: str = "ia", mask: str = "softhard"
) -> ConfigDict:
    """The reference's training of a network.

    Args:
      name: of the configuration; the default workdir is ``runs/<name>``.
      kind: `audio_visual`, or `audio`, `log_mel` or `video` for one stream alone, without fusion
        and mask.
      fusion: `ia`, `it` or `lt`.
      mask: modality dropout, `softhard`, `noise` or `nodropout`.
    """
    config = ConfigDict()
    config.name = name
    config.seed = 1
    config.num_epochs = 100
    config.batch_size = 8

    config.model = ConfigDict()
    config.model.kind = kind
    if kind == "audio_visual":
        config.model.fusion = fusion
        config.model.num_heads = 1
    config.model.pretrained = ""  # a run or model directory to start from

    config.mask = mask if kind == "audio_visual" else "nodropout"
    config.augment = "flip_rotate"  # changes to frames, such as "flip_rotate,erase"; "" for none
    config.sound_augment = ConfigDict()  # of log-mel spectra; 0 leaves a change out
    config.sound_augment.shift = 0.0  # largest shift in time, in steps
    config.sound_augment.warp = 0.0  # largest scaling of the mel axis, as a natural logarithm
    config.dtype = "float32"  # or "bfloat16": what the network computes in; parameters stay float32
    config.deduplicate = True  # compute repeated inputs of the enlarged batch once
    config.parallel = "jit"  # how steps are spread over devices: jit or pmap

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or adamw, whose rate warms up, then falls by a cosine to 0
    config.optimizer.learning_rate = 0.04
    config.optimizer.milestones = (40, 55, 65, 70, 200, 250)  # epochs from which it is a tenth
    config.optimizer.momentum = 0.9
    config.optimizer.dampening = 0.9
    config.optimizer.weight_decay = 1e-3
    config.optimizer.warmup_epochs = 0  # of adamw

    config.data = ConfigDict()
    config.data.dir = "data/ravdess"  # what avjax.prepare wrote
    # A name (published, msaf6/0..5, five/0..4, repetition, manifest), or filters in words:
    # "train: actor=1-8; validation: actor=9,10; test: actor=11,12".
    config.data.fold = "published"
    config.data.folds = ()  # folds of your own, for avjax.crossval --folds=config

    # True: recordings without sound too. RAVDESS has one (02-*) for each audio-video one (01-*), of
    # the same trial. Clips that lack a face are always taken, those of sound alone among them.
    config.data.video_only = False

    # Where clips are kept once they are read: on the device, in the host's memory, or nowhere
    # ("none"). "auto" takes the first with room enough. No digit depends on it.
    config.data.cache = "auto"

    # Steps of one compiled call, a large number for whole epochs. It spares the host's work between
    # steps and memory's renewal; the progress bar moves, and a run can be stopped, between calls.
    # 0 stands for what suits the devices: 4 on CPUs, 1 on others.
    config.steps_per_call = 0

    config.checkpoint_minutes = 10.0  # between saves within an epoch
    return config
