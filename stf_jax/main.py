"""The command: `python -m stf_jax.main --config FILE --workdir DIR [--config.KEY=VALUE ...]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from stf_jax.config import Config, check_config, from_json, load_config
from stf_jax.errors import UserError

EPILOG = """
train and score:       python -m stf_jax.main --config configs/mars.py --workdir runs/mars
change any value:      ... --config.data.root=/data/mars --config.optimizer.name=adam
score the best again:  python -m stf_jax.main --mode evaluate --workdir runs/mars
the meaning of every key: configs/mars.py
"""


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split `argv` into this command's own options and the `--config.KEY=VALUE` overrides."""
    parser = argparse.ArgumentParser(
        prog="python -m stf_jax.main",
        description="Train or score a video person re-identification model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="config file; default: the workdir's own")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of this run")
    parser.add_argument("--mode", choices=("train", "evaluate"), default="train")
    parser.add_argument(
        "--checkpoint",
        default="best",
        help="evaluate: best (by mAP), latest, or a step (default: %(default)s)",
    )
    parser.add_argument(
        "--no-report", action="store_true", help="evaluate: write no report/index.html"
    )
    options, rest = parser.parse_known_args(argv)
    stray = [arg for arg in rest if arg.startswith("-") and not arg.startswith("--config.")]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    return options, rest


def read_config(options: argparse.Namespace, overrides: Sequence[str]) -> Config:
    """Return the config file's values (or those stored in the workdir) with the overrides applied.

    Raises UserError for a missing file, an unknown key or a value of another type.
    """
    if options.config is not None:
        config = load_config(options.config)
    else:
        from stf_jax.training.run_files import read_run_files

        stored = read_run_files(options.workdir)
        if stored is None:
            raise UserError(
                f"{options.workdir}: no run has begun there; expected a trained one, or --config"
            )
        config = from_json(stored.config)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=["stf_jax.main", *overrides]
        )
        left = values(["stf_jax.main", *overrides])[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{' '.join(overrides)}: {reason}; the keys are in configs/mars.py"
        ) from error
    if left:
        raise UserError(f"{' '.join(left)}: expected options of the form --config.KEY=VALUE")
    check_config(config)
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 for bad input, told on standard error."""
    options, overrides = parse(sys.argv[1:] if argv is None else argv)
    try:
        config = read_config(options, overrides)
        # Imported late: `--help` and a wrong option need not wait for the frameworks.
        from stf_jax.compilation import use_compilation_cache

        use_compilation_cache(config.compilation_cache)
        if options.mode == "train":
            from stf_jax.training.loop import train

            train(config, options.workdir)
        else:
            from stf_jax.evaluate import evaluate_workdir

            evaluate_workdir(
                config, options.workdir, options.checkpoint, report=not options.no_report
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
