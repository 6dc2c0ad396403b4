"""Names files that stand in for others: pointers, web pages, archives."""

HEAD_BYTES = 512  # of a file that `impostor` needs
_BEGINNINGS = {
    b"version https://git-lfs": (
        "is a pointer of Git LFS; fetch the file itself with git lfs pull"
    ),
    b"<!doctype html": "is a saved web page; download the file that it links to",
    b"<html": "is a saved web page; download the file that it links to",
    b"\x1f\x8b": "is a gzip archive; unpack it",
    b"pk\x03\x04": "is a zip archive; unpack it",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive; unpack it",
    b"rar!": "is a RAR archive; unpack it",
    b"\x89hdf": "is an HDF5 file; choose another file",
}


def impostor(head: bytes) -> str | None:
    """Says what a file is, and the remedy, if it is something that stands in a file's place.

    Args:
      head: the file's first `HEAD_BYTES`.
    """
    if not head:
        return "is empty; replace the file"
    beginning = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for mark, what in _BEGINNINGS.items() if beginning.startswith(mark)), None)
