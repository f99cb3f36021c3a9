"""What to do about a file that cannot be read: the ends of messages."""

from collections.abc import Sequence

__all__ = ["FETCH_AGAIN", "GIVE_CHECKPOINT", "RESAVE", "UNPACK", "rewritten"]

RESAVE = (
    "if you trust the file, save the weights alone in the environment it was made in: "
    "torch.save({'model': model.state_dict()}, 'weights.pth')"
)
FETCH_AGAIN = "copy or download the file again"
GIVE_CHECKPOINT = "give the training checkpoint (.pth or .safetensors)"
UNPACK = "unpack it and give the checkpoint inside"


def rewritten(path: str, keys: Sequence[object] | None, name: str = "k", value: str = "v", condition: str = "") -> str:
    """The line of Python that writes a file's state dict anew with other names or values.

    keys: where in a .pth it is; None: the file is a .safetensors. name, value, condition: expressions of a tensor's
    name k and of the tensor v.
    """
    if keys is None:
        module, state = "from safetensors.torch import load_file, save_file", f"load_file({path!r})"
        save, target = "save_file", "weights.safetensors"
    else:
        module, state = "import torch", f"torch.load({path!r}, weights_only=False)"
        save, target = "torch.save", "weights.pth"
        state += "".join(f"[{key!r}]" for key in keys)
    chosen = f" if {condition}" if condition else ""
    line = f"{module}; {save}({{{name}: {value} for k, v in {state}.items(){chosen}}}, {target!r})"
    return f"if you trust the file, write it anew: {line}"
