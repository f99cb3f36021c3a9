"""What config.json and the training script's options say about a network, typed; and that they leave nothing unclear.

Either may hold any of these fields, a saved config or the `hyper_parameters` of a framework as well, in dicts of any
depth. A field that is neither known here nor known to be harmless may change the network: it is an error that names it.
"""

import functools
import itertools
import math
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bitvit.checkpoint.harmless import is_harmless, names_classes, says_nothing
from bitvit.checkpoint.inert import Opaque, Unnamed, key_text
from bitvit.checkpoint.scopes import Scope, inside
from bitvit.config import Config, Four, check_field
from bitvit.errors import ConfigError
from bitvit.messages import listing, shown

__all__ = ["ARGS", "CONFIG", "KNOWN", "Claims", "facts", "finite", "read_claims", "spoken_of"]

_INTEGERS = """
    image_size input_size window_size attn_window patch_size num_channels num_hidden_layersA num_hidden_layersB
    nb_classes weight_bits input_bits
"""
_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(_INTEGERS.split(), int),
    **dict.fromkeys(("hidden_size", "depths", "num_attention_heads", "intermediate_size"), Four),
    **dict.fromkeys(("shift3", "shift5", "replace_ln_bn", "disable_layerscale", "gsb", "some_fp"), bool),
    **dict.fromkeys(("stain_instance_norm", "coord_conv", "use_sinusoidal_pe"), bool),
    "token_pool": Literal["mean", "attn", "topk"],
    "topk_ratio": float,
}
_SAME = {
    "num_classes": "nb_classes",
    "img_size": "input_size",
    "in_chans": "num_channels",
}  # what other scripts call a field
KNOWN = frozenset((*_KINDS, *_SAME))
"""Names that say something of a network."""

# What tensors do not tell, where it stands in text: a command line, a script's configuration, a printed Namespace
_UNTOLD = ("window_size", "attn_window", "token_pool", "topk_ratio", "weight_bits", "input_bits")
_SPOKEN = re.compile(rf"(?<![a-z0-9])({'|'.join(_UNTOLD).replace('_', '[_-]')})(?![a-z0-9])", re.IGNORECASE)
_LONGEST_TEXT = 20_000  # characters
_LONGEST_PATH = 500  # characters
_MOST_IGNORED = 1000  # names in a message: a stranger's file must not fill the screen for ever
_SIDES = ("image_size", "input_size", "window_size", "attn_window", "patch_size")
_FOUR_NUMBERS = re.compile(r"[\[(]?\s*\d{1,9}(?:[\s,]+\d{1,9}){3}\s*[\])]?")
_OF_THE_FORK = ("stain_instance_norm", "coord_conv", "use_sinusoidal_pe", "token_pool", "topk_ratio")
CONFIG, ARGS = "config.json", "the checkpoint's args"


@dataclass(frozen=True)
class Claims:
    """Typed values by name, and where each comes from."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    switched_off: tuple[str, ...] = ()
    """Fields that are not known, and are False."""

    def get(self, name: str) -> Any:
        """The value, None if nothing says it."""
        return self.values.get(name)

    def image_size(self) -> tuple[str, int] | None:
        """Who says the image's side, and what. The option replaces what config.json says (SPEC 7.9.7)."""
        name = "input_size" if "input_size" in self.values else "image_size"
        return (name, self.values[name]) if name in self.values else None

    def doubtful_window(self) -> str | None:
        """The additions of a fork whose code does not read window_size, if that is what says the window."""
        others = [name for name in _OF_THE_FORK if name in self.values]
        return listing(others) if others and "window_size" in self.values and "attn_window" not in self.values else None

    def disagreement(self, name: str, other: object, other_origin: str) -> ConfigError:
        """The error of a field that something else contradicts."""
        origin = self.origins[name]
        remedy = (
            "give the config.json of the checkpoint's own training"
            if not other_origin.startswith(ARGS) and origin != ARGS
            else "take the checkpoint and config.json of one training, or, if the option is left over from another, "
            f"ignore it: --ignore {name}"
        )
        return ConfigError(f"{name} is {self.values[name]} in {origin} but {other} in {other_origin}; {remedy}")


