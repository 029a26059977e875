"""Time and peak memory of ranking and re-ranking at the size of MARS, on drawn features.

python scripts/benchmark_ranking.py [--tables DIR] [--noise 3] [--repeats 7] [--rerank]

DIR holds MARS's official tracks_test_info.mat and query_IDX.mat; without it labels of the same
counts are drawn. `--noise` 0 draws features without identities, else identities plus that much
noise. A processor shared with other programs shows in wall time, not in processor time.
The same as `scripts/benchmark.py ranking`, with these options and no file.
"""

import argparse
from pathlib import Path

from benchmarking.ranking import draw_tables, measured, read_tables
from benchmarking.results import format_rows


def main() -> None:
    """Print a table, a line for each measured call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tables", type=Path, help="folder of MARS's info files")
    parser.add_argument("--noise", type=float, default=0.0, help="noise about identities, 0: only")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dimensions", type=int, default=4096)
    parser.add_argument("--rerank", action="store_true", help="re-rank, too (once)")
    arguments = parser.parse_args()
    rows = measured(
        *(read_tables(arguments.tables) if arguments.tables else draw_tables()),
        dimensions=arguments.dimensions,
        noise=arguments.noise,
        repeats=arguments.repeats,
        rerank=arguments.rerank,
    )
    print(format_rows(list(rows)))


if __name__ == "__main__":
    main()
