"""BenchReport: what `measure` found, as Python objects and as JSON.

The JSON file of `bitvit bench --format json` is the report itself: `schema` ("bitvit-bench/1"), then the fields of
BenchReport, whose objects have the fields of the classes below, and `warnings`. Fields may be added under the same
schema; none changes its meaning. Where a field means what timm's benchmark.py means by it, it has timm's name
(infer_samples_per_sec, infer_step_time, infer_batch_size, infer_img_size, param_count).
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bitvit.bench.limits import Limits
from bitvit.bench.machine import Environment
from bitvit.decoding import Decoder
from bitvit.errors import BenchError
from bitvit.files import read_json

SCHEMA = "bitvit-bench/1"
BUSY = 0.05  # share of the machine's processors used by other processes above which times are not to be trusted
UNSTEADY = 0.10  # spread above which times are not to be trusted
COVERS = 0.10  # by which a profile's sum may differ from ordinary calls in the same run
Mode = Literal["latency", "throughput"]
MODES: tuple[Mode, ...] = ("latency", "throughput")

_DECODER = Decoder(
    BenchError, "the report is damaged; write one with bitvit bench MODEL --format json", skip_unknown=True
)


@dataclass(frozen=True)
class ModelFacts:
    """What was measured. Multiply-adds (MACs) are those of one image, counted as `bitvit inspect` does."""

    name: str
    path: str
    sha256: str  # of the model file
    file_bytes: int
    weight_bytes: int  # of the weights as they lie in memory, shared by all threads
    workspace_bytes: int  # of activations and working memory, for each thread
    infer_img_size: int
    num_classes: int
    param_count: float  # millions, binary and float
    binary_macs: int
    float_macs: int
    computed_binary_macs: int | None = None  # without repeated ones (see bitvit.summary); null: an older report


@dataclass(frozen=True)
class Startup:
    """A fresh process: medians of a few, each of which imports bitvit, loads the model and runs it.

    compile_seconds: of the model's kernels, which happens once a machine; None: they were in the cache, so it was not
    measured (`cold=True`, `--cold` does so beside the cache).
    """

    import_seconds: float
    load_seconds: float  # file, rearranged weights, kernels from the cache
    first_inference_seconds: float  # one image
    compile_seconds: float | None
    compiled_functions: int
    import_rss_bytes: int | None  # most memory so far, after the import
    peak_rss_bytes: int | None  # at the end
    threads: int
    infer_batch_size: int  # of the calls before the end


@dataclass(frozen=True)
class PreprocessingTimes:
    """Medians for one image on one thread; not part of the results, which start from float32 pixels."""

    image: str
    decode_ms: float  # and read, if it is a file
    resize_ms: float  # and crop
    normalise_ms: float | None
    """None: within the network, which looks up what becomes of each byte; it takes no longer than with float32 pixels.
    A number for networks with image_norm, and in older reports: into float32 pixels, before the network."""


@dataclass(frozen=True)
class PipelineRun:
    """Image files answered by a Classifier with so many threads; see bitvit.bench.pipeline."""

    threads: int
    images_per_sec: float
    cpu_ms: float  # processor time of the whole process for an image
    other_ms: float  # of it, beyond the parts: Python's own work
    share_of_bound: float  # processor time of the parts over threads x time by the clock: 1 if no thread ever waits


@dataclass(frozen=True)
class ImageTimes:
    """The user's image files on their way to predictions: processor time for an image, ms, and the pipeline's speed."""

    found: int  # images that were named, or lie in the folders named
    images: int  # that were measured: a random part of them if they are many, less the failures
    failures: list[str]  # why images could not be read; they are left out
    left_out: list[str]  # other files, by folder
    file_bytes: float  # of an image, on average
    pixels: float  # likewise, as it is decoded
    decode_ms: float  # and read, from the system's cache
    resize_ms: float  # and crop
    network_ms: float  # normalising included: each byte is looked up in a table
    runs: list[PipelineRun]
    others: float | None  # share of the machine's processors that other processes used meanwhile; null: not known


@dataclass(frozen=True)
class Result:
    """Times of one mode, number of threads and batch size.

    latency: calls one after the other, each with all threads. throughput: as many callers at once as there are
    threads, each calling with one thread. Times are those of a call, in milliseconds. A percentile is null if fewer
    than one call lies beyond it.
    """

    mode: Mode
    threads: int
    infer_batch_size: int  # images a call
    infer_samples_per_sec: float  # images in all over the time in all
    infer_step_time: float  # the mean, ms
    std_ms: float  # of the population
    min_ms: float
    p50_ms: float
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float
    iterations: int  # calls that were timed
    seconds: float  # time in all
    binary_gmacs_per_sec: float  # of those that are computed
    limit_gmacs_per_sec: float  # what as many threads reached in the same run with xor, popcount and add alone
    share_of_limit: float  # binary_gmacs_per_sec / limit_gmacs_per_sec
    spread: float  # of the medians of five parts of the run: (most - least) / median of all
    others: float | None  # share of the machine's processors that other processes used meanwhile; null: not known


@dataclass(frozen=True)
class Part:
    """A step of the network, or several: time, work, and what the limits say it must take at least.

    Bytes are those of the weights in the model file and of the activations that the step reads and writes; working
    memory of its own does not count. Limits are those of one core; see `Limits.seconds`.
    """

    layer: str  # attribute path in the model; "" for a whole kind
    kernel: str  # likewise
    kind: str
    seconds: float
    binary_macs: int  # computed
    float_macs: int
    weight_bytes: int
    activation_bytes: int
    limit_seconds: float
    bound: str  # what most of limit_seconds is: popcount, fma or bytes

    @property
    def macs(self) -> int:
        return self.binary_macs + self.float_macs

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes

    @property
    def share_of_limit(self) -> float:
        """limit_seconds over seconds."""
        return self.limit_seconds / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Profile:
    """Where the time of one image on one thread goes.

    All steps run in one call of a C function that reads the processor's clock between them; a step's time is its mean
    over the middle half of the runs, and end_to_end_seconds that of ordinary calls of the model, which
    alternate with them. calling_seconds is the median of calls with no image. Steps and calling must add up to ordinary
    calls, within COVERS: else the speed of the machine changed too much, and the report warns.
    """

    parts: list[Part]  # one a step, in order
    kinds: list[Part]  # their sums, in the order of KINDS
    seconds: float  # sum of the parts
    calling_seconds: float
    end_to_end_seconds: float
    runs: int
    limits: Limits

    @property
    def covered(self) -> float:
        """Steps and calling over ordinary calls."""
        return (self.seconds + self.calling_seconds) / self.end_to_end_seconds

    @property
    def adds_up(self) -> bool:
        """Whether the steps are what ordinary calls spend their time on."""
        return abs(self.covered - 1) <= COVERS


@dataclass(frozen=True)
class BenchReport:
    """Everything that was measured, and where."""

    model: ModelFacts
    environment: Environment
    startup: Startup | None  # None: Python cannot be started from here
    preprocessing: PreprocessingTimes | None
    results: list[Result]
    profile: Profile | None
    images: ImageTimes | None = None

    @property
    def warnings(self) -> list[str]:
        """Reasons not to trust some of the times."""
        found = []
        busy = [r.others for r in self.results if r.others is not None and r.others > BUSY]
        if busy:
            found.append(
                f"the machine was busy: other processes used up to {max(busy):.0%} of its processors in {len(busy)} of"
                f" {len(self.results)} results; measure again when it is quiet"
            )
        if self.images is not None and (self.images.others or 0) > BUSY:
            found.append(
                f"the machine was busy: other processes used {self.images.others:.0%} of its processors while images"
                " were measured; measure again when it is quiet"
            )
        unsteady = [r for r in self.results if r.spread > UNSTEADY]
        if unsteady:
            worst = max(unsteady, key=lambda r: r.spread)
            found.append(
                f"unsteady: medians of five parts of a run lie up to {worst.spread:.0%} apart ({cell_name(worst)}) in"
                f" {len(unsteady)} of {len(self.results)} results"
            )
        p = self.profile
        if p is not None and not p.adds_up:
            found.append(
                f"the profile adds up to {p.covered:.0%} of ordinary calls in the same run, expected 90 to 110%: the"
                " speed of the machine changed meanwhile; measure again when it is quiet"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {"schema": SCHEMA, **dataclasses.asdict(self), "warnings": self.warnings}

    def to_json(self) -> str:
        """The JSON file."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, content: Any, where: str = "report") -> "BenchReport":
        """The inverse of to_dict. BenchError, which begins with `where`, for anything else."""
        if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, Mapping) else None
            raise BenchError(
                f"{where}: not a report of bitvit bench (schema {found!r}, expected {SCHEMA!r}); write one with bitvit"
                " bench MODEL --format json -o FILE"
            )
        return _DECODER.record(cls, content, where)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "BenchReport":
        """Read a JSON file. BenchError if it cannot be read or is something else."""
        content = read_json(path, BenchError, "a report of bitvit bench --format json")
        return cls.from_dict(content, os.fspath(path))


def cell_name(result: Result) -> str:
    """`describe` of a result."""
    return describe(result.mode, result.threads, result.infer_batch_size)


def describe(mode: Mode, threads: int, batch: int) -> str:
    """'latency, 2 threads, batch 8'."""
    return f"{mode}, {threads} thread{'s' * (threads > 1)}, batch {batch}"
