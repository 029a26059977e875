"""The command: `python -m stf_jax.main --config FILE --workdir DIR [--config.KEY=VALUE ...]`."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from stf_jax.config import KEYS, Config, changed, check_config, load_config, unknown_keys
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.heap import keep_freed_memory

EPILOG = """
train and score:       python -m stf_jax.main --config configs/mars.py --workdir runs/mars
change any value:      ... --config.data.root=/data/mars --config.optimizer.name=adam
score a run again:     python -m stf_jax.main --mode evaluate --workdir runs/mars
score given weights:   python -m stf_jax.main --mode evaluate --config configs/mars.py \\
                           --weights weights.safetensors --output scored/weights
features of anything:  python -m stf_jax.main --mode embed --workdir runs/mars \\
                           --input hall.mp4:hall.txt --output hall.npz
who is that there?     python -m stf_jax.main --mode match --workdir runs/mars \\
                           --query hall.npz --gallery door.npz --output hall_in_door
who is who?            python -m stf_jax.main --mode identify --input hall.npz door.npz \\
                           --calibrate runs/mars/features.npz --output people
several hosts:         ... --coordinator 10.0.0.1:1234 --num-processes 2 --process-id 0   (1 ...)
every key and its meaning: configs/mars.py
"""

# What each mode requires in addition to --workdir.
_NEEDED = {
    "embed": ("input", "output"),
    "match": ("query", "gallery", "output"),
    "identify": ("input", "output"),
}
_ON_ONE_HOST = ("match", "identify")
# Options of runs on several hosts, in the order of `hosts.initialize_arguments`.
_HOSTS = ("coordinator", "num_processes", "process_id", "distributed")
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split `argv` into this command's own options and the `--config.KEY=VALUE` overrides."""
    parser = argparse.ArgumentParser(
        prog="python -m stf_jax.main",
        description="Train, score or use a video person re-identification model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, help="config file; default: the workdir's own")
    add("--workdir", type=Path, help="folder of this run (needed, but with --weights)")
    add("--mode", choices=("train", "evaluate", *_NEEDED), default="train")
    add(
        "--checkpoint",
        help="best (by mAP), latest, or a step; evaluate, embed: to use (default: best where the "
        "run was evaluated on val while it trained, else latest); train: to resume from, later "
        "ones are set aside (default: the latest that is whole)",
    )
    add(
        "--resume-anyway",
        action="store_true",
        help="train: also with other data or another revision of the code than the run's",
    )
    add(
        "--output",
        type=Path,
        help="evaluate: another folder for what is written; embed: an .npz to write; match: a "
        "folder for the report",
    )

    add = parser.add_argument_group("evaluate").add_argument
    add("--no-report", action="store_true", help="write no report/index.html")
    add(
        "--weights",
        metavar="FILE",
        help="score a file of weights, hf://OWNER/REPOSITORY/FILE or another run, in place of the "
        "workdir's; needs --config (but for a run) and --output",
    )

    add = parser.add_argument_group(
        "several hosts",
        "train, evaluate, embed: start the same command on each. The environment variables "
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID do the same.",
    ).add_argument
    add("--coordinator", metavar="HOST:PORT", help="address of the first host, and a free port")
    add("--num-processes", type=int, metavar="N", help="how many there are")
    add("--process-id", type=int, metavar="I", help="which one this is: 0 (the first) to N - 1")
    add(
        "--distributed",
        action="store_true",
        help="find the others through SLURM, Open MPI, Kubernetes or a TPU pod",
    )

    add = parser.add_argument_group("embed").add_argument
    add(
        "--input",
        metavar="TRACKLETS",
        nargs="+",
        help="a folder of folders of frames, a layout (its config.data.eval_subset), or "
        "VIDEO:TRACKS (people are cut out into a folder next to the output); identify: files of "
        "features, one or more",
    )
    add("--camera", type=int, default=1, help="number of the camera that frames or video are from")

    add = parser.add_argument_group("match").add_argument
    add("--query", type=Path, metavar="NPZ", help="features of those to look for")
    add("--gallery", type=Path, metavar="NPZ", help="features of those to look among")
    add("--query-camera", metavar="LIST", help="only the queries of these cameras, such as 1,3-5")
    add("--gallery-camera", metavar="LIST", help="only the gallery of these cameras")
    add(
        "--same-camera",
        action="store_true",
        help="look among the tracklets of a query's own camera, too (default: in others only)",
    )
    add(
        "--pieces",
        action="store_true",
        help="keep the pieces of a track apart, into which prepare mot cut it (default: joined)",
    )
    add(
        "--centre-with",
        metavar="NPZ",
        help="take each camera's mean feature off first: that of these features of the same "
        "cameras, or of the gallery itself (--centre-with gallery)",
    )
    add("--top", type=int, default=10, help="entries of each list (default: %(default)s)")
    add(
        "--shown",
        type=int,
        metavar="N",
        default=1000,
        help="queries on the page, those with the nearest entries (default: %(default)s); "
        "matches.csv has all",
    )
    add(
        "--calibrate",
        type=Path,
        metavar="NPZ",
        help="features.npz of a labelled set that was not trained on: gives each entry the "
        "probability of being the same person",
    )
    add(
        "--false-alarms",
        type=float,
        metavar="SHARE",
        help="end each list at the distance at which this share of the queries of the set to "
        "calibrate with finds somebody though their person is left out of the gallery, such as "
        "0.01; of queries whose list is empty nobody is in the gallery",
    )
    add(
        "--prior",
        type=float,
        metavar="SHARE",
        help="share of all pairs of query and gallery that are of one person, if another than in "
        "the set to calibrate with",
    )

    add = parser.add_argument_group(
        "identify", "takes --centre-with, --calibrate, --false-alarms, --prior, --pieces, --shown"
    ).add_argument
    add("--people", type=int, metavar="N", help="how many there are (default: by --calibrate)")
    add(
        "--travel-times",
        type=Path,
        metavar="CSV",
        help="least seconds from camera to camera (columns from, to, seconds), on one clock",
    )
    add(
        "--starts",
        metavar="LIST",
        help="when each camera's first frame was on that clock, such as 1=0,2=12.5 (default: 0)",
    )
    add(
        "--tracks",
        nargs="+",
        metavar="[INPUT@]CAMERA:FILE",
        default=[],
        help="files of tracks to write anew with the identities as ids; INPUT is the name of a "
        "file of features without .npz, needed where several have the camera",
    )
    add("--labelled", action="store_true", help="the inputs' person ids are true: score by them")
    options, rest = parser.parse_known_args(argv)
    stray = [arg for arg in rest if arg.startswith("-") and not arg.startswith("--config.")]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    needed = _NEEDED.get(options.mode, ())
    if options.mode == "identify":
        if rest:
            parser.error(f"--mode identify: {rest[0]} has no effect; the features carry it")
        if (options.people is None) == (options.calibrate is None):
            parser.error("--mode identify needs either --people or --calibrate")
    elif options.weights is None:
        needed = ("workdir", *needed)
    elif options.mode != "evaluate":
        parser.error(f"--mode {options.mode}: --weights is of --mode evaluate")
    else:
        needed = ("output",) if Path(options.weights).is_dir() else ("config", "output")
    missing = [f"--{n}" for n in needed if getattr(options, n) is None]
    if missing:
        given = " --weights" if options.weights else ""
        parser.error(f"--mode {options.mode}{given} needs {', '.join(missing)}")
    if options.mode in _ON_ONE_HOST and _several_hosts(options):
        parser.error(f"--mode {options.mode} runs on one host")
    vain = [arg for arg in rest if arg.startswith("--config.evaluation.")]
    centring = [arg for arg in vain if arg.startswith("--config.evaluation.centring")]
    if options.mode in _NEEDED and centring:
        parser.error(
            f"--mode {options.mode}: {centring[0]} has no effect; features are kept as they are: "
            "--mode match --centre-with"
        )
    if options.mode == "match" and vain:
        parser.error(f"--mode match: {vain[0]} has no effect; the features carry what it sets")
    if options.mode not in ("match", "identify") and options.centre_with is not None:
        parser.error("--centre-with is of --mode match; else --config.evaluation.centring")
    if options.mode == "embed" and len(options.input) > 1:
        parser.error(f"--mode embed: {len(options.input)} inputs; expected one")
    if options.mode == "embed" and options.output.suffix != ".npz":
        parser.error(f"--output {options.output}: expected a name that ends in .npz")
    if options.prior is not None and options.calibrate is None:
        parser.error("--prior needs --calibrate")
    if options.false_alarms is not None and options.calibrate is None:
        parser.error("--false-alarms needs --calibrate")
    for name in ("top", "shown"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: expected 1 or more")
    return options, rest


def read_config(options: argparse.Namespace, overrides: Sequence[str]) -> Config:
    """Return the config file's values (or those stored in the workdir) with the overrides applied.

    Raises UserError for a missing file, an unknown key or a value that it may not hold.
    """
    if options.config is not None:
        config = load_config(options.config)
    else:
        from stf_jax.run.run_files import run_config

        config = run_config(options.weights or options.workdir)
    config = changed(config, _parsed(overrides))
    check_config(config)
    return config


def _parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """The values of `--config.KEY=VALUE`, in the types of the keys' defaults."""
    names = [arg.split("=")[0] for arg in overrides if arg.startswith("--config.")]
    unknown = unknown_keys(name.removeprefix("--config.") for name in names)
    if unknown:
        raise UserError("\n".join(unknown))
    argv, values = ["stf_jax.main", *overrides], flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", ConfigDict(asdict(Config())), flag_values=values, sys_argv=argv
        )
        left = values(argv)[1:]
    except (flags.Error, TypeError, ValueError) as error:
        # Of absl: "flag --config.train.epochs=many: invalid literal for int() ...".
        flag, _, reason = " ".join(str(error).split()).removeprefix("flag ").partition(": ")
        key = KEYS.get(flag.removeprefix("--config.").split("=")[0])
        raise UserError(
            f"{flag}: expected {key.metadata['expected']}" if key else reason
        ) from error
    if left:
        raise UserError(f"{' '.join(left)}: expected options of the form --config.KEY=VALUE")
    return config_flags.get_override_values(values["config"])


def _check_data(config: Config) -> None:
    """Raise UserError where the data are not there, before seconds of imports."""
    from stf_jax.data.layout.partitions import check_is_there

    check_is_there(Path(config.data.root) / config.data.partitions)


def _embed(config: Config, options: argparse.Namespace) -> None:
    from stf_jax import hosts
    from stf_jax.embed import embed_tracklets
    from stf_jax.evaluation.features.feature_files import write_features

    output: Path = options.output
    parts = output.with_name(output.stem + "_parts")
    found = embed_tracklets(
        options.workdir,
        options.input[0],
        config=config,
        checkpoint=options.checkpoint,
        camera=options.camera,
        frames_dir=output.with_name(output.stem + "_frames"),
        parts_dir=parts,
    )

    def write() -> None:
        write_features(output, found)
        shutil.rmtree(parts, ignore_errors=True)

    hosts.from_first(write)
    if not hosts.is_first():
        return
    print(f"{found.num_tracklets} tracklets, {len(found.names)} frames; written: {output}")


def _calibration(options: argparse.Namespace, *, same_camera: bool) -> Any:
    """The calibration that the options ask for; None for none."""
    from stf_jax.evaluation.calibration import fit_calibration
    from stf_jax.evaluation.features.feature_files import read_features

    if options.calibrate is None:
        return None
    fitted = fit_calibration(
        read_features(options.calibrate),
        centred=options.centre_with is not None,
        false_alarms=options.false_alarms,
        same_camera=same_camera,
    )
    return fitted if options.prior is None else fitted.with_prior(options.prior)


def _match(options: argparse.Namespace) -> None:
    from stf_jax.evaluation.features.feature_files import read_features
    from stf_jax.evaluation.features.sources import join_pieces
    from stf_jax.match import match_tracklets, select_cameras, write_matches
    from stf_jax.prepare.tracks.split import parse_numbers

    calibration = _calibration(options, same_camera=options.same_camera)
    sides = []
    for name in ("query", "gallery"):
        found, option = read_features(getattr(options, name)), f"--{name}-camera"
        chosen = getattr(options, f"{name}_camera")
        cameras = None if chosen is None else parse_numbers(chosen, option)
        found = select_cameras(found, cameras, option)
        sides.append(found if options.pieces else join_pieces(found))
    query, gallery = sides
    centre_with = options.centre_with
    if centre_with not in (None, "gallery"):
        found = read_features(Path(centre_with))
        centre_with = found if options.pieces else join_pieces(found)
    matches = match_tracklets(
        query,
        gallery,
        top=options.top,
        calibration=calibration,
        same_camera=options.same_camera,
        centre_with=centre_with,
    )
    title = f"{options.query.stem} among {options.gallery.stem}"
    page = write_matches(options.output, matches, title=title, shown=options.shown)
    found = ""
    if matches.nobody is not None:
        found = f"; of {matches.nobody.sum()} nobody is in the gallery"
    print(f"{query.num_tracklets} queries against {gallery.num_tracklets}{found}; written: {page}")


def _identify(options: argparse.Namespace) -> None:
    from stf_jax import identify
    from stf_jax.evaluation.features.feature_files import read_features
    from stf_jax.evaluation.features.sources import join_pieces

    def read(path: Path):
        found = read_features(path)
        return found if options.pieces else join_pieces(found)

    inputs = {}
    for word in options.input:
        name = Path(word).stem
        if name in inputs:
            raise UserError(f"--input {word}: a second one named {name}; expected other names")
        inputs[name] = read(Path(word))
    tracks = identify.parse_tracks(options.tracks, inputs)
    travel_times, starts = options.travel_times, options.starts
    calibration = _calibration(options, same_camera=True)
    centre_with = options.centre_with
    people = identify.identify_tracklets(
        inputs,
        people=options.people,
        calibration=calibration,
        travel_times=None if travel_times is None else identify.read_travel_times(travel_times),
        starts=None if starts is None else identify.parse_starts(starts),
        centre_with=centre_with if centre_with in (None, "gallery") else read(Path(centre_with)),
    )
    page = identify.write_identities(options.output, people, tracks=tracks, shown=options.shown)
    if options.labelled:
        scores = identify.score_identities(people)
        identify.write_identity_scores(options.output / identify.SCORES_FILE, scores)
        print(", ".join(f"{name} {100 * value:.1f}" for name, value in scores.items()))
    print(
        f"{people.count} people in {len(people.rows)} tracklets, {people.doubtful.sum()} of them "
        f"doubtful; written: {page}"
    )


def _several_hosts(options: argparse.Namespace) -> bool:
    """Whether an option of several hosts is given; `--process-id 0` is one."""
    values = [getattr(options, name) for name in _HOSTS]
    return any(value is not None and value is not False for value in values)


def _run(config: Config, options: argparse.Namespace) -> int:
    # Imported late: `--help` and a wrong option need not wait for the frameworks.
    from stf_jax.folder_lock import one_owner

    if options.mode in ("match", "identify"):
        with one_owner(options.output):  # a second one need not rank everything to be refused
            (_match if options.mode == "match" else _identify)(options)
        return 0
    from stf_jax.devices import use_compilation_cache

    use_compilation_cache(config.compilation_cache)
    if options.mode == "embed":
        from stf_jax.run.owner import one_owner_of_hosts

        with one_owner_of_hosts(options.output.parent, f".{options.output.name}.lock"):
            _embed(config, options)
    elif options.mode == "evaluate":
        from stf_jax.evaluate import evaluate_weights, evaluate_workdir

        report = not options.no_report
        if options.weights and not Path(options.weights).is_dir():
            evaluate_weights(config, options.weights, options.output, report=report)
        else:
            workdir = Path(options.weights or options.workdir)
            evaluate_workdir(
                config, workdir, options.checkpoint, output=options.output, report=report
            )
    else:
        from stf_jax.train import train
        from stf_jax.training.stop_request import RunStoppedError

        try:
            train(
                config,
                options.workdir,
                options.checkpoint,
                resume_anyway=options.resume_anyway,
            )
        except RunStoppedError as stopped:
            return stopped.status
    return 0


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status.

    0; 2 for bad input, printed to standard error; 143 or 130 for training on one host that SIGTERM
    or Ctrl-C stopped before its last step.
    """
    options, overrides = parse(sys.argv[1:] if argv is None else argv)
    config = Config() if options.mode == "identify" else read_config(options, overrides)
    if options.mode in _ON_ONE_HOST:
        return _run(config, options)
    keep_freed_memory()  # before NumPy is imported
    alone = not _several_hosts(options) and not any(map(os.environ.get, _VARIABLES))
    if alone and options.mode != "embed":
        _check_data(config)  # of several hosts, those that have theirs would wait for this one
    from stf_jax import hosts

    others = hosts.initialize_arguments(*(getattr(options, name) for name in _HOSTS))
    with hosts.joined(others, stops_on_notice=options.mode == "train"):
        status = _run(config, options)
        # Of several hosts none may look failed: a scheduler would end those still closing.
        return status if others is None else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
