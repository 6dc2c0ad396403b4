"""The audio-visual network and modality dropout in stock Flax, as in the paper.

All optimised code in avjax must equal this. Parameters have avjax's names; `from_avjax` converts
avjax's variables. Axes are ``b n h w c`` for clips, ``b h w c`` for images and ``b t c`` for
sequences.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

EPSILON = 1e-5  # PyTorch's default for both norms

LayerNorm = partial(nn.LayerNorm, epsilon=EPSILON)
depthwise_conv = partial(nn.Conv, kernel_size=(3, 3), padding=1, use_bias=False)


class BatchNorm(nn.Module):
    """PyTorch's BatchNorm; stock Flax stores the biased running variance."""

    train: bool

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        mean, var = running_mean.value, running_var.value
        if self.train:
            axes = tuple(range(x.ndim - 1))
            mean, var = x.mean(axes), x.var(axes)
            running_mean.value = 0.9 * running_mean.value + 0.1 * mean
            running_var.value = 0.9 * running_var.value + 0.1 * x.var(axes, ddof=1)
        return scale * (x - mean) / jnp.sqrt(var + EPSILON) + bias


def channel_shuffle(x):
    """Interleaves the two halves of the channels."""
    return jnp.stack(jnp.split(x, 2, axis=-1), axis=-1).reshape(x.shape)


