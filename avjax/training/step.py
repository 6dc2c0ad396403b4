"""One training step: augment, normalise, drop modalities, forward, backward, update."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from avjax.errors import InputError
from avjax.models.network import Network, cross_entropy
from avjax.models.ops import total
from avjax.models.ops.frames import StoredFrames
from avjax.runtime.compilation import quick_compilation
from avjax.training.augment import SoundAugmentation, augment, augment_sound, augmentation_names
from avjax.training.modality_dropout import Enlarged, check_mask, enlarge

Batch = dict[str, Array]

DTYPES = ("float32", "bfloat16")
_SOUND = 1  # folded into the augmentation key


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """Augmentation, modality dropout and dtype of a training step.

    Attributes:
      mask: modality dropout: `softhard`, `noise` or `nodropout`.
      augment: augmentations of frames, names of `AUGMENTATIONS` separated by commas; may be empty.
      sound_augment: augmentation of log-mel spectrograms.
      deduplicate: compute repeated inputs of the enlarged batch once.
      dtype: the network's compute dtype, one of `DTYPES`. Parameters, gradients, statistics,
        attention weights and losses are always float32.

    Raises:
      InputError: an unknown mask, augmentation or dtype.
    """

    mask: str = "softhard"
    augment: str = "flip_rotate"
    sound_augment: SoundAugmentation = SoundAugmentation()
    deduplicate: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_mask(self.mask)
        augmentation_names(self.augment)
        if self.dtype not in DTYPES:
            raise InputError(
                f"unknown config.dtype {self.dtype!r}; choose one of {', '.join(DTYPES)}"
            )


@flax.struct.dataclass
class TrainState:
    """Everything that a step updates.

    Attributes:
      step: number of updates, int32; with the config's seed it determines the next step's draws.
      params: network parameters.
      batch_stats: running statistics of BatchNorm.
      opt_state: momentum buffers and counters.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """Variables for the network's `apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Sums(NamedTuple):
    """Sums over clips; `confusion[i, j]` counts clips of class i predicted as j."""

    loss: Float[Array | np.ndarray, ""]
    count: Float[Array | np.ndarray, ""]  # type: ignore[assignment]  # hides tuple.count
    confusion: Float[Array | np.ndarray, "k k"]


class StepSums(NamedTuple):
    """A training step's `Sums`, and its largest absolute gradient, NaN if one is NaN."""

    loss: Float[Array | np.ndarray, "*steps"]
    count: Float[Array | np.ndarray, "*steps"]  # type: ignore[assignment]  # hides tuple.count
    confusion: Float[Array | np.ndarray, "*steps k k"]
    largest_gradient: Float[Array | np.ndarray, "*steps"]


def create_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step."""
    params = variables["params"]
    step = jnp.zeros((), jnp.int32)
    opt_state = jax.jit(optimizer.init, compiler_options=quick_compilation())(params)
    return TrainState(step, params, variables["batch_stats"], opt_state)


def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    axis_name: str | None = None,
    *,
    net: Network,
    optimizer: optax.GradientTransformation,
    config: StepConfig,
    profile: str,
) -> tuple[TrainState, StepSums]:
    """Trains on one batch.

    Args:
      state: replicated over ``axis_name``.
      batch: this device's rows: ``frames`` uint8 [b, n, h, w, 3], ``audio`` [b, t, c], ``label``
        [b], ``has_audio``, ``has_video`` bool [b], ``weight`` [b] (0 marks padding).
      key: the run's key, the same at every step and on every device.
      axis_name: mapped device axis; BatchNorm, loss and gradient are global over it.
      net: the network.
      optimizer: see `avjax.training.optimizer`.
      config: mask, augmentation, dtype.
      profile: preparation profile, which decides how frames are normalised.

    Returns:
      The updated state, and the enlarged batch's metric sums over all devices, with the largest
      gradient.
    """
    augment_key, mask_key = step_keys(key, state.step)
    audio, frames = network_inputs(batch, config, profile, augment_key, axis_name)
    enlarged = enlarge(
        config.mask,
        mask_key,
        audio,
        frames,
        batch["weight"],
        has_audio=batch["has_audio"],
        has_video=batch["has_video"],
        axis_name=axis_name,
        deduplicate=config.deduplicate,
    )
    if config.dtype != "float32":  # tests compute in float64
        audio, frames = (x.astype(config.dtype) for x in (enlarged.audio, enlarged.frames))
        enlarged = enlarged._replace(audio=audio, frames=frames)
    gradients, batch_stats, sums = loss_gradients(
        state, enlarged, batch["label"], axis_name, net=net
    )
    leaves = [jnp.abs(gradient).max() for gradient in jax.tree.leaves(gradients)]
    largest = functools.reduce(jnp.maximum, leaves)  # which NaN passes
    return update(state, gradients, batch_stats, optimizer), StepSums(*sums, largest)


def step_keys(key: Array, step: Int[Array, ""]) -> tuple[Array, Array]:
    """Returns a step's keys for augmentation and modality dropout."""
    augment_key, mask_key = jax.random.split(jax.random.fold_in(key, step))
    return augment_key, mask_key


