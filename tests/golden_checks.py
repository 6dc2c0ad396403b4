"""Comparisons with the reference's figures; ``pytest -s`` shows the deviations."""

import golden
import jax

from avjax.models.ops import Map, values


def check(name, actual, expected, bound):
    """Bounds the largest difference relative to the largest expected value."""
    _check(name, golden.deviation(actual, expected), bound)


def check_norms(name, actual, expected, bound):
    """Bounds the largest relative difference of the tensors' norms."""
    _check(name, golden.norm_deviation(actual, expected), bound)


def _check(name, deviation, bound):
    print(f"\n{name}: {deviation:.1e} (bound {bound:.0e})", end="")
    assert deviation <= bound, f"{name}: {deviation} above {bound}"


def features(net, variables, mfcc, frames):
    """Returns both streams' features before fusion, with PyTorch's names and layout."""

    @jax.jit
    def encode(variables, mfcc, frames):
        bound = net.bind(variables)
        clips = values(bound.visual_model.clip_features(Map(frames)))
        return clips, bound.encode_video(frames), bound.encode_audio(mfcc)

    clips, video, audio = encode(variables, mfcc, frames)
    return {
        "frame_features": clips.reshape(-1, clips.shape[-1]),
        "visual_stage1": video.transpose(0, 2, 1),
        "audio_stage1": audio.transpose(0, 2, 1),
    }
