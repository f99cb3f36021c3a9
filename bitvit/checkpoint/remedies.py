"""What to do about a file that cannot be read: the ends of messages."""

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FETCH_AGAIN", "GIVE_CHECKPOINT", "RESAVE", "SHARD", "UNPACK", "rewritten", "without_module"]

RESAVE = (
    "if you trust the file, save the weights in the environment it was made in, with the training's options if there "
    "are any: torch.save({'model': model.state_dict(), 'args': vars(args)}, 'weights.pth')"
)
FETCH_AGAIN = "copy or download the file again"
GIVE_CHECKPOINT = "give the training checkpoint (.pth or .safetensors)"
UNPACK = "unpack it and give the checkpoint inside"

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
"""How one file of several is called."""


def rewritten(
    path: str,
    keys: Sequence[object] | None,
    name: str = "k",
    value: str = "v",
    condition: str = "",
    target: Sequence[object] | None = None,
) -> str:
    """The line of Python that writes a file anew, its state dict with other names or values, and all that lies beside;
    of one file of several, which would be a part of a network, that its weights are to be saved anew.

    keys: where in a .pth it is; None: the file is a .safetensors. name, value, condition: expressions of a tensor's
    name k and of the tensor v. target: where it shall be; default: where it is.
    """
    if SHARD.fullmatch(Path(path).name):
        return RESAVE
    chosen = f" if {condition}" if condition else ""
    if keys is None:
        state = f"{{{name}: {value} for k, v in load_file({path!r}).items(){chosen}}}"
        line = (
            "from safetensors import safe_open; from safetensors.torch import load_file, save_file; "
            f"save_file({state}, 'weights.safetensors', safe_open({path!r}, 'pt').metadata())"
        )
    else:
        state = f"{{{name}: {value} for k, v in {_item('c', keys)}.items(){chosen}}}"
        target = keys if target is None else target
        for depth in reversed(range(len(target))):
            state = f"{{**{_item('c', target[:depth])}, {target[depth]!r}: {state}}}"
        line = f"import torch; c = torch.load({path!r}, weights_only=False); torch.save({state}, 'weights.pth')"
    return f"{_config_beside(path)}if you trust the file, write it anew: {line}"


def without_module(path: str, key: object, *, inside: bool) -> str:
    """The line of Python that writes a file with a pickled nn.Module anew: state dicts in place of objects.

    inside: the module lies in a dict under the key; else it is all there is.
    """
    module = f"c[{key!r}]" if inside else "c"
    others = "**{k: v.state_dict() if hasattr(v, 'state_dict') else v for k, v in c.items()}, " if inside else ""
    line = (
        f"import torch; c = torch.load({path!r}, weights_only=False); torch.save({{{others}'model': "
        f"{module}.state_dict(), 'network_config': getattr({module}, 'config', None)}}, 'weights.pth')"
    )
    return f"{_config_beside(path)}if you trust the file and have the code of its class, write it anew: {line}"


def _item(owner: str, keys: Sequence[object]) -> str:
    return owner + "".join(f"[{key!r}]" for key in keys)


def _config_beside(path: str) -> str:
    """What to say of the files of a Hugging Face folder, which nobody looks for beside another file."""
    folder = Path(path).parent
    given = [
        text
        for name, text in (
            ("config.json", f"--config {folder / 'config.json'}"),
            ("preprocessor_config.json", "the --mean and --std of its preprocessor_config.json"),
        )
        if (folder / name).is_file()
    ]
    return f"what this makes is to be given with {' and '.join(given)}; " if given else ""
