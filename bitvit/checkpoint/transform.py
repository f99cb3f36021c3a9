"""What a checkpoint says of the preparation of images that a conversion does not follow."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bitvit.checkpoint.claims import ARGS, CONFIG, finite
from bitvit.checkpoint.options import groups
from bitvit.messages import shown

if TYPE_CHECKING:
    from bitvit.checkpoint.read import Checkpoint
    from bitvit.preprocess import Preprocessing

__all__ = ["not_followed"]

PROCESSOR = "preprocessor_config.json"
_RATIOS = ("eval_crop_ratio", "crop_pct")  # DeiT's name and timm's: the crop's side over that of the resized image
_PROCESSORS = {"do_normalize", "image_mean", "image_std", "rescale_factor"}
"""Fields by which those of an image processor are known among others."""
_BICUBIC = (3, "bicubic", "")


def not_followed(checkpoint: "Checkpoint", chosen: "Preprocessing", *, sized: bool, normalised: bool) -> list[str]:
    """Settings that would make other pixels than `chosen` does, each with what to do about it: a note for each source.

    sized, normalised: the user gave the resizing, or mean and standard deviation.
    """
    by_source = {
        origin: [
            text
            for fields in groups(source or {})
            for told in (_of_options, *([_of_processor] if _PROCESSORS & fields.keys() else []))
            for text in told(fields, chosen, sized, normalised)
        ]
        for origin, source in ((ARGS, checkpoint.args), (CONFIG, checkpoint.config))
    }
    by_source[PROCESSOR] = [*_of_processor(checkpoint.preprocessor or {}, chosen, sized, normalised)]
    return [
        f"not followed in the preprocessing: {source}: {'; '.join(dict.fromkeys(texts))}"
        for source, texts in by_source.items()
        if texts
    ]


def _of_options(fields: Mapping[str, Any], chosen: "Preprocessing", sized: bool, normalised: bool) -> Iterator[str]:
    resized = 0 if sized else chosen.resize or 0
    for name in _RATIOS if resized else ():
        ratio = finite(fields.get(name))
        if ratio is not None and 0 < ratio <= 1 and abs(int(chosen.crop / ratio) - resized) > 1:
            yield f"{name} {ratio:g}: if it was used in evaluations, give --resize {int(chosen.crop / ratio)}"
    if fields.get("interpolation") not in (None, "random", *_BICUBIC) and chosen.resize:
        yield f"interpolation {shown(fields['interpolation'])}: images are resized bicubically"
    if not normalised:
        yield from _normalization(fields, ("mean", "std"), chosen)


def _of_processor(fields: Mapping[str, Any], chosen: "Preprocessing", sized: bool, normalised: bool) -> Iterator[str]:
    size = fields.get("size")
    if fields.get("do_resize", True) and not sized and chosen.resize:
        side = size.get("shortest_edge") if isinstance(size, Mapping) else None
        if type(side) is int and side >= chosen.crop and side != chosen.resize:
            yield f"shortest_edge {side}: give --resize {side}"
        elif size is not None and side is None:
            yield f"size {_short(size)}: images are resized by their shorter edge and cropped, not to one size"
    if fields.get("resample", 3) not in _BICUBIC and chosen.resize:
        yield f"resample {shown(fields['resample'])}: images are resized bicubically"
    if normalised:
        return
    if fields.get("do_normalize") is False:
        yield "do_normalize false: for pixels from 0 to 1 give --mean 0 --std 1"
    else:
        yield from _normalization(fields, ("image_mean", "image_std"), chosen)
    factor = finite(fields.get("rescale_factor"))
    if factor is not None and abs(factor * 255 - 1) > 1e-3:
        yield f"rescale_factor {factor:g}: pixels are divided by 255 before mean and std"


def _normalization(fields: Mapping[str, Any], names: tuple[str, str], chosen: "Preprocessing") -> Iterator[str]:
    said = {name: fields[name] for name in names if fields.get(name) is not None}
    used = dict(zip(names, (chosen.mean, chosen.std), strict=True))
    if any(not isinstance(value, list | tuple) or tuple(value) != used[name] for name, value in said.items()):
        yield f"{_short(said)}: if images were normalised with that, give --mean and --std, for pixels from 0 to 1"


def _short(value: object) -> str:
    """A value on one line, a dict as its pairs."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(item)}" for name, item in list(value.items())[:4])
    return shown(value)