def read_claims(
    config_json: Mapping[str, Any] | None, args: Mapping[str, Any] | None, ignore: Collection[str] = ()
) -> Claims:
    """The fields that matter of both sources. None counts as absent, and so do the names in `ignore`.

    A field that is not known but False is taken for an addition that is not there; `switched_off` has its name.

    Raises ConfigError for a field of a wrong type, for one that is not known, for two that contradict each other, and
    for weights or activations of other than one bit.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    switched_off: list[str] = []
    all_unknown: dict[str, dict[str, Any]] = {}
    for source, origin in ((config_json, CONFIG), (args, ARGS)):
        unknown = all_unknown[origin] = {}
        texts: dict[str, str | list[Any] | tuple[Any, ...]] = {}
        objects: dict[str, object] = {}
        for path, value in _leaves(source or {}, ignore, of_network=origin == CONFIG):
            name = path.rpartition(".")[2]
            known = _SAME.get(name, name)
            if known not in _KINDS and value is False:
                switched_off.append(path)
                continue
            if known not in _KINDS:
                (texts if spoken_of(value) else unknown)[path] = value
                continue
            if _is_unread(value):
                objects[path] = value
                continue
            typed = _typed(known, value, path, origin)
            if known in values and values[known] != typed:
                place = origin if path == known else f"{origin} ({path})"
                raise Claims(values, origins).disagreement(known, typed, place)
            values[known], origins[known] = typed, origin
        for path, text in texts.items():
            for name in spoken_of(text):
                if name not in values:
                    raise _unread(f"{path} speaks of {name}, but as text", path, text, name, origin)
        for path, value in objects.items():
            name = path.rpartition(".")[2]
            if _SAME.get(name, name) not in values:
                raise _unread(f"{path} is an object", path, value, name, origin)
    if any(all_unknown.values()):
        raise _unknown(all_unknown)
    claims = Claims(values, origins, tuple(dict.fromkeys(switched_off)))
    _refuse_bits(claims)
    _check_window_names(claims)
    return claims


def _leaves(
    fields: Mapping[str, Any],
    ignore: Collection[str],
    place: str = "",
    scope: Scope = Scope.NETWORK,
    *,
    of_network: bool,
) -> Iterator[tuple[str, Any]]:
    """The fields that matter, by their path through dicts in one another, as in 'model.depths'.

    scope: unknown fields matter in a network's; in a dict of the data or of the optimiser, say, only those of a network
    do. of_network: they are those of a config.json.
    """
    for key, value in fields.items():
        name = key_text(key)
        path, harmless = place + name, is_harmless(name, of_network=of_network)
        if value is None or name in ignore or path in ignore or names_classes(name):
            continue
        if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value) and name not in KNOWN:
            value = {str(number): item for number, item in enumerate(value)}
        below = inside(scope, name, of_network=of_network)
        if isinstance(value, Mapping) and name not in _KINDS:
            yield from _leaves(value, ignore, f"{path}.", below, of_network=of_network)
        elif (
            name in KNOWN
            or (scope is Scope.NETWORK and not harmless and not _is_empty(value))
            or (isinstance(value, Unnamed) and below is Scope.NETWORK)
            or spoken_of(value)
        ):
            yield path, value


def spoken_of(value: object) -> list[str]:
    """Fields of a network that tensors do not tell, of which text speaks, or the texts of a list."""
    text = ""
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str) and len(text) < _LONGEST_TEXT:
            text += item[:_LONGEST_TEXT] + "\n"
    return list(_names_in(text[:_LONGEST_TEXT])) if text else []


@functools.lru_cache(maxsize=1024)  # the same text may lie in many places: a stranger's file must not cost minutes
def _names_in(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(match[1].lower().replace("-", "_") for match in _SPOKEN.finditer(text)))


def _is_empty(value: object) -> bool:
    """Whether an option is empty, or is no setting at all but an object, such as a date."""
    if isinstance(value, Opaque):
        return says_nothing(value.what)
    return value == "" or (isinstance(value, list | tuple) and not value)


def _unknown(by_origin: Mapping[str, Mapping[str, Any]]) -> ConfigError:
    """The error of fields that are not known: it names some of each source's, and its remedy holds all."""
    named = [
        f"{origin}: {listing(fields.items(), show=lambda field: f'{_readable(field[0])} ({shown(field[1])})')}"
        for origin, fields in by_origin.items()
        if fields
    ]
    names = itertools.islice(dict.fromkeys(itertools.chain.from_iterable(by_origin.values())), _MOST_IGNORED)
    return ConfigError(
        f"{'; '.join(named)}: not known here, and may change the network; expected fields of BHViT "
        "and options of its training. If it computes the same without, say so: "
        + " ".join(f"--ignore {shlex.quote(_readable(name))}" for name in names)
    )


