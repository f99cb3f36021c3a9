"""tools/compare_peers.py: the graphs it makes compute what they say, and its reports say what was measured.

Without the optional packages of `pip install 'bitvit[bench]'` only the report, the timing and the messages are tested.
"""

import importlib.util
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import save_file

from bitvit.checkpoint.infer import infer_config
from tests.support.golden_data import Case, case_names, load_case
from tests.support.paths import ROOT
from tools import compare_peers
from tools.peers import bhvit, classic, contenders, eager, int8, packages, report, timing
from tools.results import read_results

MICRO = [name for name in case_names() if name.startswith(("micro96", "micro160", "edge"))]
LARGE = [name for name in case_names() if name in ("tiny_somefp", "small_somefp", "small_binary")]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the peers' packages have their own

# Float32 against float64: correct float32 stays within 2.4e-6 of the logits' spread on every golden case; a wrong sign
# moves them by 1e-3 at least.
TOLERANCE = 2e-5

with_onnx = pytest.mark.skipif(
    not packages.installed("onnx", "onnxruntime"), reason="needs onnx and onnxruntime: pip install 'bitvit[bench]'"
)
with_torch = pytest.mark.skipif(not packages.installed("onnx", "torch"), reason="needs onnx and torch")


# ----------------------------------------------------------------------------------------------------- the graphs
def graph(case: Case, *, latent: bool = False) -> Any:
    config = infer_config(case.state, config_json=case.config)
    return bhvit.bhvit_model(case.state, config, len(case.input), latent=latent)


def onnxruntime_session(model: Any) -> Any:
    onnxruntime = packages.require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def error(logits: NDArray[Any], case: Case) -> float:
    """Largest difference from the golden logits, relative to their spread."""
    assert logits.shape == case.logits_f64.shape
    return float(np.abs(logits - case.logits_f64).max() / case.logits_f64.std())


@with_onnx
@pytest.mark.parametrize("name", MICRO + LARGE)
def test_graph_gives_the_golden_logits(name: str) -> None:
    case = load_case(name)
    session = onnxruntime_session(graph(case))
    assert error(session.run(None, {"pixels": case.input})[0], case) < TOLERANCE


@with_onnx
def test_graph_without_a_classifier_gives_the_pooled_features() -> None:
    case = load_case("micro96_somefp")
    state = {name: array for name, array in case.state.items() if not name.startswith("classifier")}
    config = infer_config(state, config_json=case.config)
    session = onnxruntime_session(bhvit.bhvit_model(state, config, len(case.input)))
    pooled = session.run(None, {"pixels": case.input})[0]
    assert pooled.shape == (len(case.input), config.hidden_sizes[3])
    logits = pooled @ case.state["classifier.weight"].T + case.state["classifier.bias"]
    assert error(logits, case) < TOLERANCE


@with_torch
@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("name", MICRO)
def test_eager_torch_gives_the_golden_logits(name: str, latent: bool) -> None:
    case, torch = load_case(name), packages.require("torch")
    with torch.inference_mode():
        logits = eager.eager(graph(case, latent=latent))(torch.from_numpy(case.input.copy())).numpy()
    assert error(logits, case) < TOLERANCE


@with_onnx
def test_classic_networks_have_the_published_size() -> None:
    assert classic.deit_tiny().parameters == 5_717_416  # facebookresearch/deit
    assert classic.mobilenet_v2().parameters == 3_504_872  # torchvision, with the batch norms' two per channel


@with_onnx
@pytest.mark.parametrize("make", [classic.deit_tiny, classic.mobilenet_v2])
def test_classic_networks_run_with_any_batch(make: Callable[[], classic.Classic]) -> None:
    session = onnxruntime_session(make().model)
    pixels = np.concatenate(int8.calibration_images(2))
    logits = session.run(None, {"pixels": pixels})[0]
    assert logits.shape == (2, 1000)
    assert 0.1 < logits.std() < 10  # neither died nor exploded
    assert session.run(None, {"pixels": pixels[1:]})[0] == pytest.approx(logits[1:], abs=1e-4)


