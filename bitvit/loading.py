"""bitvit.load: a model from its file, or from a bundle's folder, where neither Numba nor LLVM need be installed."""

import os
from typing import TYPE_CHECKING, cast

from bitvit.files import is_folder
from bitvit.hub import local_path

if TYPE_CHECKING:
    from bitvit.model import BHViT

__all__ = ["load"]


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> "BHViT":
    """Load a packed model file, the folder of a bundle, or a packed model of the Hugging Face Hub.

    The kernels of a file are compiled the first time on a machine, then taken from the cache. A bundle
    (docs/bundle.md) brings its kernels along; what it gives is a bitvit.bundle.model.BundledModel, which can do what a
    BHViT does but for explaining, tracing and profiling.

    path: also hf://owner/name[@revision][/file], which huggingface_hub downloads into its cache (extra `hub`).
    threads: at most this many for one call; default all cores the process may use. Raises ModelFileError; HubError
    for a name of the Hub; ValueError for an impossible number of threads; TypeError for what is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: is of type {type(path).__name__}, expected the path of a packed model")
    path = local_path(path)
    if os.fspath(path) and is_folder(path):
        from bitvit.bundle.model import load_bundle

        return cast("BHViT", load_bundle(path, threads=threads))
    from bitvit.model import load as load_file

    return load_file(path, threads=threads)
