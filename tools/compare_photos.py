"""Photographs to labels in bitvit and in other engines, all behind the same Pillow preprocessing.

    python -m tools.compare_photos CHECKPOINT [--config config.json] [--photos 50] [--threads 2] [--rounds 5]

bitvit answers the files with a Classifier. For the others a pool of as many threads decodes, resizes, crops and
normalises photographs ahead, a few for each thread, with bitvit's own preprocessing; the engine, with as many threads
and its settings of compare_peers, takes one photograph after the other. Contenders take turns, all photographs each
time. The logits of those that run the checkpoint's network are compared with bitvit's beforehand, as compare_peers does
it; their labels may still differ where rounding decides a sign, above all with weights that were never trained.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bitvit import BitvitError, Classifier, Preprocessing
from bitvit.bench.machine import Load, share_of_others
from bitvit.bench.report import BUSY
from bitvit.checkpoint import read_network
from bitvit.images import open_image
from bitvit.model import load
from bitvit.modelfile import load_model_file
from tools.bench_pipeline import make_photos
from tools.compare_peers import describe, pack, positive, say
from tools.peers import classic, machine
from tools.peers.contenders import CONTENDERS, Contender, Networks, Pixels, Run, agreement, choose
from tools.peers.packages import PeersError
from tools.peers.report import machine as machine_line
from tools.peers.report import milliseconds, software, times
from tools.results import check_record, store

USUAL = ("bhvit-openvino", "bhvit-onnxruntime", "deit-int8", "mobilenet-int8")
AHEAD = 2  # photographs for each thread that are prepared ahead of the engine
Job = Callable[[Sequence[Path]], list[int]]
"""Paths -> the class of each photograph."""


class Timed(NamedTuple):
    """All photographs, once."""

    wall: float
    cpu: float
    answers: list[int]


def bitvit_job(model: Path, threads: int) -> Job:
    """As `bitvit classify` does it."""
    classify = Classifier(model, threads=threads)
    return lambda paths: [best["index"] for (best,) in classify(list(map(str, paths)), top_k=1)]


def peer_job(run: Run, preprocessing: Preprocessing, threads: int) -> Job:
    """A pool that prepares photographs, and an engine that takes them one by one."""

    def prepare(path: Path) -> Pixels:
        return preprocessing(open_image(path))[None]

    def prepared(paths: Sequence[Path], pool: ThreadPoolExecutor) -> Iterator[Pixels]:
        waiting: deque[Future[Pixels]] = deque()
        for path in paths:
            waiting.append(pool.submit(prepare, path))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def job(paths: Sequence[Path]) -> list[int]:
        with ThreadPoolExecutor(threads) as pool:
            return [int(run(pixels)[0].argmax()) for pixels in prepared(paths, pool)]

    return job


def make_job(contender: Contender, networks: Networks, threads: int) -> Job:
    """Raises PeersError for an engine whose logits are not bitvit's, though it has the same network."""
    if contender.key == "bitvit":
        return bitvit_job(networks.packed, threads)
    run = contender.make(networks, threads, 1)
    if contender.network != "BHViT":
        return peer_job(run, Preprocessing.for_image_size(classic.SIZE), threads)
    agreement(run, load(networks.packed), lambda seed: contender.pixels(networks.config, 1, seed))
    return peer_job(run, load_model_file(networks.packed).preprocessing, threads)


