"""Models on real people, split by split: a table. See scripts/real_people.sh."""

import argparse
import os
import queue
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from benchmarking.drawn_run import MODELS
from colour_histogram import colour_histograms
from paired_gain import gain
from splits import split_names
from train_and_score import train_and_score

from stf_jax.config import Config, changed
from stf_jax.cores import usable_cores
from stf_jax.data.augment import normalise
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.pipeline import batches
from stf_jax.data.sampling import evaluation_plan
from stf_jax.data.source import evaluation_table
from stf_jax.devices import set_up_process
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.evaluation import Ranking
from stf_jax.evaluation.centring import camera_means
from stf_jax.evaluation.features.table import extract_table
from stf_jax.evaluation.scores import write_scores
from stf_jax.evaluation.scoring import rank_table
from stf_jax.files import atomic_write
from stf_jax.main import parse, read_config
from stf_jax.models import TemporalFusionNet, build_model
from stf_jax.run.restore import default_checkpoint, restore_run, starting_variables
from stf_jax.run.run_files import run_config
from stf_jax.training.stop_request import RunStoppedError

CONFIG = Path(__file__).parents[1] / "configs" / "pku_reid.py"
DEMO = Path("runs/demo-0/fusion")
CENTRED = ("as it is", "centred")
WAYS = ("partitions", "reversed")  # queries in camera 1; in camera 2
Features = Callable[[TrackletTable], np.ndarray]
CHOICES: dict[str, dict[str, Any]] = {
    **MODELS,
    # The fusion with fewer of its parts.
    "without attention": {"model.frame_attention": ()},
    "intra alone": {"model.frame_attention": ("intra",)},
    "inter alone": {"model.frame_attention": ("inter",)},
}


class Key(NamedTuple):
    """What a row of the table is of."""

    model: str
    way: str
    centred: bool


def frozen(config: Config) -> Features:
    """Mean over a tracklet's frames of the pooled map of stage 4, of the starting weights."""
    model = build_model(config.model, 0)
    variables = starting_variables(model, config, report=lambda _: None)

    @jax.jit
    def pooled(images: jax.Array) -> Any:
        def last_map(net: TemporalFusionNet, frames: jax.Array) -> jax.Array:
            return net.backbone_net(frames, train=False)[3]

        return model.apply(variables, normalise(images), method=last_map)

    def features(table: TrackletTable) -> np.ndarray:
        data, size = config.data, 64
        plan = evaluation_plan(table, num_devices=1, chunk=8, frames_per_device=size)
        sums: dict[int, Any] = defaultdict(float)
        stream = batches(table, plan, height=data.height, width=data.width, buckets=[size])
        for tracklets, batch in zip(plan.tracklets[:, 0], stream, strict=True):
            found = np.asarray(pooled(batch.images[0])).mean((1, 2))
            for place, vector in zip(batch.tracklet[0].tolist(), found, strict=True):
                if place < len(tracklets):
                    sums[int(tracklets[place])] += vector
        return np.stack([sums[row] / np.linalg.norm(sums[row]) for row in range(len(sums))])

    return features


def of_run(workdir: Path, config: Config) -> Features:
    """Features of a run's default checkpoint, of the layout of `config`."""
    model, variables, _ = restore_run(config, workdir, default_checkpoint(workdir))
    return lambda table: extract_table(model, variables, table, config).features


def models(config: Config, workdir: Path, trained: Sequence[str]) -> Iterator[tuple[str, Features]]:
    """Yield each model's name and features on the split of `config`; trains what is missing.

    `trained`: names of `CHOICES`, after those that need no training here.
    """
    yield "histogram", lambda table: colour_histograms(table)
    if (DEMO / "scores.json").is_file():  # trained to its end
        own = run_config(DEMO)
        values = {
            "data.root": config.data.root,
            "data.partitions": config.data.partitions,
            "evaluation.chunk": config.evaluation.chunk,
        }
        yield "demo", of_run(DEMO, changed(own, values))
    yield "frozen", frozen(config)
    for name in trained:
        own = changed(config, CHOICES[name])
        folder = workdir / f"{name.replace(' ', '-')}-{Path(config.data.partitions).stem[-2:]}"
        train_and_score(own, folder)
        yield name, of_run(folder, own)


def score(config: Config, features: Features) -> Iterator[tuple[str, bool, Ranking]]:
    """Yield direction, whether centred (by the training people), and the ranking."""
    trainval = evaluation_table(config.data, subset=config.data.train_subset)
    means = camera_means(features(trainval), trainval.cameras)
    test = evaluation_table(config.data)
    found = features(test)  # the tracklets of the other direction are these, in this order
    for way in WAYS:
        name = config.data.partitions.replace(WAYS[0], way)
        table = evaluation_table(changed(config, {"data.partitions": name}).data)
        for centred in (False, True):
            options = {"centring": "training", "means": means} if centred else {}
            ranked = rank_table(found, table, ("step",), distance="cosine", **options)
            yield way, centred, ranked["step"]


