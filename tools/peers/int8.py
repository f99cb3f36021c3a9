"""INT8 versions of the classic networks, by NNCF or, where it is missing, by ONNX Runtime's static quantisation.

Calibrated on random images: that decides about accuracy, which random weights do not have, and not about speed.
"""

import contextlib
import io
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.peers.classic import PIXELS, SIZE
from tools.peers.graph import INPUT
from tools.peers.packages import installed, require

IMAGES = 16


def calibration_images(count: int = IMAGES, seed: int = 1) -> list[NDArray[np.float32]]:
    """`count` arrays [1, 3, 224, 224] of standard normal values, as normalised pixels are."""
    random = np.random.default_rng(seed)
    return [random.standard_normal((1, *PIXELS[1:]), np.float32) for _ in range(count)]


def quantiser() -> str:
    """Name of the package that `quantised` uses."""
    return "nncf" if installed("nncf") else "onnxruntime"


def to_openvino(model: bytes) -> Any:
    """A serialised ONNX model as an OpenVINO model, by OpenVINO's own converter.

    Its plain reader leaves ReLU6 in two parts, and MobileNetV2 then loses INT8 in its depthwise convolutions.
    """
    return require("openvino").convert_model(io.BytesIO(model))


def quantised(model: Any, *, transformer: bool) -> Any:
    """An ONNX model with a dynamic batch as an INT8 OpenVINO model.

    transformer: NNCF's scheme for transformers, which knows their layers and smooths their activations.
    """
    if quantiser() == "nncf":
        return _by_nncf(to_openvino(model.SerializeToString()), transformer)
    return to_openvino(_by_onnxruntime(model))


def _by_nncf(network: Any, transformer: bool) -> Any:
    nncf = require("nncf")
    nncf.set_log_level(logging.ERROR)
    network.reshape([1, 3, SIZE, SIZE])
    images = calibration_images()
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(
            network,
            nncf.Dataset(images),
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        )


class _Feed:
    """Images one by one, in the form that ONNX Runtime's calibration asks for."""

    def __init__(self) -> None:
        self._images = iter(calibration_images())

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image}


def _by_onnxruntime(model: Any) -> bytes:
    """QDQ nodes, signed bytes, a scale per output channel of the weights."""
    quantization = require("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model.SerializeToString())
        logging.disable(logging.WARNING)  # it advises a preprocessing of graphs that exporters make
        try:
            quantization.quantize_static(source, target, _Feed(), per_channel=True)
        finally:
            logging.disable(logging.NOTSET)
        return target.read_bytes()
