"""Common config: the reference's recipe (SGD with dampening, 100 epochs)."""

from ml_collections import ConfigDict


def get_config(
    name: str = "", *, kind: str = "audio_visual", fusion: str = "ia", mask: str = "softhard"
) -> ConfigDict:
    """Returns the reference's recipe for a network.

    Args:
      name: name of the run; the default workdir is ``runs/<name>``. By default it says fusion and
        mask (``ia_softhard``), also those of overrides; for a network of one stream, its kind.
      kind: `audio_visual`; or `audio`, `log_mel` or `video` for a network of one stream, without
        fusion and mask.
      fusion: `ia`, `it` or `lt`.
      mask: modality dropout, `softhard`, `noise` or `nodropout`.
    """
    config = ConfigDict()
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
    config.augment = "flip_rotate"  # of frames, such as "flip_rotate,erase"; "" turns it off
    config.sound_augment = ConfigDict()  # of log-mel spectrograms; 0 turns it off
    config.sound_augment.shift = 0.0  # largest shift in time, in time steps
    config.sound_augment.warp = 0.0  # largest scaling of the mel axis, as a natural logarithm
    config.dtype = "float32"  # or "bfloat16": the compute dtype; parameters stay float32
    config.deduplicate = True  # compute repeated inputs of the enlarged batch once
    config.parallel = "jit"  # how steps are compiled for several devices: jit or pmap

    config.name = name or kind
    if not name and kind == "audio_visual":  # references, which follow overrides
        fusion, mask = config.model.get_oneway_ref("fusion"), config.get_oneway_ref("mask")
        config.name = fusion + "_" + mask

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or adamw, with warm-up and cosine decay to 0
    config.optimizer.learning_rate = 0.04
    config.optimizer.milestones = (40, 55, 65, 70, 200, 250)  # epochs at which it drops to a tenth
    config.optimizer.momentum = 0.9
    config.optimizer.dampening = 0.9
    config.optimizer.weight_decay = 1e-3
    config.optimizer.warmup_epochs = 0  # of adamw

    config.data = ConfigDict()
    config.data.dir = "data/ravdess"  # written by avjax.prepare
    # A name (published, msaf6/0..5, five/0..4, repetition, manifest), or filters in words:
    # "train: actor=1-8; validation: actor=9,10; test: actor=11,12".
    config.data.fold = "published"
    config.data.folds = ()  # folds of your own, for avjax.crossval --folds=config

    # True includes recordings without sound. In RAVDESS, each of these (02-*) repeats the trial of
    # an audio-video recording (01-*). Clips without a face, including sound files, are always used.
    config.data.video_only = False

    # Where clips are cached: on the device, in host memory, or nowhere ("none"). "auto" takes the
    # first with enough room. Results do not depend on it.
    config.data.cache = "auto"

    # Steps per compiled call; a large number for whole epochs. More steps save host work between
    # steps, and clearing of memory. The progress bar moves, and a run stops, only between calls.
    # 0 chooses what suits the devices: 4 on CPUs, 1 on others.
    config.steps_per_call = 0

    config.checkpoint_minutes = 10.0  # minutes between checkpoints within an epoch
    return config
