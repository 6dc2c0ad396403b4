"""Comparisons with the reference's figures; they print what they measure: pytest -s shows it."""

import golden
import jax

from avjax.models.ops import Map, values


def check(what, ours, expected, bound):
    """Largest difference, relative to the largest expected value."""
    _check(what, golden.deviation(ours, expected), bound)


def check_norms(what, ours, expected, bound):
    """Largest relative difference of the tensors' norms."""
    _check(what, golden.norm_deviation(ours, expected), bound)


def _check(what, found, bound):
    print(f"\n{what}: {found:.1e} (bound {bound:.0e})", end="")
    assert found <= bound, f"{what}: {found} above {bound}"


def features(net, variables, mfcc, frames):
    """What the streams have become before fusion, by the figures' names, laid out as PyTorch's."""

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
