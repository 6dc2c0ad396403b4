"""Archives as Zenodo has them, of three actors, with a few bytes for each clip."""

import functools
import io
import zipfile

from avjax.data.ravdess import AUDIO_ONLY, AUDIO_VIDEO, VIDEO_ONLY, speech_clips

AUDIO, ACTORS = "audio.zip", (1, 2, 3)


def content(clip):
    return clip.clip_id.encode() * 50


def archive(clips, **members):
    """Returns a zip of clips, in folders as published, and of other members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zip_file:
        for clip in clips:
            suffix = ".wav" if clip.modality == AUDIO_ONLY else ".mp4"
            zip_file.writestr(f"Actor_{clip.actor}/{clip.clip_id}{suffix}", content(clip))
        for name, bytes_ in members.items():
            zip_file.writestr(name, bytes_)
    return buffer.getvalue()


def video_name(actor):
    return f"video_{actor}.zip"


def video_clips(actor):
    return [
        clip for modality in (AUDIO_VIDEO, VIDEO_ONLY) for clip in speech_clips(actor, modality)
    ]


@functools.cache
def archives():
    videos = {video_name(actor): archive(video_clips(actor)) for actor in ACTORS}
    wavs = [clip for actor in ACTORS for clip in speech_clips(actor, AUDIO_ONLY)]
    return videos | {AUDIO: archive(wavs)}
