"""What wrappers of a network put before and between the names of its tensors: taken off."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from bitvit.checkpoint.names import BLOCKS
from bitvit.checkpoint.remedies import RESAVE
from bitvit.errors import CheckpointError
from bitvit.messages import listing, plural, shown

__all__ = ["Naming", "choose_names", "has_network"]

_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_INNER = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_BLOCK = f"{BLOCKS['conv_block']}."  # which every BHViT has: what stands before it is no part of a BHViT's names
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged|shadow)(?=[._])")
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, whose other names begin with 'module.'


class Naming(NamedTuple):
    """Which of a file's tensors are the network's, and what they are called without wrappers."""

    names: Mapping[str, str]
    """Stored name -> name."""
    averages: str | None
    """The prefix under which there are averaged weights beside the trained ones."""
    notes: tuple[str, ...]


def has_network(names: Collection[object]) -> bool:
    """Whether a BHViT's tensors are among these, whatever stands before their names."""
    return any(isinstance(name, str) and _BLOCK in _unwrapped(name) for name in names)


def choose_names(stored: Collection[str], ema: bool, mend: Callable[[str], str]) -> Naming:
    """The network's tensors among those of a file.

    'module.' and '_orig_mod.' are taken off, what torch.compile, FSDP and checkpointing put between the names, and one
    prefix that leaves a BHViT's names, if all tensors have it. There may be averaged weights too, under a prefix that
    says so; ema: take those. mend: what to do about a file whose tensors with one prefix are wanted. Raises
    CheckpointError if it is not plain which those are, or if two names become one.
    """
    notes: list[str] = []
    kept = list(stored)
    if _COUNTER in stored and all(name.startswith("module.") for name in stored if name != _COUNTER):
        kept.remove(_COUNTER)
        notes.append(f"the weights are averages over the training (AveragedModel: {_COUNTER!r} is there)")
    plain = {name: _unwrapped(name) for name in kept}
    prefixes = {name.partition(_BLOCK)[0]: full.partition(_BLOCK)[0] for full, name in plain.items() if _BLOCK in name}
    if not all(prefix.endswith(".") for prefix in prefixes if prefix):
        prefixes = {}  # nothing that could be taken off; these are not a BHViT's names
    by_prefix: dict[str | None, dict[str, str]] = {}
    for full, name in plain.items():
        owner = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)
        by_prefix.setdefault(owner, {})[full] = name[len(owner or "") :]
    averaged = [prefix for prefix in prefixes if _AVERAGED.search(prefix)]
    trained = [prefix for prefix in prefixes if prefix not in averaged]
    wanted = (averaged if ema else trained) or trained or averaged
    if not wanted:
        return Naming(_unique(plain), None, tuple(notes))
    others = by_prefix.get(None, {})
    if len(wanted) > 1 or others:
        raise _unclear(wanted, list(others), mend(prefixes[wanted[0]]))
    if wanted[0]:
        notes.append(f"the names begin with {shown(wanted[0])}, which was taken off")
    return Naming(_unique(by_prefix[wanted[0]]), averaged[0] if averaged and trained else None, tuple(notes))


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return _INNER.sub("", name)


def _unique(names: dict[str, str]) -> dict[str, str]:
    """The same, once no two names have become one."""
    seen: set[str] = set()
    for name in names.values():
        if name in seen:
            raise CheckpointError(f"{shown(name)} occurs with and without a prefix such as 'module.'; {RESAVE}")
        seen.add(name)
    return names


def _unclear(prefixes: Collection[str], others: Collection[str], remedy: str) -> CheckpointError:
    """The error of a state dict with more than one network in it, or with one and more."""
    if len(prefixes) > 1:
        what = f"holds {plural(len(prefixes), 'network')}: names begin with {listing(prefixes)}; save one of them alone"
    else:
        (prefix,) = prefixes
        what = (
            f"its network's names begin with {shown(prefix)}, but {plural(len(others), 'tensor')} without belong to "
            f"something else: {listing(others)}; save the network alone"
        )
    return CheckpointError(f"{what}; {remedy}")
