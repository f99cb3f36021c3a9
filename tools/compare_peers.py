"""Time a BHViT in bitvit and in other engines, and beside the INT8 networks that one could choose instead.

    python -m tools.compare_peers CHECKPOINT [--config config.json] [--model packed.safetensors] [--out FOLDER]

The other engines run the checkpoint's float32 ONNX graph, made here and proved to give bitvit's logits; DeiT-Tiny and
MobileNetV2 have random weights and are quantised here. Contenders take turns, one timed call each a round, every one
with its best settings (peers/contenders.py and peers/timing.py say which). All peers are optional:
pip install 'bitvit[bench]'; PyTorch takes part where it is installed.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bitvit import BitvitError, Config, convert
from bitvit.bench.machine import Load, share_of_others
from bitvit.checkpoint import Checkpoint, read_network
from bitvit.modelfile import load_model_file
from tools.peers import machine, timing  # first of all: it cleans the environment that NumPy reads
from tools.peers.contenders import (
    CONTENDERS,
    PROTOTYPE,
    PROTOTYPE_CALLS,
    PROTOTYPE_SETTINGS,
    Agreement,
    Contender,
    Networks,
    Pixels,
    Run,
    agreement,
    choose,
    prototype_times,
    settings,
)
from tools.peers.packages import PeersError
from tools.peers.report import (
    Cell,
    Noise,
    Report,
    Result,
    heading,
    noise_line,
    prepare,
    print_table,
    record,
    save,
)
from tools.results import check_record, store

PUBLISHED = {(2, 2, 6, 2): "tiny", (3, 4, 8, 4): "small"}


def say(text: str) -> None:
    """Progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="BHViT checkpoint, .safetensors or .pth")
    parser.add_argument("--config", type=Path, help="config.json, for what the checkpoint does not tell")
    parser.add_argument("--model", type=Path, help="the same network, packed; default: converted to a temporary file")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1], help="images a call (default 1)")
    parser.add_argument("--threads", type=positive, nargs="+", default=[1], help="threads (default 1)")
    parser.add_argument("--repeats", type=positive, default=50, help="rounds, at least (default 50)")
    parser.add_argument("--seconds", type=float, default=0.0, help="go on until so much time has passed in each cell")
    keys = ", ".join(contender.key for contender in CONTENDERS)
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help=f"only these and bitvit; of {keys}")
    parser.add_argument("--prototype", type=Path, metavar="NET.PY", help="also run this timing prototype, batch 1")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write peers.md, peers.json and peers.png there")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="store the medians in this file, see tools/results.py"
    )
    parser.add_argument("--name", default="peers", help="under this name (default peers)")
    return parser.parse_args()


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, expected at least 1")
    return value


def describe(config: Config) -> str:
    """Name of a network: 'BHViT-small some-fp' for the published ones."""
    widths, hidden = config.hidden_sizes, config.intermediate_sizes
    published = config.image_size == 224 and widths == (64, 128, 256, 512) and hidden == (512, 1024, 1024, 2048)
    size = f"-{PUBLISHED[config.depths]}" if published and config.depths in PUBLISHED else f" ({config.image_size} px)"
    return f"BHViT{size} {'some-fp' if config.downsampling == 'float' else 'fully binary'}"


def pack(checkpoint: Checkpoint, config: Path | None, given: Path | None, target: Path) -> Path:
    """The model file to time: `given`, if it was made of this checkpoint, else `target`, converted now."""
    if given is None:
        return convert(checkpoint.path, target, config=config).path
    if load_model_file(given).source_sha256 != checkpoint.sha256:
        raise PeersError(f"{given}: was not made of {checkpoint.path}; leave out --model, or convert it again")
    return given


