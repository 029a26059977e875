"""Every split of a data set: train, score, mean and deviation. See scripts/splits.sh."""

import sys
from pathlib import Path

from train_and_score import train_and_score

from stf_jax.config import Config, changed
from stf_jax.devices import set_up_process
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.evaluation.scores import across_splits, write_scores
from stf_jax.main import parse, read_config
from stf_jax.training.stop_request import RunStoppedError


def split_names(config: Config) -> list[str]:
    """Return the names of the partitions files of all splits, in order."""
    found = sorted(path.name for path in Path(config.data.root).glob("partitions_*.pkl"))
    if not found:
        raise UserError(
            f"{config.data.root}: no partitions_NN.pkl; expected one a split, as "
            "`python -m stf_jax.prepare ilids-vid` (or prid2011) writes"
        )
    # The first one is written last: without it the others are those of an unfinished layout.
    expected = [f"partitions_{split:02d}.pkl" for split in range(len(found))]
    if found != expected:
        missing = next(name for name in expected if name not in found)
        raise UserError(
            f"{config.data.root}: has {len(found)} splits up to {found[-1]}, but no {missing}; run "
            "the command that prepared it again"
        )
    return found


def summary(rows: dict[str, list[dict]]) -> str:
    """Return one line a protocol: mean and deviation of every score, in percent."""
    lines = []
    for protocol, entries in rows.items():
        parts = []
        for name, value in across_splits(entries).items():
            deviation = value["deviation"]
            spread = "" if deviation is None else f" +- {100 * deviation:.1f}"
            parts.append(f"{name} {100 * (value['mean'] or 0):.1f}{spread}")
        lines.append(f"{protocol}, {len(entries)} splits: {', '.join(parts)}")
    return "\n".join(lines)


@prints_user_errors
def main() -> int:
    """Run the command; return its exit status."""
    options, overrides = parse(sys.argv[1:])
    try:
        config = read_config(options, overrides)
        rows: dict[str, list[dict]] = {}
        names = split_names(config)
        set_up_process(config.compilation_cache)
        for name in names:
            own = changed(config, {"data.partitions": name})
            workdir = options.workdir / Path(name).stem
            print(f"{name} ({len(names)} splits) in {workdir}", file=sys.stderr)
            for label, row in train_and_score(own, workdir, options.checkpoint).items():
                rows.setdefault(label, []).append(row)
        print(summary(rows))
        write_scores(
            options.workdir / "splits.json",
            {label: across_splits(entries) for label, entries in rows.items()},
        )
    except RunStoppedError as stopped:
        return stopped.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
