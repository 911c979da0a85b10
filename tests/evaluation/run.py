"""Run the evaluations of diagnosis and print what they found: `python tests/evaluation/run.py [--quick]`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation import anomaly, tree


def main() -> None:
    """Judge the tree, then the detector of anomalies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few wells, for a first look")
    parser.add_argument("--only", choices=("tree", "anomaly"), help="one of the two")
    parser.add_argument("--skab", type=Path, default=anomaly.SKAB, help="folder of the SKAB benchmark")
    asked = parser.parse_args()
    if asked.only != "anomaly":
        for line in tree.report(quick=asked.quick):
            print(line, flush=True)
    if asked.only != "tree":
        plan = anomaly.QUICK if asked.quick else anomaly.FULL
        for line in anomaly.report(plan, skab_folder=asked.skab):
            print(line, flush=True)


if __name__ == "__main__":
    main()