def _readable(path: str) -> str:
    """A path of names that come from a file."""
    return path if path.isprintable() and len(path) <= _LONGEST_PATH else shown(path)


def _is_unread(value: object) -> bool:
    """Whether a field's value, or one in its list, is an object, such as a NumPy scalar, or a tensor."""
    return any(isinstance(item, Opaque) for item in (value if isinstance(value, list | tuple) else [value]))


def _unread(what: str, path: str, value: object, name: str, origin: str) -> ConfigError:
    return ConfigError(
        f"{origin}: {what}, which is not read ({shown(value)}); give a config.json with the field {name}, or if it is "
        f"that of an ordinary BHViT, say so: --ignore {path}"
    )


def _typed(name: str, value: Any, called: str, origin: str) -> Any:
    """A value of the field's type: JSON's lists as tuples, numbers and flags also as scripts store them."""
    kind = _KINDS[name]
    if isinstance(value, list):
        value = tuple(value)
    if kind in (int, Four):
        value = _numbers(value)
    if name in _SIDES and isinstance(value, tuple) and len(value) in (2, 3) and value[-1] == value[-2]:
        value = value[-1]  # (height, width), or timm's (channels, height, width)
    if name == "num_attention_heads" and isinstance(value, tuple):
        value = (1, 1, *value[2:])  # the first two stages have no attention, whatever is written there
    if kind in (bool, float, int) and isinstance(value, str):
        value = _spelt(value)
    if kind is int:
        value = _whole(value)
    if kind is bool and type(value) is int and value in (0, 1):
        value = bool(value)
    try:
        if kind is float:
            return _number(name, value)
        check_field(name, kind, value)
    except ConfigError as problem:
        where = origin if called == name else f"{origin} ({called})"
        raise ConfigError(f"{where}: {problem}") from None
    return value


def _whole(value: object) -> object:
    """1 for 1.0; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _numbers(value: object) -> object:
    """A tuple with integers for what is one by another type, also where four are written out; else the value."""
    if isinstance(value, str) and _FOUR_NUMBERS.fullmatch(value.strip()):
        value = tuple(re.findall(r"\d+", value))
    if not isinstance(value, tuple):
        return value
    return tuple(_whole(_spelt(item) if isinstance(item, str) else item) for item in value)


def _spelt(text: str) -> object:
    """The number or flag that is written out; anything else as it is."""
    flag = {"true": True, "false": False}.get(text.strip().lower())
    if flag is not None:
        return flag
    try:
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else float(text)
    except ValueError:
        return text


def finite(value: object) -> float | None:
    """A number as a float; None for anything else, for what is not finite and for an integer beyond every float."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _number(name: str, value: object) -> float:
    number = finite(value)
    if number is None:
        raise ConfigError(f"{name} is {shown(value)}, expected a number")
    return number


def _refuse_bits(claims: Claims) -> None:
    """Weights and activations of one bit (SPEC 7.8: others can be trained)."""
    for name in ("weight_bits", "input_bits"):
        if claims.get(name) not in (None, 1):
            raise ConfigError(
                f"{name} is {claims.get(name)} in {claims.origins[name]}, expected 1; only binary networks can be "
                "converted"
            )


def _check_window_names(claims: Claims) -> None:
    """Each of two codes reads one name of the window and not the other (SPEC 7.9.6)."""
    window, attn_window = claims.get("window_size"), claims.get("attn_window")
    if None not in (window, attn_window) and window != attn_window:
        raise claims.disagreement("window_size", attn_window, f"{claims.origins['attn_window']} (attn_window)")


def facts(config: Config) -> Mapping[str, object]:
    """What the fields would say of a network, those that tensors tell."""
    return {
        "hidden_size": config.hidden_sizes,
        "depths": config.depths,
        "intermediate_size": config.intermediate_sizes,
        "num_attention_heads": config.num_heads,
        "num_hidden_layersA": sum(config.depths[:2]),
        "num_hidden_layersB": sum(config.depths[2:]),
        "patch_size": 4,
        "num_channels": 3,
        "nb_classes": config.num_classes,
        "shift3": config.shift3,
        "shift5": config.shift5,
        "replace_ln_bn": config.norm == "batch",
        "disable_layerscale": not config.layer_scale,
        "gsb": config.quantizer == "gsb",
        "some_fp": config.downsampling == "float",
        "stain_instance_norm": config.image_norm,
        "coord_conv": config.coordinates,
        "use_sinusoidal_pe": config.positions == "sinusoidal",
    }