def table_of(rankings: dict[Key, list[Ranking]]) -> str:
    """Return the table: mean and deviation over the splits, percent."""
    lines = [
        f"{'mAP / rank-1, percent':24}{'queries in':>12}{'':>4}{'as it is':>30}{'centred':>30}"
    ]
    for model, way in dict.fromkeys((key.model, key.way) for key in rankings):
        cells = ""
        for centred in (False, True):
            found = rankings[Key(model, way, centred)]
            both = []
            for values in ([r.mean_ap for r in found], [r.cmc[0] for r in found]):
                spread = f" +- {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
                both.append(f"{100 * np.mean(values):.1f}{spread}")
            cells += " / ".join(both).rjust(30)
        lines.append(f"{model:24}{f'camera {1 + WAYS.index(way)}':>12}{'':>4}{cells}")
    return "\n".join(lines)


def score_split(config: Config, workdir: Path, trained: Sequence[str]) -> None:
    """Score every model on the split of `config`, training what is missing; write `file_of`."""
    set_up_process(config.compilation_cache)
    arrays = {}
    for model, features in models(config, workdir, trained):
        for way, centred, ranking in score(config, features):
            label = "/".join((model, way, CENTRED[centred]))
            arrays |= {f"{label}/{name}": value for name, value in vars(ranking).items()}
    path = file_of(config.data.partitions, workdir)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def file_of(partitions: str, workdir: Path) -> Path:
    """Where the scores of a split are."""
    return workdir / f"{Path(partitions).stem}.npz"


def scores_of(path: Path) -> dict[Key, Ranking]:
    """What `score_split` wrote."""
    found: dict[Key, dict[str, Any]] = defaultdict(dict)
    with np.load(path) as arrays:
        for label, value in arrays.items():
            model, way, centred, name = label.split("/")
            key = Key(model, way, bool(CENTRED.index(centred)))
            found[key][name] = value if value.ndim else value.item()
    return {key: Ranking(**fields) for key, fields in found.items()}


def run(config: Config, options: argparse.Namespace) -> int:
    """Score the models on the first splits; print the table after each split.

    Each split has a process of its own: this command with --only. Return its status if not 0.
    """
    names = split_names(config)[: options.splits]
    rankings: dict[Key, list[Ranking]] = defaultdict(list)
    for number, (name, status) in enumerate(in_processes(names, options.jobs), 1):
        if status:
            return status
        for key, ranking in scores_of(file_of(name, options.workdir)).items():
            rankings[key].append(ranking)
        print(f"\n{number} of {len(names)} splits\n{table_of(rankings)}")
        baseline, *others = options.models
        for model in others:
            one, other = (
                [ranking for way in WAYS for ranking in rankings[Key(name, way, False)]]
                for name in (model, baseline)
            )
            print(gain(model, baseline, one, other))
        sys.stdout.flush()
    rows = {
        f"{key.model}, {key.way}{', centred' if key.centred else ''}": {
            "mAP": [r.mean_ap for r in found],
            "rank-1": [float(r.cmc[0]) for r in found],
        }
        for key, found in rankings.items()
    }
    write_scores(options.workdir / "real_people.json", rows)
    return 0


def in_processes(names: Sequence[str], jobs: int) -> Generator[tuple[str, int], None, None]:
    """Yield each split's name and the status of its process, in order; `jobs` run at once.

    Each has its share of the cores. When the caller leaves, those that run are told to stop.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    free: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    for share in np.array_split(cores, jobs):
        free.put(share)
    running: set[subprocess.Popen[bytes]] = set()

    def status(name: str) -> int:
        share = free.get()
        own = ["--only", name, "--cores", ",".join(map(str, share))]
        child = subprocess.Popen([sys.executable, *sys.argv, *own])
        running.add(child)
        try:
            return child.wait()
        finally:
            running.discard(child)
            free.put(share)

    with ThreadPoolExecutor(jobs) as pool:
        found = [pool.submit(status, name) for name in names]
        try:
            for name, future in zip(names, found, strict=True):
                yield name, future.result()
        finally:
            for future in found:
                future.cancel()
            for child in tuple(running):
                child.terminate()


def default_jobs() -> int:
    """Two where there is no GPU: so small models gain little from a second core."""
    return 1 if shutil.which("nvidia-smi") else min(2, usable_cores())


@prints_user_errors
def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--workdir", type=Path, help="default: runs/ and the config's name")
    parser.add_argument("--splits", type=int, default=10, help="so many of the ten")
    parser.add_argument("--models", nargs="+", default=["mean pooling", "fusion"], choices=CHOICES)
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="splits at once")
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    parser.add_argument("--cores", default="", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if not 1 <= options.splits <= 10:
        raise UserError(f"--splits {options.splits}: expected 1 to 10")
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: expected 1 or more")
    options.workdir = options.workdir or Path("runs") / options.config.stem
    own, overrides = parse(
        ["--config", str(options.config), "--workdir", str(options.workdir), *rest]
    )
    # Chunks are free: histogram and frozen network take the mean over all frames anyway.
    alike, free = ("--config.evaluation.", "--config.augment.pad"), "--config.evaluation.chunk="
    fixed = [o for o in overrides if o.startswith(alike) and not o.startswith(free)]
    if fixed:
        raise UserError(f"{fixed[0]}: expected none of these; all models are compared in one way")
    config = read_config(own, overrides)
    if not options.only:
        return run(config, options)
    if options.cores:
        os.sched_setaffinity(0, map(int, options.cores.split(",")))
    try:
        config = changed(config, {"data.partitions": options.only})
        score_split(config, options.workdir, options.models)
    except RunStoppedError as stopped:
        return stopped.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