@with_onnx
@pytest.mark.skipif(not packages.installed("openvino"), reason="needs openvino: pip install 'bitvit[bench]'")
@pytest.mark.parametrize("tool", ["nncf", "onnxruntime"])
def test_int8_network_stays_close_to_the_float_one(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if tool == "nncf" and not packages.installed("nncf"):
        pytest.skip("needs nncf: pip install 'bitvit[bench]'")
    monkeypatch.setattr(int8, "quantiser", lambda: tool)
    model = classic.mobilenet_v2().model
    pixels = np.concatenate(int8.calibration_images(2, seed=7))
    expected = onnxruntime_session(model).run(None, {"pixels": pixels})[0]
    network = int8.quantised(model, transformer=False)
    logits = contenders.openvino_run(network, 1, pixels.shape, None)(pixels)
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.99
    assert not np.allclose(logits, expected, rtol=0, atol=1e-4 * expected.std())  # it is quantised


# ------------------------------------------------------------------------------------------------ same answers only
def test_agreement_is_sought_until_found() -> None:
    asked: list[int] = []

    def pixels(seed: int) -> contenders.Pixels:
        asked.append(seed)
        return np.full((1, 3, 1, 1), seed, np.float32)

    def bitvit(_pixels: contenders.Pixels) -> NDArray[Any]:
        return np.array([[0.0, 1.0, 2.0]])

    def peer(x: contenders.Pixels) -> NDArray[Any]:
        return bitvit(x) + (1e-6 if x.flat[0] >= 3 else 0.5)

    found = contenders.agreement(peer, bitvit, pixels)
    assert (found.seed, max(asked)) == (3, 3)
    assert found.difference == pytest.approx(1e-6 / np.std([0, 1, 2]), rel=1e-6)
    with pytest.raises(packages.PeersError, match=r"differ from bitvit's by 6.1e-01 .* not the same network"):
        contenders.agreement(lambda x: bitvit(x) + 0.5, bitvit, pixels)


def test_contenders_without_their_packages_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(packages.PeersError, match="no contender is called vgg; there are bitvit, "):
        contenders.choose(["vgg"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else name)
    choice = contenders.choose(None)
    assert [c.key for c in choice.contenders][:2] == ["bitvit", "bhvit-openvino"]
    assert choice.skipped == {"bhvit-torch": "torch not installed"}
    assert [c.key for c in contenders.choose(["deit-int8"]).contenders] == ["bitvit", "deit-int8"]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(packages.PeersError, match=r"^no_such_package is not installed .*pip install 'bitvit\[bench\]'"):
        packages.require("no_such_package.module")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(packages.PeersError, match=r"^torch .*; pip install torch$"):
        packages.require("torch")


@pytest.fixture
def prototype(tmp_path: Path) -> Callable[[str], Path]:
    def make(body: str) -> Path:
        path = tmp_path / "net.py"
        path.write_text(f"import sys\n{body}\n")
        return path

    return make


def test_times_of_the_prototype_are_read_from_its_output(prototype: Callable[[str], Path]) -> None:
    case = load_case("micro96_somefp")
    config = infer_config(case.state, config_json=case.config)
    small = type(config)(**{**config.__dict__, "depths": (3, 4, 8, 4)})
    script = prototype("print('x'); print(*sys.argv[1:], 'threads: min 2.1 median 2.45 p90 3 ms')")
    times = contenders.prototype_times(script, small, 2)
    assert times == pytest.approx({"min": 0.0021, "median": 0.00245, "p90": 0.003})
    with pytest.raises(packages.PeersError, match=r"net.py has no network of depths"):
        contenders.prototype_times(script, config, 2)
    with pytest.raises(packages.PeersError, match=r"net.py small 2: failed: ValueError: no"):
        contenders.prototype_times(prototype("raise ValueError('no')"), small, 2)


# -------------------------------------------------------------------------------------------------------- the timing
def test_contenders_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = timing.alternate(calls, rounds=4, pause=0.0, settle=0.0)
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}
    warm_up, rounds = order[: 3 * timing.WARM_UP], order[3 * timing.WARM_UP :]
    assert warm_up == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    turns = ["".join(rounds[i : i + 6 : 2]) for i in range(0, 24, 6)]
    assert rounds[::2] == rounds[1::2]  # one untimed, one timed
    assert [sorted(turn) for turn in turns] == [["a", "b", "c"]] * 4
    assert len(set(turns)) > 1  # nobody always follows the same one


def test_slow_contenders_are_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LONG", 0.0)
    count = [0]

    def call() -> None:
        count[0] += 1

    timing.alternate({"slow": call}, rounds=5, pause=0.0)
    assert count[0] == timing.WARM_UP + 5


def test_rounds_go_on_for_the_seconds_asked_for() -> None:
    start = time.perf_counter()
    timing.alternate({"a": lambda: None}, rounds=1, seconds=0.05, pause=0.002, settle=0.0)
    assert time.perf_counter() - start >= 0.05


def test_a_contender_must_leave_the_cores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = iter([2, 2, 1, 1])
    monkeypatch.setattr(timing, "core_count", lambda: next(cores))
    with pytest.raises(packages.PeersError, match="a left this process on 1 of 2 cores"):
        timing.alternate({"a": lambda: None}, rounds=3, pause=0.0, settle=0.0)


def test_spread_is_that_of_the_medians_of_five_parts() -> None:
    assert timing.spread([2.0] * 10) == 0
    assert timing.spread([1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0]) == 1.0
    assert timing.spread([2.0, 3.0]) == pytest.approx(1 / 2.5)


# -------------------------------------------------------------------------------------------------------- the report
ENVIRONMENT = {
    "cpu": "Some CPU",
    "llvm_cpu": "znver5",
    "isa": ["sse4.2", "avx2", "avx512f"],
    "cores": 4,
    "affinity": 2,
    "system": "Linux x86_64",
    "python": "3.12.1",
    "versions": {"numpy": "2.0", "openvino": "2026.1"},
    "commit": "abc1234",
    "date": "2026-01-02T03:04:05+00:00",
}


@pytest.fixture
def example() -> report.Report:
    """Four contenders with times made up so that medians and ratios are plain to see."""
    names = {
        "bitvit": ("BHViT-small some-fp", "bitvit"),
        "bhvit-openvino": ("BHViT-small some-fp", "OpenVINO float32"),
        "deit-int8": ("DeiT-Tiny", "OpenVINO INT8"),
    }
    milliseconds = {"bitvit": 2.0, "bhvit-openvino": 86.0, "deit-int8": 1.7}
    results = [
        report.Result.of((key, *names[key]), cell, [1e-3 * scale * milliseconds[key] * f for f in (0.9, 1, 1, 1.2)])
        for cell, scale in (((1, 1), 2.0), ((2, 8), 8.0))
        for key in reversed(names)
    ]
    results.append(report.Result("prototype", "BHViT's shape", "timing prototype", 1, 1, 3e-3, None, 4e-3, 2e-3, 400))
    return report.Report(
        network="BHViT-small some-fp",
        checkpoint="small.pth",
        environment=ENVIRONMENT,
        results=tuple(results),
        noise=(report.Noise(1, 1, 0.031, 0.12), report.Noise(2, 8, 0.5, None)),
        settings={"BHViT, OpenVINO float32": "latency hint"},
        skipped={"bhvit-torch": "torch not installed"},
        agreement={"bhvit-openvino": 1.4e-6},
    )


def test_numbers_have_three_significant_digits() -> None:
    seconds = (0.0001362, 0.0041, 0.0863, 1.234, 0.00999, 0.1)
    assert [report.milliseconds(s) for s in seconds] == ["0.136", "4.10", "86.3", "1234", "9.99", "100"]
    assert [report.times(r) for r in (0.354, 0.999, 1.64, 9.94, 9.96, 28.4)] == [
        "0.35",
        "1.0",
        "1.6",
        "9.9",
        "10",
        "28",
    ]


def test_the_short_table_has_medians_and_ratios(example: report.Report) -> None:
    lines = report.table(report.record(example)).splitlines()
    assert lines[:6] == [
        "| network | engine | 1 thread, 1 image | 2 threads, 8 images |",
        "|---|---|--:|--:|",
        "| **BHViT-small some-fp** | **bitvit** | **4.00 ms** | **16.0 ms** |",
        "| DeiT-Tiny | OpenVINO INT8 | 3.40 ms (0.85 x) | 13.6 ms (0.85 x) |",
        "| BHViT-small some-fp | OpenVINO float32 | 172 ms (43 x) | 688 ms (43 x) |",
        "| BHViT's shape | timing prototype | 3.00 ms (0.75 x) | – |",
    ]
    assert "Some CPU (znver5, avx512f), 2 of 4 cores, Linux x86_64." in lines[-1]
    assert "numpy 2.0, openvino 2026.1, Python 3.12.1; commit abc1234, 2026-01-02." in lines[-1]


def test_the_long_markdown_has_spread_noise_and_settings(example: report.Report) -> None:
    text = report.markdown(example)
    assert report.table(report.record(example)) in text
    assert "| BHViT-small some-fp, bitvit | 1 | 1 | 3.60 | 3.60 | 4.00 | 4.80 | 4 |" in text
    assert "| BHViT's shape, timing prototype | 1 | 1 | 2.00 | – | 3.00 | 4.00 | 400 |" in text
    assert (
        "* 1 thread, 1 image: bitvit's medians over five parts of the run lie 3% apart; other processes used 12%"
        in text
    )
    assert "* 2 threads, 8 images: bitvit's medians over five parts of the run lie 50% apart\n" in text
    assert "within 1e-06 of their spread" in text
    assert "* BHViT, OpenVINO float32: latency hint" in text
    assert "* bhvit-torch: torch not installed" in text


def test_json_holds_everything(example: report.Report) -> None:
    content = json.loads(report.to_json(example))
    assert content["environment"] == ENVIRONMENT
    own, deit = (next(r for r in content["results"] if r["key"] == key) for key in ("bitvit", "deit-int8"))
    assert (own["ratio_to_bitvit"], own["threads"], own["batch"], own["rounds"]) == (1.0, 1, 1, 4)
    assert deit["ratio_to_bitvit"] == pytest.approx(0.85)
    assert deit["median"] == pytest.approx(3.4e-3)
    assert deit["samples"] == pytest.approx([3.06e-3, 3.4e-3, 3.4e-3, 4.08e-3])
    assert content["noise"][0] == {"threads": 1, "batch": 1, "spread": 0.031, "others": 0.12}
    assert content["method"] == timing.METHOD


def test_the_table_on_the_terminal_has_medians_and_ratios(example: report.Report) -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    report.print_table(example, console)
    text = console.export_text()
    assert "172 ms (43 x)" in text
    assert "2 threads, 8 images" in text


@pytest.mark.skipif(not packages.installed("matplotlib"), reason="needs matplotlib: pip install 'bitvit[bench]'")
def test_all_files_of_a_report_are_saved(example: report.Report, tmp_path: Path) -> None:
    report.prepare(tmp_path / "new" / "folder")
    paths = report.save(example, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == list(report.FILES)
    assert paths[0].read_text(encoding="utf-8") == report.markdown(example)
    assert json.loads(paths[1].read_text(encoding="utf-8"))["network"] == "BHViT-small some-fp"
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(report.FILES)


# -------------------------------------------------------------------------------------------------------- the script
def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools.compare_peers", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_published_networks_are_called_by_name() -> None:
    case = load_case("micro96_binary")
    config = infer_config(case.state, config_json=case.config)
    assert compare_peers.describe(config) == "BHViT (96 px) fully binary"
    sizes = {"image_size": 224, "hidden_sizes": (64, 128, 256, 512), "intermediate_sizes": (512, 1024, 1024, 2048)}
    heads = {"window_size": 7, "depths": (3, 4, 8, 4), "num_heads": (1, 1, 4, 8), "downsampling": "float"}
    assert compare_peers.describe(type(config)(**{**config.__dict__, **sizes, **heads})) == "BHViT-small some-fp"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pth"], "missing.pth"),
        (["missing.pth", "--threads", "9999"], "--threads 9999: this process may use"),
        (["missing.pth", "--contenders", "vgg"], "no contender is called vgg"),
        (["missing.pth", "--prototype", "missing.py"], "missing.py: no such file"),
        (["missing.pth", "--record", "no/such/folder.json"], "no/such is not a folder"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, Path]:
    """A golden checkpoint as a file, and its config.json."""
    case = load_case("micro96_binary")
    save_file(dict(case.state), tmp_path / "checkpoint.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(dict(case.config)))
    return tmp_path / "checkpoint.safetensors", tmp_path / "config.json"


def test_foreign_model_is_refused(checkpoint: tuple[Path, Path], packed: Callable[[str], Path]) -> None:
    done = run(checkpoint[0], "--config", checkpoint[1], "--model", packed("micro96_somefp"))
    assert "was not made of" in done.stderr
    assert "Traceback" not in done.stderr


@with_onnx
@pytest.mark.skipif(not packages.installed("matplotlib"), reason="needs matplotlib: pip install 'bitvit[bench]'")
def test_a_whole_run_writes_and_stores_its_results(checkpoint: tuple[Path, Path], tmp_path: Path) -> None:
    stored, out = tmp_path / "benchmarks.json", tmp_path / "out"
    options: list[str | Path] = [
        "--repeats",
        "5",
        "--batch",
        "1",
        "2",
        "--contenders",
        "bhvit-onnxruntime",
        "--out",
        out,
    ]
    done = run(checkpoint[0], "--config", checkpoint[1], *options, "--record", stored, "--name", "micro")
    assert done.returncode == 0, done.stderr
    assert "ONNX Runtime float32" in done.stdout
    content = json.loads((out / "peers.json").read_text())
    assert [(r["key"], r["batch"], r["rounds"]) for r in content["results"]] == [
        ("bitvit", 1, 5),
        ("bhvit-onnxruntime", 1, 5),
        ("bitvit", 2, 5),
        ("bhvit-onnxruntime", 2, 5),
    ]
    assert content["agreement"]["bhvit-onnxruntime"] < contenders.TOLERANCE
    micro = read_results(stored)["micro"]
    assert [(r["engine"], r["batch"]) for r in micro["results"]] == [
        ("bitvit", 1),
        ("ONNX Runtime float32", 1),
        ("bitvit", 2),
        ("ONNX Runtime float32", 2),
    ]
    assert micro["model_bytes"]["bitvit"] < micro["model_bytes"]["ONNX Runtime float32"] / 5
