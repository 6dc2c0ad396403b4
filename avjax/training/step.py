"""One training step: augment, normalise, drop modalities, forward, backward, update."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from avjax.errors import InputError
from avjax.models.frames import StoredFrames
from avjax.models.ops import total
from avjax.runtime.compilation import quick_compilation
from avjax.training import metrics
from avjax.training.augment import augment
from avjax.training.modality_dropout import Enlarged, enlarge
from avjax.training.randomness import row_keys
from avjax.training.sound_augment import SoundAugmentation, augment_sound, mixup

Batch = dict[str, Array]

DTYPES = ("float32", "bfloat16")
_SOUND, _MIXUP, _DROPOUT = 1, 2, 3  # purposes of draws, below the key of augmentation


@flax.struct.dataclass
class TrainState:
    """All that a step changes: saved and restored as a whole.

    Attributes:
      step: updates so far; with the config's seed it fixes every draw of the next step.
      params: network parameters.
      batch_stats: running statistics of BatchNorm.
      opt_state: momentum buffers and counters.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the network's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Recipe(NamedTuple):
    """What a step does besides the network and the optimizer.

    Attributes:
      mask: modality dropout, `softhard`, `noise` or `nodropout`.
      profile: how frames were prepared, hence how they are normalised.
      augment: flip and rotate the clips.
      deduplicate: compute repeated inputs of the enlarged batch once.
      sound: how spectra of sound are changed and mixed; for networks of sound alone.
      label_smoothing: share of a target that is spread evenly over all classes.
      dtype: type in which the network computes, one of `DTYPES`. Parameters, their gradients,
        statistics, attention weights and losses are float32 in any case.
    """

    mask: str
    profile: str
    augment: bool = True
    deduplicate: bool = True
    sound: SoundAugmentation = SoundAugmentation()
    label_smoothing: float = 0.0
    dtype: str = "float32"


def check_dtype(dtype: str) -> str:
    """Returns ``dtype``, or raises InputError where it is none of `DTYPES`."""
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    return dtype


def create_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
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
    net: nn.Module,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
) -> tuple[TrainState, metrics.Sums]:
    """Updates the state on one batch.

    Args:
      state: replicated over ``axis_name``.
      batch: this device's rows: ``frames`` uint8 [b, n, h, w, 3], ``mfcc`` [b, t, 10], ``label``
        [b], ``has_audio``, ``has_video`` bool [b], ``weight`` [b] (0 marks padding).
      key: the run's key, the same at every step and on every device.
      axis_name: mapped device axis; BatchNorm, loss and gradient are global over it.
      net: the network.
      optimizer: see `avjax.training.optimizer.sgd`.
      recipe: mask, profile and switches.

    Returns:
      The next state and the enlarged batch's metric sums over all devices.
    """
    augment_key, mask_key = step_keys(key, state.step)
    mfcc, frames = network_inputs(batch, recipe, augment_key, axis_name)
    enlarged = enlarge(
        recipe.mask,
        mask_key,
        mfcc,
        frames,
        batch["weight"],
        has_audio=batch["has_audio"],
        has_video=batch["has_video"],
        axis_name=axis_name,
        deduplicate=recipe.deduplicate,
    )
    targets = None
    if recipe.label_smoothing or recipe.sound.mixup:
        enlarged, targets = soft_targets(enlarged, batch, recipe, augment_key, net, axis_name)
    if recipe.dtype != "float32":  # else as the batch is, so that tests may compute in float64
        mfcc, frames = (x.astype(recipe.dtype) for x in (enlarged.mfcc, enlarged.frames))
        enlarged = enlarged._replace(mfcc=mfcc, frames=frames)
    draws = {}
    if net.dropout:
        rows = enlarged.mfcc.shape[0]
        draws["keys"] = row_keys(jax.random.fold_in(augment_key, _DROPOUT), rows, axis_name)
    gradients, batch_stats, sums = loss_gradients(
        state, enlarged, batch["label"], axis_name, net=net, targets=targets, draws=draws
    )
    return update(state, gradients, batch_stats, optimizer), sums


def step_keys(key: Array, step: Int[Array, ""]) -> tuple[Array, Array]:
    """Keys of one step, for augmentation and for modality dropout."""
    augment_key, mask_key = jax.random.split(jax.random.fold_in(key, step))
    return augment_key, mask_key


