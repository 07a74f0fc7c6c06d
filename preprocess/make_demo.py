"""Write the demo data: four synthesised machines, as the datasets demo and demo_unlabeled.

A second call checks the clips that exist and writes those that are missing.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from synthesis import write_demo
from unlabeledasd.errors import one_line_errors

DATA = Path(__file__).resolve().parent.parent / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data_dir", nargs="?", type=Path, default=DATA, help="where to (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed makes other clips (default: %(default)s)"
    )
    args = parser.parse_args()
    with one_line_errors(OSError):
        written = write_demo(
            args.data_dir, args.seed, lambda clips: tqdm(clips, "demo", unit=" clips")
        )
        print(f"{args.data_dir}/demo and demo_unlabeled: {written} clips written, the others exist")


if __name__ == "__main__":
    main()
