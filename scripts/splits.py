"""Every split of a data set: train, score, mean and deviation. See scripts/splits.sh."""

import json
import sys
from pathlib import Path

from stf_jax.config import Config
from stf_jax.errors import UserError
from stf_jax.evaluate import SCORES_FILE, evaluate_workdir
from stf_jax.evaluation.scores import across_splits, write_scores
from stf_jax.main import parse, read_config
from stf_jax.training.loop import train


def split_names(config: Config) -> list[str]:
    """Return the names of the partitions files of all splits, in order."""
    found = sorted(path.name for path in Path(config.data.root).glob("partitions_*.pkl"))
    if not found:
        raise UserError(
            f"{config.data.root}: no partitions_NN.pkl; expected one a split, as "
            "`python -m stf_jax.prepare ilids-vid` (or prid2011) writes"
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


def main() -> int:
    """Run the command; return its exit status."""
    options, overrides = parse(sys.argv[1:])
    try:
        config = read_config(options, overrides)
        rows: dict[str, list[dict]] = {}
        for name in split_names(config):
            config.data.partitions = name
            workdir = options.workdir / Path(name).stem
            if not (workdir / SCORES_FILE).is_file():
                train(config, workdir)
                evaluate_workdir(config, workdir, options.checkpoint)
            for label, row in json.loads((workdir / SCORES_FILE).read_text())["rows"].items():
                rows.setdefault(label, []).append(row)
        print(summary(rows))
        write_scores(
            options.workdir / "splits.json",
            {label: across_splits(entries) for label, entries in rows.items()},
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
