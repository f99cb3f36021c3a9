"""Everything that can be timed: how to make it, its best settings, and whether it computes the same as bitvit."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.config import Config
from bitvit.model import load
from tools.peers import classic
from tools.peers.bhvit import State, bhvit_model
from tools.peers.eager import eager
from tools.peers.graph import INPUT
from tools.peers.int8 import quantised, quantiser, to_openvino
from tools.peers.packages import PeersError, installed, require

Pixels = NDArray[np.float32]  # [batch, 3, S, S], contiguous
Run = Callable[[Pixels], NDArray[Any]]  # to logits [batch, L], perhaps in memory that the next call uses again


@dataclass
class Networks:
    """One BHViT and the classic networks; graphs are made when first asked for."""

    state: State
    config: Config
    packed: Path  # the same network as a bitvit model file
    _bhvit: dict[tuple[int, bool], Any] = field(default_factory=dict)
    _classic: dict[tuple[str, bool], Any] = field(default_factory=dict)

    def bhvit(self, batch: int, *, latent: bool = False) -> Any:
        """ONNX model; only the last one is kept, it is as large as the checkpoint."""
        if (batch, latent) not in self._bhvit:
            self._bhvit = {(batch, latent): bhvit_model(self.state, self.config, batch, latent=latent)}
        return self._bhvit[batch, latent]

    def classic(self, name: str, *, int8: bool) -> Any:
        """OpenVINO model of 'deit' or 'mobilenet'."""
        if (name, int8) not in self._classic:
            model = (classic.deit_tiny() if name == "deit" else classic.mobilenet_v2()).model
            made = quantised(model, transformer=name == "deit") if int8 else to_openvino(model.SerializeToString())
            self._classic[name, int8] = made
        return self._classic[name, int8]


@dataclass(frozen=True)
class Contender:
    """A network in an engine."""

    key: str
    network: str  # 'BHViT' is the checkpoint's
    engine: str
    settings: str  # what was done to make it fast, in words
    needs: tuple[str, ...]  # packages
    make: Callable[[Networks, int, int], Run]  # networks, threads, batch
    usual: bool = True  # taken part in unless --contenders says otherwise

    def missing(self) -> list[str]:
        """Packages that it lacks on this machine."""
        return [name for name in self.needs if not installed(name)]

    def pixels(self, config: Config, batch: int, seed: int = 0) -> Pixels:
        """One image of standard normal values, as normalised pixels are, `batch` times."""
        size = config.image_size if self.network == "BHViT" else classic.SIZE
        one = np.random.default_rng(seed).standard_normal((1, 3, size, size), np.float32)
        return np.repeat(one, batch, axis=0)


# ----------------------------------------------------------------------------------------------------- the engines


def _bitvit(networks: Networks, threads: int, _batch: int) -> Run:
    model = load(networks.packed, threads=threads)
    if model.threads != threads:
        raise PeersError(
            f"bitvit may use only {model.threads} of {threads} threads here; unset OMP_NUM_THREADS and"
            " BITVIT_NUM_THREADS, or raise the container's CPU quota"
        )
    return model


def _onnxruntime(networks: Networks, threads: int, batch: int) -> Run:
    """Worker threads spin between the operators of a call, but not between calls."""
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    model = networks.bhvit(batch).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {INPUT: pixels})[0]


def openvino_run(model: Any, threads: int, shape: Sequence[int], precision: str | None) -> Run:
    """precision: of what is not quantised; None leaves it to OpenVINO, which takes bfloat16 where the CPU has it."""
    openvino = require("openvino")
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision is not None:
        hints["INFERENCE_PRECISION_HINT"] = precision
    model = model.clone()
    model.reshape(list(shape))
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    return lambda pixels: request.infer({0: pixels}, share_inputs=True, share_outputs=True)[0]


def _openvino_bhvit(networks: Networks, threads: int, batch: int) -> Run:
    size = networks.config.image_size
    return openvino_run(to_openvino(networks.bhvit(batch).SerializeToString()), threads, (batch, 3, size, size), "f32")


def _openvino_classic(name: str, *, int8: bool) -> Callable[[Networks, int, int], Run]:
    def make(networks: Networks, threads: int, batch: int) -> Run:
        shape = (batch, *classic.PIXELS[1:])
        return openvino_run(networks.classic(name, int8=int8), threads, shape, None if int8 else "f32")

    return make


def _torch(*, latent: bool) -> Callable[[Networks, int, int], Run]:
    def make(networks: Networks, threads: int, batch: int) -> Run:
        torch = require("torch")
        torch.set_num_threads(threads)
        forward = eager(networks.bhvit(batch, latent=latent))

        def run(pixels: Pixels) -> NDArray[Any]:
            with torch.inference_mode():
                return forward(torch.from_numpy(pixels)).numpy()

        return run

    return make


_LATENCY = "latency hint, one stream"
_FLOAT32 = f"{_LATENCY}, float32"
_INT8 = f"{_LATENCY}, bfloat16 for the rest where the CPU has it"

CONTENDERS = (
    Contender("bitvit", "BHViT", "bitvit", "packed model", (), _bitvit),
    Contender("bhvit-openvino", "BHViT", "OpenVINO float32", _FLOAT32, ("onnx", "openvino"), _openvino_bhvit),
    Contender(
        "bhvit-onnxruntime",
        "BHViT",
        "ONNX Runtime float32",
        "all graph optimisations",
        ("onnx", "onnxruntime"),
        _onnxruntime,
    ),
    Contender(
        "bhvit-torch",
        "BHViT",
        "PyTorch eager float32",
        "inference mode, the graph's operators, weights binarised beforehand",
        ("onnx", "torch"),
        _torch(latent=False),
    ),
    Contender(
        "bhvit-torch-training",
        "BHViT",
        "PyTorch eager float32, binarising",
        "inference mode, weights binarised in every call, as the training code does",
        ("onnx", "torch"),
        _torch(latent=True),
        usual=False,
    ),
    Contender(
        "deit-int8",
        "DeiT-Tiny",
        "OpenVINO INT8",
        _INT8,
        ("onnx", "openvino"),
        _openvino_classic("deit", int8=True),
    ),
    Contender(
        "mobilenet-int8",
        "MobileNetV2",
        "OpenVINO INT8",
        _INT8,
        ("onnx", "openvino"),
        _openvino_classic("mobilenet", int8=True),
    ),
    Contender(
        "deit-float32",
        "DeiT-Tiny",
        "OpenVINO float32",
        _FLOAT32,
        ("onnx", "openvino"),
        _openvino_classic("deit", int8=False),
        usual=False,
    ),
    Contender(
        "mobilenet-float32",
        "MobileNetV2",
        "OpenVINO float32",
        _FLOAT32,
        ("onnx", "openvino"),
        _openvino_classic("mobilenet", int8=False),
        usual=False,
    ),
)


@dataclass(frozen=True)
class Choice:
    """Who takes part; `skipped` says of the others why not."""

    contenders: tuple[Contender, ...]
    skipped: dict[str, str]


def choose(keys: Sequence[str] | None) -> Choice:
    """The contenders of these keys, or the usual ones as far as their packages are installed; bitvit always.

    Raises PeersError for an unknown key, and for a missing package if the contender was asked for by name.
    """
    known = {contender.key: contender for contender in CONTENDERS}
    unknown = [key for key in keys or () if key not in known]
    if unknown:
        raise PeersError(f"no contender is called {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = [c for c in CONTENDERS if (c.usual if keys is None else c.key in (*keys, "bitvit"))]
    lacking = {c.key: c.missing() for c in wanted if c.missing()}
    if keys is not None:
        for packages in lacking.values():
            require(packages[0])  # says how to install it
    chosen = tuple(c for c in wanted if c.key not in lacking)
    return Choice(chosen, {key: f"{', '.join(packages)} not installed" for key, packages in lacking.items()})


def settings(contenders: Iterable[Contender]) -> dict[str, str]:
    """Contender -> what was done to make it fast."""
    tool = "NNCF" if quantiser() == "nncf" else "ONNX Runtime's static quantisation"
    return {
        f"{c.network}, {c.engine}": f"{c.settings}; quantised by {tool}" if c.engine.endswith("INT8") else c.settings
        for c in contenders
    }


# ---------------------------------------------------------------------------------------------------- same answers
IMAGES, TOLERANCE = 32, 1e-4


@dataclass(frozen=True)
class Agreement:
    """The random image on which two engines agree, and how far their logits lie apart there."""

    seed: int
    difference: float  # the largest, relative to the standard deviation of the logits


def agreement(run: Run, bitvit: Run, pixels: Callable[[int], Pixels], first: int = 0) -> Agreement:
    """Compare a contender's logits with bitvit's on pixels(seed), from seed `first` on until they agree.

    Agreement on every image cannot be had: in a network of signs most images bring some value so near its
    threshold that two float32 engines take different sides, and then their logits part by a good share of their
    spread. On an image without such an accident they agree to about 1e-6, which an engine that computes anything else
    never does. Raises PeersError then.
    """
    found = []
    for seed in range(first, first + IMAGES):
        expected = bitvit(pixels(seed))
        found.append(float(np.abs(run(pixels(seed)) - expected).max() / expected.std()))
        if found[-1] < TOLERANCE:
            return Agreement(seed, found[-1])
    raise PeersError(
        f"logits differ from bitvit's by {min(found):.1e} of their spread at best, on {IMAGES} random images;"
        f" expected less than {TOLERANCE:.0e}: not the same network"
    )


# ------------------------------------------------------------------------------------------------------- prototype
PROTOTYPES = {(2, 2, 6, 2): "tiny", (3, 4, 8, 4): "small"}
PROTOTYPE = ("prototype", "BHViT's shape", "timing prototype")  # key, network, engine
PROTOTYPE_CALLS = 400  # that it times
PROTOTYPE_SETTINGS = (
    "random weights, parts of the network left out; in a process of its own, once before the rounds and once after, the"
    " faster counts"
)


def prototype_times(script: Path, config: Config, threads: int) -> dict[str, float]:
    """Minimum, median and p90 in seconds that the timing prototype prints for one image; PeersError if it does not."""
    shape = PROTOTYPES.get(config.depths)
    if shape is None:
        raise PeersError(f"{script.name} has no network of depths {config.depths}")
    command = [sys.executable, script.name, shape, str(threads)]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=False)
    number = r"([\d.]+)"
    found = re.search(rf"{shape} {threads} threads: min {number} median {number} p90 {number} ms", done.stdout)
    if done.returncode or found is None:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it printed nothing"]
        raise PeersError(f"{script.name} {shape} {threads}: failed: {last[0]}")
    return {name: float(value) / 1e3 for name, value in zip(("min", "median", "p90"), found.groups(), strict=True)}