def timed(job: Job, paths: Sequence[Path]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    answers = job(paths)
    return Timed(time.perf_counter() - wall, time.process_time() - cpu, answers)


def measure(jobs: dict[str, Job], paths: Sequence[Path], rounds: int) -> dict[str, list[Timed]]:
    """What each contender takes, round by round; a tenth of the photographs comes before, untimed."""
    for job in jobs.values():
        job(paths[: max(2, len(paths) // 10)])
    found: dict[str, list[Timed]] = {key: [] for key in jobs}
    for number in range(rounds):
        for key, job in jobs.items():
            say(f"round {number + 1} of {rounds}: {key}")
            found[key].append(timed(job, paths))
    return found


def record(
    network: str,
    chosen: Sequence[Contender],
    found: dict[str, list[Timed]],
    *,
    threads: int,
    photos: int,
    others: float | None,
) -> dict[str, Any]:
    """What docs/benchmarks.json keeps. others: share of the machine's processors that other processes used."""
    rows = []
    for contender in chosen:
        own, runs = found["bitvit"], found[contender.key]
        same = sum(a == b for a, b in zip(own[0].answers, runs[0].answers, strict=True))
        is_network = contender.network == "BHViT"
        rows.append(
            {
                "network": network if is_network else contender.network,
                "engine": contender.engine,
                "wall_ms": 1e3 * statistics.median(run.wall for run in runs) / photos,
                "cpu_ms": 1e3 * statistics.median(run.cpu for run in runs) / photos,
                "times_bitvit": statistics.median(b.wall / a.wall for a, b in zip(own, runs, strict=True)),
                "same_labels": same if is_network else None,
            }
        )
    facts = {"threads": threads, "photos": photos, "rounds": len(found["bitvit"]), "others": others}
    return {"environment": machine.environment(), **facts, "results": rows}


def table(stored: dict[str, Any]) -> str:
    """The rows of a `record`, and one paragraph about how they were measured."""
    lines = [
        "| network | engine | photographs/s | a photograph | CPU time of it | same labels |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in stored["results"]:
        mark = "**" if row["engine"] == "bitvit" else ""
        ratio = "" if mark else f" ({times(row['times_bitvit'])} x)"
        same = "–" if row["same_labels"] is None else f"{row['same_labels']} of {stored['photos']}"
        cells = (
            *(row["network"], row["engine"], f"{1e3 / row['wall_ms']:.0f}"),
            *(f"{milliseconds(row['wall_ms'] / 1e3)} ms{ratio}", f"{milliseconds(row['cpu_ms'] / 1e3)} ms", same),
        )
        lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
    environment, others = stored["environment"], stored["others"]
    busy = f" Other processes used {others:.0%} of the processors." if others is not None and others > BUSY else ""
    lines += [
        "",
        f"{stored['photos']} JPEGs of 500 x 375 pixels, {stored['threads']} threads; in brackets how many times"
        f" bitvit's: medians of {stored['rounds']} rounds. {machine_line(environment)}. {software(environment)}.{busy}",
    ]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="BHViT checkpoint, .safetensors or .pth")
    parser.add_argument("--config", type=Path, help="config.json, for what the checkpoint does not tell")
    parser.add_argument("--model", type=Path, help="the same network, packed; default: converted to a temporary file")
    parser.add_argument("--photos", type=positive, default=50, help="photographs (default 50)")
    parser.add_argument("--threads", type=positive, default=2, help="of each engine, and of its pool (default 2)")
    parser.add_argument("--rounds", type=positive, default=5, help="default 5")
    keys = ", ".join(contender.key for contender in CONTENDERS)
    parser.add_argument("--contenders", nargs="+", metavar="NAME", default=USUAL, help=f"and bitvit; of {keys}")
    parser.add_argument("--record", type=Path, metavar="FILE", help="store the result in this file as peers-photos")
    return parser.parse_args()


def main() -> None:
    options = parse()
    try:
        if options.threads > machine.affinity():
            raise PeersError(f"--threads {options.threads}: this process may use {machine.affinity()} cores")
        check_record(options.record)
        choice = choose(options.contenders)
        network = read_network(options.checkpoint, config=options.config)
        with tempfile.TemporaryDirectory() as folder:
            packed = pack(network.checkpoint, options.config, options.model, Path(folder) / "packed.safetensors")
            networks = Networks(network.checkpoint.state, network.config, packed)
            make_photos(Path(folder) / "photos", options.photos)
            paths = sorted((Path(folder) / "photos").rglob("*.jpg"))
            jobs = {}
            for contender in choice.contenders:
                say(f"preparing {contender.network}, {contender.engine}")
                jobs[contender.key] = make_job(contender, networks, options.threads)
            before = Load.now()
            found = measure(jobs, paths, options.rounds)
            others = share_of_others(before, Load.now())
        name, threads, photos = describe(network.config), options.threads, options.photos
        result = record(name, choice.contenders, found, threads=threads, photos=photos, others=others)
        print(table(result))
        if options.record is not None:
            store(options.record, "peers-photos", result)
    except (PeersError, BitvitError) as error:
        sys.exit(f"compare_photos: {error}")
    except KeyboardInterrupt:
        sys.exit("compare_photos: interrupted, nothing was written")


if __name__ == "__main__":
    main()