def network_inputs(
    batch: Batch, config: StepConfig, profile: str, key: Array, axis_name: str | None
) -> tuple[Float[Array, "b t c"], Float[Array, "b n h w 3"]]:
    """Augments and normalises a batch; missing streams become zeros."""
    frames, audio = batch["frames"], batch["audio"]
    if config.augment and frames.size:
        frames = augment(config.augment, key, frames, axis_name)
    if config.sound_augment.changes_spectra:
        sound_key = jax.random.fold_in(key, _SOUND)
        audio = augment_sound(sound_key, audio, config.sound_augment, axis_name)
    audio, stored = present_streams({**batch, "frames": frames, "audio": audio}, profile)
    return audio, stored.normalised()


def present_streams(batch: Batch, profile: str) -> tuple[Float[Array, "b t c"], StoredFrames]:
    """Returns the network's inputs, with zeros for missing streams after normalisation."""
    audio = jnp.where(batch["has_audio"][:, None, None], batch["audio"], 0)
    return audio, StoredFrames(batch["frames"], batch["has_video"], profile, audio.dtype)


def loss_gradients(
    state: TrainState,
    enlarged: Enlarged,
    label: Int[Array, "b"],
    axis_name: str | None = None,
    *,
    net: Network,
) -> tuple[Any, Any, Sums]:
    """Returns gradients of the enlarged batch's mean loss, new running statistics, metric sums.

    Args:
      state: parameters and running statistics.
      enlarged: the network's inputs.
      label: labels of this device's clips.
      axis_name: mapped device axis, or None.
      net: the network.
    """
    labels = jnp.tile(label, enlarged.copies)
    weight = enlarged.pairing.pair_weight

    def mean_loss(params: Any) -> tuple[Array, tuple[Sums, Any]]:
        outputs, updated = net.apply(
            {"params": params, "batch_stats": state.batch_stats},
            enlarged.audio,
            enlarged.frames,
            True,
            pairing=enlarged.pairing,
            axis_name=axis_name,
            mutable="batch_stats",
        )
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        sums = sum_metrics(net.logits(outputs), labels, weight)
        loss = (net.losses(outputs, labels) * weight).sum()
        return loss / total(sums.count, axis_name), (sums, updated["batch_stats"])

    gradients, (sums, batch_stats) = jax.grad(mean_loss, has_aux=True)(state.params)
    gradients, sums = total((gradients, sums), axis_name)
    return gradients, batch_stats, sums


def sum_metrics(
    logits: Float[Array, "b k"], labels: Int[Array, "b"], weight: Float[Array, "b"]
) -> Sums:
    """Sums cross entropy, clips and confusions; each row counts ``weight`` times."""
    loss = cross_entropy(logits, labels)
    classes = logits.shape[-1]
    true = jax.nn.one_hot(labels, classes) * weight[:, None]
    predicted = jax.nn.one_hot(logits.argmax(-1), classes)
    return Sums((loss * weight).sum(), weight.sum(), true.T @ predicted)


def update(
    state: TrainState, gradients: Any, batch_stats: Any, optimizer: optax.GradientTransformation
) -> TrainState:
    """Applies one optimizer update."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state)
