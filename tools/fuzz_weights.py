#!/usr/bin/env python3
"""Damages small weights files of every format at random, as often as you like, and reports the outcomes.

    python tools/fuzz_weights.py --cases 100000 --seed 7 [--format keras1 …] [--folder /tmp/fuzz]

Every case must end in a loaded network or in one sentence. The first case that does not is kept in the folder and ends
the run with exit code 1. The tests do the same with a few hundred cases of each format.
"""

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from weight_files import FORMATS
from weight_fuzz import fuzz


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="of each format (default 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", nargs="*", choices=list(FORMATS), help="only these")
    parser.add_argument("--folder", type=Path, help="where a failing case is kept (default: a new temporary folder)")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fuzz_weights-"))
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.format or FORMATS:
        try:
            outcomes = fuzz(folder, arguments.seed, arguments.cases, [name])
        except BaseException:  # whatever it is, it is what we are looking for
            traceback.print_exc()
            return 1
        counts = ", ".join(f"{count} {what}" for what, count in sorted(outcomes.counts.items()))
        print(
            f"{name}: {counts}; slowest {outcomes.slowest:.2f} s, most memory {outcomes.largest >> 10} KiB", flush=True
        )
        for reason, count in outcomes.reasons.most_common(5):
            print(f"    {count:6} {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
