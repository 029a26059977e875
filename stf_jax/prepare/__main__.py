"""The command `python -m stf_jax.prepare SOURCE ...`: any source -> the project's layout."""

import argparse
import contextlib
import importlib
import sys
from collections.abc import Sequence

from stf_jax.errors import prints_user_errors
from stf_jax.folder_lock import one_owner

# A source is a module of this package with add_arguments(parser) and run(args), imported only
# when it is used ("ilids-vid" is ilids_vid.py). Its docstring is its help, examples at the
# end. run raises UserError for bad input, or an output folder that belongs to something else; it
# returns the exit status or None for 0.
SOURCES = {
    "synthetic": "people drawn by this program, of any number and difficulty",
    "mot": "videos and the track files of any tracker",
    "mars": "MARS, from its authors' folders and tables",
    "ilids-vid": "iLIDS-VID, all ten splits",
    "prid2011": "PRID2011 multi-shot, all ten splits",
    "pku-reid": "PKU-Reid, ten splits, both ways",
    "ls-vid": "LS-VID, from its authors' lists",
    "verify": "no source: checks a layout, and fixes its partitions file",
}

USAGE = "python -m stf_jax.prepare SOURCE --output DIR ..."


def _overview() -> str:
    lines = [f"usage: {USAGE}", "", "Turns a source of tracklets into the project's layout.", ""]
    lines += [f"  {source:<12} {text}" for source, text in SOURCES.items()]
    lines += ["", "options of a source: python -m stf_jax.prepare SOURCE --help"]
    return "\n".join(lines)


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs one source; returns 0, or 2 for bad input (see stderr)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if not arguments:
        print(_overview(), file=sys.stderr)
        return 2
    source, *rest = arguments
    if source not in SOURCES:
        known = ", ".join(SOURCES)
        print(f"error: {source!r} is not a source; expected one of {known}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"stf_jax.prepare.{source.replace('-', '_')}")
    description, example, rest_of_help = (module.__doc__ or "").partition("\nexample")
    parser = argparse.ArgumentParser(
        prog=f"python -m stf_jax.prepare {source}",
        description=description,
        epilog=(example + rest_of_help).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    output = getattr(args, "output", None)
    try:
        with contextlib.nullcontext() if output is None else one_owner(output):
            return module.run(args) or 0
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
