"""A bundle in an environment with NumPy and Pillow alone, where as little as possible is allowed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MOST_BYTES", "run_alone"]

ROOT = Path(__file__).parents[2]
MOST_BYTES = 110_000_000  # of site-packages
STRANGER = 54321  # no such user

# First what cannot be undone: memory that may not become executable (PR_SET_MDWE, Linux 6.3), another user, no home.
SCRIPT = """
import ctypes, os, sys
folder, images, user = sys.argv[1], sys.argv[2], int(sys.argv[3])
said = [] if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) else ["memory may not become executable"]
if user:
    os.setgroups([]), os.setgid(user), os.setuid(user)
    said.append("another user")
try:
    open(os.path.join(images, "written"), "w")
except OSError as problem:
    said.append(f"writing: {problem.strerror}")
import bitvit, numpy as np
model = bitvit.load(folder)
side, crop = model.config.image_size, model.preprocessing.crop
planes = np.fromfile(os.path.join(images, "planes.bin"), np.float32).reshape(-1, 3, side, side)
crops = list(np.fromfile(os.path.join(images, "bytes.bin"), np.uint8).reshape(-1, crop, crop, 3))
logits = model(planes)
assert (model.of_bytes(crops) == logits).all() and (model.of_bytes(crops, alone=True) == logits).all()
assert (bitvit.Classifier(folder).logits(crops) == logits).all()
print(logits.tobytes().hex(), "; ".join([model.level, *said]), flush=True)
"""


def run_alone(bundle: Path, folder: Path, expected: bytes) -> Iterator[str]:
    """Make the environment below `folder` and run the bundle in it; yields what was found. Raises AssertionError."""
    place = folder / "alone"
    subprocess.run([_python(), "-m", "venv", "--without-pip", str(place)], check=True)
    packages = next(place.glob("lib/python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(place / "bin/python")]
    subprocess.run([*pip, "install", "numpy", "pillow"], check=True)
    shutil.copytree(ROOT / "bitvit", packages / "bitvit", ignore=shutil.ignore_patterns("__pycache__"))
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    assert size <= MOST_BYTES, f"site-packages have {size} bytes"
    yield f"site-packages: {size:,} bytes, {', '.join(sorted(path.name for path in packages.iterdir()))}"
    root = os.geteuid() == 0
    user = STRANGER if root else 0
    command = [str(place / "bin/python"), "-c", SCRIPT, str(bundle), str(folder), str(user)]
    for before in ([], ["unshare", "--mount", "sh", "-c", 'mount -o remount,bind,ro / && exec "$@"', "sh"]):
        if before and not (root and shutil.which("unshare")):
            yield "read-only root: left out, it needs root and unshare"
            continue
        done = subprocess.run([*before, *command], env={}, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stderr
        logits, _, said = done.stdout.strip().partition(" ")
        assert bytes.fromhex(logits) == expected, "other bits than bitvit's own"
        yield f"bitvit's own bits: {said}"


def _python() -> str:
    """An interpreter that another user can run too: for root this one may lie in its home."""
    system = "/usr/bin/python3"
    private = os.geteuid() == 0 and not os.stat(os.path.expanduser("~")).st_mode & 0o001  # noqa: PTH111, PTH116
    return system if private and os.path.exists(system) else sys.executable  # noqa: PTH110