class InvertedResidual(nn.Module):
    """ShuffleNetV2 unit; each branch reads all channels with stride 2, half with stride 1."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        half = self.features // 2
        norm = partial(BatchNorm, train)
        depthwise = partial(depthwise_conv, strides=self.stride)
        pointwise = partial(nn.Dense, half, use_bias=False)

        if self.stride == 1:
            shortcut, x = jnp.split(x, 2, axis=-1)
        else:
            inputs = x.shape[-1]
            shortcut = depthwise(inputs, feature_group_count=inputs, name="branch1_dw")(x)
            shortcut = norm(name="branch1_dw_bn")(shortcut)
            shortcut = pointwise(name="branch1_pw")(shortcut)
            shortcut = nn.relu(norm(name="branch1_pw_bn")(shortcut))

        x = pointwise(name="branch2_pw1")(x)
        x = nn.relu(norm(name="branch2_pw1_bn")(x))
        x = depthwise(half, feature_group_count=half, name="branch2_dw")(x)
        x = norm(name="branch2_dw_bn")(x)
        x = pointwise(name="branch2_pw2")(x)
        x = nn.relu(norm(name="branch2_pw2_bn")(x))
        return channel_shuffle(jnp.concatenate([shortcut, x], axis=-1))


class Modulator(nn.Module):
    """Scales every value by the sigmoid of a channel gate times a spatial gate."""

    @nn.compact
    def __call__(self, x, train):
        features = x.shape[-1]
        reduced = features // 16
        norm = partial(BatchNorm, train)
        dilated_conv = partial(nn.Conv, reduced, (3, 3), padding=4, kernel_dilation=4)

        channel = nn.Dense(reduced, name="channel_fc_0")(x.mean((1, 2), keepdims=True))
        channel = nn.relu(norm(name="channel_bn_1")(channel))
        channel = nn.Dense(features, name="channel_fc_final")(channel)

        spatial = nn.Dense(reduced, name="spatial_reduce")(x)
        spatial = nn.relu(norm(name="spatial_bn_reduce")(spatial))
        for i in range(2):
            spatial = dilated_conv(name=f"spatial_dilated_{i}")(spatial)
            spatial = nn.relu(norm(name=f"spatial_bn_dilated_{i}")(spatial))
        spatial = nn.Dense(1, name="spatial_final")(spatial)

        return nn.sigmoid(channel * spatial) * x


class LocalFeatures(nn.Module):
    """Depthwise features of the four quarters of a map, with separate kernels and padding."""

    @nn.compact
    def __call__(self, x, train):
        norm = partial(BatchNorm, train)

        def features(i, x):
            x = depthwise_conv(116, strides=2, feature_group_count=29, name=f"conv{i}_1")(x)
            x = nn.relu(norm(name=f"bn{i}_1")(x))
            x = depthwise_conv(116, feature_group_count=116, name=f"conv{i}_2")(x)
            return nn.relu(norm(name=f"bn{i}_2")(x))

        left, right = jnp.split(x, 2, axis=2)
        top_left, bottom_left = jnp.split(left, 2, axis=1)
        top_right, bottom_right = jnp.split(right, 2, axis=1)
        left = jnp.concatenate([features(1, top_left), features(2, bottom_left)], axis=1)
        right = jnp.concatenate([features(3, top_right), features(4, bottom_right)], axis=1)
        return jnp.concatenate([left, right], axis=2)


class ConvBlock(nn.Module):
    """1-D convolution, BatchNorm, ReLU and, in the audio network, max pooling."""

    features: int
    padding: int = 0
    pool: bool = False

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.features, (3,), padding=self.padding, name="conv")(x)
        x = nn.relu(BatchNorm(train, name="bn")(x))
        return nn.max_pool(x, (2,), strides=(1,)) if self.pool else x


class EfficientFace(nn.Module):
    """1024 features per frame, then two stages of convolutions over time."""

    stage_repeats: Sequence[int]

    def setup(self):
        self.conv1d = [ConvBlock(features, padding=1) for features in (64, 64, 128, 128)]

    @nn.compact
    def frame_features(self, x, train):
        norm = partial(BatchNorm, train)

        def stage(number, features, x):
            for i in range(self.stage_repeats[number - 2]):
                x = InvertedResidual(features, 1 if i else 2, name=f"stage{number}_{i}")(x, train)
            return x

        x = nn.Conv(29, (3, 3), strides=2, padding=1, use_bias=False, name="conv1")(x)
        x = nn.relu(norm(name="conv1_bn")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        local = LocalFeatures(name="local")(x, train)
        x = Modulator(name="modulator")(stage(2, 116, x), train) + local
        x = stage(4, 464, stage(3, 232, x))
        x = nn.Dense(1024, use_bias=False, name="conv5")(x)
        return nn.relu(norm(name="conv5_bn")(x)).mean((1, 2))

    def stage1(self, frames, train):
        images = frames.reshape(-1, *frames.shape[2:])
        x = self.frame_features(images, train).reshape(*frames.shape[:2], -1)
        return self.conv1d[1](self.conv1d[0](x, train), train)

    def stage2(self, x, train):
        return self.conv1d[3](self.conv1d[2](x, train), train)


class AudioCNN(nn.Module):
    """Two stages of convolutions over the MFCCs of a clip."""

    def setup(self):
        self.conv1d = [ConvBlock(features, pool=True) for features in (64, 128, 256, 128)]

    def stage1(self, mfcc, train):
        return self.conv1d[1](self.conv1d[0](mfcc, train), train)

    def stage2(self, x, train):
        return self.conv1d[3](self.conv1d[2](x, train), train)


class Attention(nn.Module):
    """Cross attention; returns its output ``b q c`` and its weights ``b h q k``."""

    features: int
    num_heads: int

    @nn.compact
    def __call__(self, query, key):
        q = nn.Dense(self.features, use_bias=False, name="q")(query)
        k, v = jnp.split(nn.Dense(2 * self.features, use_bias=False, name="kv")(key), 2, axis=-1)
        q, k, v = (x.reshape(*x.shape[:2], self.num_heads, -1) for x in (q, k, v))
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1]))
        x = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return nn.Dense(self.features, name="proj")(x.reshape(*x.shape[:2], -1)), weights


class AttentionBlock(nn.Module):
    """Transformer block without a residual connection around its attention."""

    features: int
    num_heads: int

    @nn.compact
    def __call__(self, query, key):
        query, key = LayerNorm(name="norm1_q")(query), LayerNorm(name="norm1_k")(key)
        x, _ = Attention(self.features, self.num_heads, name="attn")(query, key)
        y = nn.Dense(2 * self.features, name="mlp_fc1")(LayerNorm(name="norm2")(x))
        return x + nn.Dense(self.features, name="mlp_fc2")(nn.gelu(y, approximate=False))


class AudioVisualNet(nn.Module):
    """Logits of clips; `ia` and `it` fuse the streams between the stages, `lt` after both."""

    num_classes: int = 8
    fusion: str = "ia"
    num_heads: int = 1
    stage_repeats: Sequence[int] = (4, 8, 4)

    @nn.compact
    def __call__(self, mfcc, frames, train=False):
        audio_model = AudioCNN(name="audio_model")
        visual_model = EfficientFace(self.stage_repeats, name="visual_model")
        attention = partial(Attention, num_heads=self.num_heads)
        block = partial(AttentionBlock, num_heads=self.num_heads)

        audio, video = audio_model.stage1(mfcc, train), visual_model.stage1(frames, train)
        if self.fusion == "ia":  # uses only the attention weights, not values and output projection
            _, av = attention(128, name="av1")(audio, video)
            _, va = attention(64, name="va1")(video, audio)
            audio *= va.mean(1).sum(1)[..., None]
            video *= av.mean(1).sum(1)[..., None]
        elif self.fusion == "it":
            av, va = block(128, name="av1")(audio, video), block(64, name="va1")(video, audio)
            audio, video = audio + av, video + va
        audio, video = audio_model.stage2(audio, train), visual_model.stage2(video, train)
        if self.fusion == "lt":
            av, va = block(128, name="av")(audio, video), block(128, name="va")(video, audio)
            audio, video = av, va
        pooled = jnp.concatenate([audio.mean(1), video.mean(1)], axis=-1)
        return nn.Dense(self.num_classes, name="classifier_1")(pooled)


def enlarge(mask, draws, audio, video, label, has_audio, has_video):
    """Returns the enlarged batch (paper section 3.3): audio, video and label of every pair.

    The missing stream of a clip is zeros; the clip gets no copy without its other stream.
    """
    every = jnp.ones_like(has_audio)
    if mask == "softhard":
        (c,) = draws
        soft = c[:, None, None] * audio, (1 - c)[:, None, None, None, None] * video
        pairs = [(audio, video), soft, (0 * audio, video), (audio, 0 * video)]
        valid = [every, every, has_video, has_audio]
    elif mask == "noise":
        audio_noise, video_noise = draws
        pairs = [(audio, video), (audio_noise, video), (audio, video_noise)]
        valid = [every, has_video, has_audio]
    elif mask == "nodropout":
        pairs, valid = [(audio, video)], [every]
    label = jnp.tile(label, len(pairs))
    audio, video, valid = map(jnp.concatenate, (*zip(*pairs, strict=True), valid))
    return audio[valid], video[valid], label[valid]


def loss_gradients(net, variables, audio, video, label):
    """Returns the mean cross entropy, its gradients and the new running statistics."""

    def loss_fn(params):
        logits, updated = net.apply(
            {**variables, "params": params}, audio, video, train=True, mutable="batch_stats"
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
        return loss, updated["batch_stats"]

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, batch_stats), gradients = grad_fn(variables["params"])
    return loss, gradients, batch_stats


def from_avjax(tree):
    """Adds the axis of inputs per group that stock Flax expects to depthwise kernels."""

    def with_axis(x):
        return x[:, :, None] if x.ndim == 3 and x.shape[:2] == (3, 3) else x

    return jax.tree.map(with_axis, tree)
