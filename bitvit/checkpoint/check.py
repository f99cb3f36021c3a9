"""State dicts that are not what we want: another network's, a fork's, a part of one."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from bitvit.checkpoint.names import BLOCKS
from bitvit.checkpoint.shapes import expected_tensors, is_optional
from bitvit.config import Config
from bitvit.errors import CheckpointError
from bitvit.messages import MOST_LISTED, listing, plural, shown

__all__ = ["check_state", "refuse_foreign"]

State = Mapping[str, NDArray[Any]]

_BLOCK = f"{BLOCKS['conv_block']}."
_ARCHITECTURES = (
    ("layer1.0.conv1.", "a ResNet"),
    ("blocks.0.attn.", "a DeiT or timm ViT"),
    ("layers.0.blocks.0.attn.", "a Swin transformer"),
    ("vit.encoder.layer.0.", "a plain Hugging Face ViT"),
)


def refuse_foreign(state: State) -> None:
    """CheckpointError unless the names are a BHViT's."""
    if any(name.startswith(_BLOCK) for name in state):
        return
    first = f"the first names are {listing(state)}"
    if any(name.startswith("vit.encoder.layer.") and ".rprelu" in name for name in state):
        raise CheckpointError(f"this is a BinaryViT, expected a BHViT; {first}")
    for name in state:
        prefix, found, _ = name.partition(_BLOCK)
        if found:
            raise CheckpointError(f"names begin with {prefix!r}, expected 'vit.'; save them without ({first})")
        for start, architecture in _ARCHITECTURES:
            if name.startswith(start):
                raise CheckpointError(f"this is {architecture}, expected a BHViT; {first}")
    raise CheckpointError(f"this is not a BHViT state dict: none of '{_BLOCK}..'; {first}")


def check_state(state: State, config: Config) -> None:
    """CheckpointError unless the state dict has exactly the names, shapes and kinds of number that SPEC section 3 gives
    for the config; tensors without influence may be absent and are not looked at."""
    expected, missing, wrong = set(), [], []
    for tensor in expected_tensors(config):
        name, found = tensor.authors_name, state.get(tensor.authors_name)
        expected.add(name)
        if is_optional(tensor.name):
            continue
        if found is None:
            missing.append(name)
        elif found.shape != tensor.shape or found.dtype.kind != "f":
            shape = list(found.shape)
            wrong.append(f"{shown(name)} is {found.dtype}{shape}, expected float{list(tensor.shape)}")
    faults = list(_describe_unexpected([name for name in state if name not in expected], expected))
    if missing:
        faults.append(f"{plural(len(missing), 'tensor')} missing: {listing(missing)}")
    if wrong:
        more = f" and {len(wrong) - MOST_LISTED} more" if len(wrong) > MOST_LISTED else ""
        faults.append("; ".join(wrong[:MOST_LISTED]) + more)
    if faults:
        raise CheckpointError(f"not a BHViT as published: {'; '.join(faults)}; take an unmodified checkpoint")


def _describe_unexpected(names: Collection[str], expected: Collection[str]) -> Iterator[str]:
    """Tensors that no BHViT has, apart from whole modules that a fork has added."""
    if not names:
        return
    modules = {module for name in expected for module in _modules(name)}
    extra: Counter[str] = Counter()
    tensors = []
    for name in names:
        module = next((module for module in _modules(name) if module not in modules), None)
        if module is None:
            tensors.append(name)
        else:
            extra[module] += 1
    if extra:
        yield f"{plural(len(extra), 'extra module')} of a fork, not part of BHViT: {listing(extra)}"
    if tensors:
        yield f"{plural(len(tensors), 'unexpected tensor')}: {listing(tensors)}"


def _modules(name: str) -> Iterator[str]:
    """The modules that a tensor lies in, from the outermost on."""
    return (name[:end] for end, letter in enumerate(name) if letter == ".")
