"""Paths in messages, and what a text that names no file is instead: a URL, an image in base64, a `~`."""

import binascii
import os
import re

from bitvit.messages import LONGEST_WORD, shown

__all__ = ["is_encoded", "is_web_address", "no_path", "path_text"]

_OTHERS = (
    (re.compile(r"file:/"), "is a URL, expected a path; leave out file://"),
    (re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/"), "is a URL, expected a path; download the file first"),
    (re.compile(r"~"), "no such file; write the home folder out, as os.path.expanduser does"),
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+=*\s*")
# JPEG, PNG, GIF, WEBP, BMP, TIFF and PPM begin so.
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")
_LONGEST_PATH = 4096  # characters: PATH_MAX of Linux


def path_text(path: str | os.PathLike[str]) -> str:
    """A path as a message shows it: whole, unless it is empty or must be something else, which may have megabytes."""
    text = os.fsdecode(path)
    if text and len(text) <= LONGEST_WORD and not is_encoded(text):
        return text
    return f"{shown(text)} ({len(text):,} characters)"


def is_web_address(text: str) -> bool:
    """Whether it begins as http:// and https:// addresses do."""
    return text[:8].lower().startswith(("http://", "https://"))


def no_path(text: str) -> str | None:
    """What the text is, and what to do about it, for a message; None if it may be a mistyped path."""
    if is_encoded(text):
        return (
            "is base64, the text form of a file; give the bytes that base64.b64decode(text) makes of it (of a data: "
            "URI, what is behind the comma)"
        )
    return next((said for pattern, said in _OTHERS if pattern.match(text)), None)


def is_encoded(text: str) -> bool:
    """Whether a text, or the beginning of one, is a data: URI, an image in base64, or base64 longer than any path."""
    if text.startswith("data:"):
        return True
    if "." in text[:_LONGEST_PATH] or not _BASE64.fullmatch(text[:_LONGEST_PATH]):  # a dot is found sooner
        return False
    letters = "".join(text[:64].split()).replace("-", "+").replace("_", "/")
    if len(text) > _LONGEST_PATH:
        return True
    return len(letters) >= 32 and binascii.a2b_base64(letters[:16]).startswith(_IMAGES)