def loss_gradients(
    state: TrainState,
    enlarged: Enlarged,
    label: Int[Array, "b"],
    axis_name: str | None = None,
    *,
    net: nn.Module,
    targets: Float[Array, "b k"] | None = None,
    draws: Mapping[str, Array] | None = None,
) -> tuple[Any, Any, metrics.Sums]:
    """Gradients of the enlarged batch's mean loss, new running statistics and metric sums.

    Args:
      state: parameters and running statistics.
      enlarged: what the network receives.
      label: of this device's clips.
      axis_name: mapped device axis, or None.
      net: the network. Where it has several members, it returns ``[b, members, k]`` in training,
        and every member learns from a loss of its own.
      targets: class probabilities to learn instead of ``label``; the metric sums are of ``label``.
      draws: further arguments of the network, such as its keys for dropout.
    """
    labels = jnp.tile(label, enlarged.copies)

    def mean_loss(params):
        logits, updated = net.apply(
            {"params": params, "batch_stats": state.batch_stats},
            enlarged.mfcc,
            enlarged.frames,
            True,
            pairing=enlarged.pairing,
            axis_name=axis_name,
            mutable="batch_stats",
            **(draws or {}),
        )
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        loss = None
        if logits.ndim == 3:
            wanted = jax.nn.one_hot(label, logits.shape[-1]) if targets is None else targets
            loss = _soft_loss(logits, wanted, enlarged)
            logits = jax.nn.log_softmax(logits).mean(1)
        elif targets is not None:
            loss = _soft_loss(logits[:, None], targets, enlarged)
        sums = metrics.sums(logits, labels, enlarged.pairing.pair_weight)
        loss = sums.loss if loss is None else loss
        return loss / total(sums.count, axis_name), (sums, updated["batch_stats"])

    gradients, (sums, batch_stats) = jax.grad(mean_loss, has_aux=True)(state.params)
    gradients, sums = total((gradients, sums), axis_name)
    return gradients, batch_stats, sums


def _soft_loss(
    logits: Float[Array, "n members k"], targets: Float[Array, "b k"], enlarged: Enlarged
) -> Float[Array, ""]:
    """Sum over pairs of the cross entropy with class probabilities, the mean over members."""
    wanted = jnp.tile(targets, (enlarged.copies, 1))[:, None]
    loss = optax.softmax_cross_entropy(logits, wanted).mean(1)
    return (loss * enlarged.pairing.pair_weight).sum()


def soft_targets(
    enlarged: Enlarged,
    batch: Batch,
    recipe: Recipe,
    key: Array,
    net: nn.Module,
    axis_name: str | None,
) -> tuple[Enlarged, Float[Array, "b k"]]:
    """Smoothed labels as class probabilities, clips and targets mixed where the recipe says so."""
    targets = optax.smooth_labels(
        jax.nn.one_hot(batch["label"], net.num_classes), recipe.label_smoothing
    )
    if not recipe.sound.mixup:
        return enlarged, targets
    mixup_key = jax.random.fold_in(key, _MIXUP)
    spectra, targets = mixup(
        mixup_key, enlarged.mfcc, targets, batch["weight"], recipe.sound.mixup, axis_name
    )
    return enlarged._replace(mfcc=spectra), targets


def update(
    state: TrainState, gradients: Any, batch_stats: Any, optimizer: optax.GradientTransformation
) -> TrainState:
    """The next state."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state)


def network_inputs(
    batch: Batch, recipe: Recipe, key: Array, axis_name: str | None
) -> tuple[Float[Array, "b t 10"], Float[Array, "b n h w 3"]]:
    """Augmented, normalised inputs; a missing stream is all zeros after normalisation."""
    frames = batch["frames"]
    if recipe.augment and frames.size:
        frames = augment(key, frames, axis_name)
    sound = batch["mfcc"]
    if recipe.sound.changes_spectra:
        sound = augment_sound(jax.random.fold_in(key, _SOUND), sound, recipe.sound, axis_name)
    sound, stored = present_streams({**batch, "frames": frames, "mfcc": sound}, recipe.profile)
    return sound, stored.seen()


def present_streams(batch: Batch, profile: str) -> tuple[Float[Array, "b t 10"], StoredFrames]:
    """What networks see of clips: zeros in place of the streams that a clip does not have."""
    sound = jnp.where(batch["has_audio"][:, None, None], batch["mfcc"], 0)
    return sound, StoredFrames(batch["frames"], batch["has_video"], profile, sound.dtype)
