"""The archives of RAVDESS's speech clips, Zenodo record 1188976."""

from collections.abc import Mapping
from typing import NamedTuple

from avjax.data.ravdess import ACTORS
from avjax.preparation.transfer import RemoteFile

_URL = "https://zenodo.org/records/1188976/files/{name}?download=1"


class Record(NamedTuple):
    """A Zenodo record.

    Attributes:
      audio: zip file of all actors' wav files.
      audio_bytes: unpacked size of the wav files.
      videos: each actor's zip file of mp4 files; None if they are not wanted.
    """

    audio: RemoteFile
    audio_bytes: int
    videos: Mapping[int, RemoteFile | None]


def _file(name: str, size: int, md5: str) -> RemoteFile:
    return RemoteFile(name, _URL.format(name=name), size, md5)


_VIDEOS = (  # size in bytes and md5, by actor
    (552_968_353, "3c8ececaf392b4a9b11b32271f4f6d01"),
    (570_673_024, "a6f40d413b2e6ef25b3a595099e59abb"),
    (567_824_665, "68fa240ddd8a3cc410c64efe5fb2b0e4"),
    (546_560_009, "013eed832af1f7e97082aae398a00dbe"),
    (562_966_425, "b00e17d61374ef6ba86fef35d50a20fb"),
    (568_517_859, "3c42877921cc08cfb5c841a0f2cb94a7"),
    (565_652_404, "bdd29bfe082f80361ec6b589845c283d"),
    (562_573_079, "bed5f43d9c18e177e34d4bc1ed9b6d77"),
    (523_489_249, "775da349c50bf915a1bbcb37379bd092"),
    (565_580_163, "70199d1c6902f76e17df308d5c41fa01"),
    (518_634_370, "824504aa41a8fd575e5459d5701dd378"),
    (557_928_718, "2a1f0ddc0ca207beedee6ce2ea863ad7"),
    (501_877_549, "c5f2fd4fd77941636947620368c612b5"),
    (552_484_059, "466d31f4cce92a14b1f4ee884bbdf7d7"),
    (525_205_576, "4b3b9bc8473e86f884630f2506684887"),
    (562_416_513, "a63c54570ebbe6bd616d0dced5630f7e"),
    (551_688_845, "8b7ae3e5a85d2874ac8e1195e722e047"),
    (565_655_520, "fef2131ac361da182c0cb85f3d8e8a6c"),
    (581_121_687, "abb97d97d8c4e88c866cee1cea9d06d6"),
    (561_349_264, "5ddfb22770093bafebdefe8faa449f48"),
    (590_292_896, "d810cf2ff6863ef91306fc7a16d74fbb"),
    (560_907_466, "fee55f72c9871401f23d4b167de3217d"),
    (545_177_865, "b31e8c8904e66102e7a951694db752d6"),
    (595_799_165, "eef90e806c9179bc5b4b098d03647ae3"),
)

RAVDESS = Record(
    audio=_file("Audio_Speech_Actors_01-24.zip", 208_468_073, "bc696df654c87fed845eb13823edef8a"),
    audio_bytes=513_462_676,  # 1440 files: 16-bit samples and headers of 44 bytes
    videos={
        actor: _file(f"Video_Speech_Actor_{actor:02d}.zip", size, md5)
        for actor, (size, md5) in zip(ACTORS, _VIDEOS, strict=True)
    },
)