@dataclass
class Comparison:
    """Contenders on their way through the cells."""

    name: str  # of the checkpoint's network
    networks: Networks
    contenders: tuple[Contender, ...]
    prototype: Path | None
    rounds: int
    seconds: float
    results: list[Result] = field(default_factory=list)
    noise: list[Noise] = field(default_factory=list)
    agreement: dict[str, Agreement] = field(default_factory=dict)

    def measure(self, cell: Cell) -> None:
        """All contenders at one number of threads and one batch size."""
        calls = {key: bind(run, self.pixels(key, cell)) for key, run in self.make(cell).items()}
        trials = self.run_prototype(cell)
        say(f"{heading(cell)}: timing {len(calls)} contenders")
        before = Load.now()
        samples = timing.alternate(calls, rounds=self.rounds, seconds=self.seconds)
        others = share_of_others(before, Load.now())
        trials += self.run_prototype(cell)
        self.results += [Result.of(self.names(c), cell, samples[c.key]) for c in self.contenders]
        if trials:
            self.results.append(min(trials, key=lambda trial: trial.median))
        self.noise.append(Noise(*cell, timing.spread(samples["bitvit"]), others))
        say(noise_line(self.noise[-1]))

    def make(self, cell: Cell) -> dict[str, Run]:
        """Build every contender, and compare the answers of those that run the checkpoint's network."""
        runs: dict[str, Run] = {}
        for contender in self.contenders:
            say(f"{heading(cell)}: preparing {contender.network}, {contender.engine}")
            run = runs[contender.key] = contender.make(self.networks, *cell)
            if contender.network == "BHViT" and contender.key != "bitvit":
                self.compare(contender, run, runs["bitvit"], cell)
        return runs

    def compare(self, contender: Contender, run: Run, bitvit: Run, cell: Cell) -> None:
        """Refuse to time what gives other answers."""
        before = self.agreement.get(contender.key, Agreement(0, 0.0))
        try:
            found = agreement(run, bitvit, lambda seed: self.pixels(contender.key, cell, seed), before.seed)
        except PeersError as error:
            raise PeersError(f"{contender.key}: {error}") from None
        self.agreement[contender.key] = Agreement(found.seed, max(found.difference, before.difference))

    def names(self, contender: Contender) -> tuple[str, str, str]:
        """Key, network, engine."""
        return contender.key, self.name if contender.network == "BHViT" else contender.network, contender.engine

    def pixels(self, key: str, cell: Cell, seed: int = 0) -> Pixels:
        """What a contender is timed on, and its answers compared."""
        contender = next(c for c in self.contenders if c.key == key)
        return contender.pixels(self.networks.config, cell[1], seed)

    def run_prototype(self, cell: Cell) -> list[Result]:
        """The timing prototype, once, in a process of its own; nothing if there is none for this cell."""
        threads, batch = cell
        if self.prototype is None or batch > 1:
            return []
        say(f"{heading(cell)}: prototype")
        found = prototype_times(self.prototype, self.networks.config, threads)
        return [Result(*PROTOTYPE, *cell, found["median"], None, found["p90"], found["min"], PROTOTYPE_CALLS)]


def check_targets(options: argparse.Namespace) -> None:
    """Whatever could keep the results from being written is to be known before the first of them."""
    if options.out is not None:
        prepare(options.out)
    check_record(options.record)


def bind(run: Run, pixels: Pixels) -> Callable[[], object]:
    return lambda: run(pixels)


def compare(options: argparse.Namespace, folder: Path) -> Report:
    """Measure everything that was asked for; `folder` is for temporary files."""
    cores = machine.affinity()
    if max(options.threads) > cores:
        raise PeersError(f"--threads {max(options.threads)}: this process may use {cores} cores; see taskset --help")
    if options.prototype is not None and not options.prototype.is_file():
        raise PeersError(f"{options.prototype}: no such file; --prototype takes the path of net.py")
    check_targets(options)
    choice = choose(options.contenders)
    for key, why in choice.skipped.items():
        say(f"without {key}: {why}")
    network = read_network(options.checkpoint, config=options.config)
    packed = pack(network.checkpoint, options.config, options.model, folder / "packed.safetensors")
    networks = Networks(network.checkpoint.state, network.config, packed)
    comparison = Comparison(
        describe(network.config), networks, choice.contenders, options.prototype, options.repeats, options.seconds
    )
    for threads in options.threads:
        for batch in options.batch:
            comparison.measure((threads, batch))
    return Report(
        network=comparison.name,
        checkpoint=options.checkpoint.name,
        environment=machine.environment(),
        results=tuple(comparison.results),
        noise=tuple(comparison.noise),
        settings=settings(choice.contenders) | ({PROTOTYPE[2]: PROTOTYPE_SETTINGS} if options.prototype else {}),
        skipped=choice.skipped,
        agreement={key: found.difference for key, found in comparison.agreement.items()},
        model_bytes=model_bytes(choice.contenders, networks),
    )


def model_bytes(contenders: Iterable[Contender], networks: Networks) -> dict[str, int]:
    """Engine -> bytes of the checkpoint's network in the form that it takes: bitvit's file, else the ONNX graph."""
    own = [contender for contender in contenders if contender.network == "BHViT"]
    graph = networks.bhvit(1).ByteSize() if len(own) > 1 else 0
    return {c.engine: networks.packed.stat().st_size if c.key == "bitvit" else graph for c in own}


def main() -> None:
    options = parse()
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = compare(options, Path(folder))
        print_table(report, Console(width=None if sys.stdout.isatty() else 150))
        if options.out is not None:
            for path in save(report, options.out):
                say(f"wrote {path}")
        if options.record is not None:
            store(options.record, options.name, record(report))
    except (PeersError, BitvitError) as error:
        sys.exit(f"compare_peers: {error}")
    except KeyboardInterrupt:
        sys.exit("compare_peers: interrupted, nothing was written")


if __name__ == "__main__":
    main()
