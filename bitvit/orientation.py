"""The orientation that a camera or phone notes in an image's EXIF data, for the image to be turned when it is shown.

The training code does not turn images, so neither does bitvit unless asked to. The orientation of a TIFF is another
matter: Pillow turns the image while reading it, for the training code as for bitvit, and then forgets the note.
"""

from PIL import ExifTags, Image

__all__ = ["orientation", "upright"]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Value of the EXIF tag -> what brings the image upright. 1 is upright already."""

# Where Pillow keeps what formats hold of EXIF and XMP. Without them there is nothing to be parsed.
_PLACES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def orientation(image: Image.Image) -> int:
    """1 … 8, as EXIF counts; 1, upright, where nothing is noted, or what is noted cannot be read."""
    if not any(place in image.info for place in _PLACES):
        return 1
    try:
        noted = image.getexif().get(ExifTags.Base.Orientation, 1)
        return noted if noted in _TURNS else 1
    except Exception:  # anything may stand there, and no image is refused for it
        return 1


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data says, without that data; the image itself if it is upright."""
    turn = _TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    for place in _PLACES:
        turned.info.pop(place, None)
    return turned
