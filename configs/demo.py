"""The demo: synthetic actors, small frames; minutes on two CPU cores."""

from configs import common


def get_config():
    """`ia` with `softhard`, tested on unseen actors."""
    config = common.get_config("demo")
    config.data.dir = "data/demo"
    config.data.fold = "train: actor=1-8; validation: actor=9,10; test: actor=11,12"
    config.num_epochs = 24
    config.optimizer.milestones = (16, 21)
    return config
