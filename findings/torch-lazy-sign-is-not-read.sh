#!/usr/bin/env bash
# In a .pth, {"neg": False} among a tensor's metadata turns its sign, just as {"neg": True} does.
#
# torch.save stores a lazily negated tensor (x.imag of a conjugate, for one) as the storage's bytes and a dict {"neg": True}
# as the seventh argument of torch._utils._rebuild_tensor_v2; {"conj": True} likewise. One expects the value to say
# whether the sign is turned, so that a writer that names every flag ({"neg": False, "conj": False}) stores a plain
# tensor. torch.load looks at the keys alone: any value under "neg", False too, gives the negated tensor. A reader of
# checkpoints that obeys the value gets every weight of such a file with the other sign.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the versions below.
set -euo pipefail

TORCH=2.13.0
NUMPY=2.4.6
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check "torch==$TORCH" "numpy==$NUMPY"

cat >flags.py <<'END'
import collections
import io

import torch


class Stored:
    """Pickles as a tensor of ones, with metadata as torch.save writes it."""

    def __init__(self, metadata):
        self.metadata = metadata

    def __reduce__(self):
        storage = torch.ones(2).untyped_storage()
        typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
        hooks = collections.OrderedDict()
        return torch._utils._rebuild_tensor_v2, (typed, 0, (2,), (1,), False, hooks, self.metadata)


def loaded(metadata):
    file = io.BytesIO()
    torch.save(Stored(metadata), file)
    file.seek(0)
    return torch.load(file, weights_only=True).tolist()


def own():
    """What torch.save itself writes for a lazily negated tensor, read again."""
    file = io.BytesIO()
    lazy = torch.complex(torch.zeros(2), torch.ones(2)).conj().imag
    assert lazy.is_neg()
    torch.save(lazy, file)
    file.seek(0)
    return torch.load(file, weights_only=True).tolist()


print("torch", torch.__version__)
found = {str(metadata): loaded(metadata) for metadata in ({}, {"neg": True}, {"neg": False})}
for metadata, values in found.items():
    print(f"ones stored with {metadata}: {values}")
print("a lazily negated tensor of ones, saved and loaded:", own())
assert found == {"{}": [1, 1], "{'neg': True}": [-1, -1], "{'neg': False}": [-1, -1]}, found
END
environment/bin/python flags.py
