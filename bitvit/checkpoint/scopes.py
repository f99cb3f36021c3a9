"""Whose settings a dict of options holds: in a network's, a name that is not known matters, in an optimiser's not."""

import enum
import functools
import re

from bitvit.checkpoint.harmless import is_harmless

__all__ = ["Scope", "inside"]


class Scope(enum.Enum):
    """What the names in a dict speak of."""

    NETWORK = enum.auto()
    """The network: what is not known may change it."""
    TRAINING = enum.auto()
    """The whole training: a dict called config or args is the network's too."""
    PART = enum.auto()
    """A part of the training with settings of its own, such as the data: only a dict called model is a network's."""
    OTHER = enum.auto()
    """Another network, such as a teacher."""


_NETWORKS = "model|net|network|arch|architecture|backbone|vit|bhvit"
_SETTINGS = (
    r"args?|arguments|cfg|conf|configs?|configuration|kwargs|h?params|(?:hyper_?)?parameters|opts?|options|settings"
)
_OF_A_NETWORK = re.compile(rf"(?:{_NETWORKS})(?:_?(?:{_SETTINGS}))?", re.IGNORECASE)
_OF_A_TRAINING = re.compile(rf"(?:(?:init|train|training|script|run|exp|experiment)_?)?(?:{_SETTINGS})", re.IGNORECASE)
_OF_ANOTHER = re.compile(r"teacher.*|kd|distill(?:er|ation)?|critic|discriminator", re.IGNORECASE)
_OF_A_PART = re.compile(r"(?:callbacks?|data|logger|loss|lr_|optim|sched).*", re.IGNORECASE)
_TRAININGS = frozenset(("exp", "experiment", "finetune", "train", "transfer"))


@functools.lru_cache(maxsize=4096)
def inside(scope: Scope, name: str, *, of_network: bool = False) -> Scope:
    """The scope of a dict under a name in a dict of some scope. of_network: they lie in a config.json."""
    harmless = is_harmless(name, of_network=of_network)
    if scope is Scope.OTHER or _OF_ANOTHER.fullmatch(name):
        return Scope.OTHER
    if _OF_A_NETWORK.fullmatch(name) or (scope is not Scope.PART and _OF_A_TRAINING.fullmatch(name)):
        return Scope.NETWORK
    if scope is Scope.TRAINING and _OF_A_PART.fullmatch(name):
        return Scope.PART
    if not harmless:
        return scope
    return Scope.TRAINING if name in _TRAININGS and scope is not Scope.PART else Scope.PART
