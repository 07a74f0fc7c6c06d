"""Fuse the scores of finished runs: of epochs, scorers, methods and seeds, clip by clip.

  python src/fuse.py RUN RUN@VERSION RUN@VERSION@COLUMN --out results/exp/<dataset>/<name>_<seed>
  python src/fuse.py RUN@ldn SPECTRAL --how max --out results/exp/demo/fused_1
  python src/fuse.py RUN@epoch12 RUN@epoch16 --out results/exp/demo/two_epochs_1

RUN is a finished run, VERSION a folder version_<VERSION> of its machines (default: the mean of its
epochs), COLUMN a score column (default: the first). Each score is standardized by the mean and the
standard deviation of the training clips that were held out from its scorer; the mean, minimum or
maximum of these is the fused score. --out gets the form of a run, so that src/report.py and
src/submit.py take it; no network is copied. Writes nothing unless every source has all clips.
"""

import argparse
import hashlib
from pathlib import Path

import yaml

from unlabeledasd.detection.loading import open_run
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.files import write_text
from unlabeledasd.metrics import SINCE_2022
from unlabeledasd.results import report
from unlabeledasd.runs.folder import Run, version_name
from unlabeledasd.runs.fusion import FUSIONS, Source, fuse_scores, write_fused


def parse_source(text: str) -> tuple[Source, dict]:
    """RUN[@VERSION[@COLUMN]] -> (source, the run's configuration)."""
    folder, _, rest = text.partition("@")
    version, _, column = rest.partition("@")
    run, config = open_run(Path(folder))
    return Source(run, version or version_name(config["score_epochs"]), column or None), config


def write_fusion(options: argparse.Namespace) -> None:
    parsed = [parse_source(text) for text in options.sources]
    sources, config = [source for source, _ in parsed], parsed[0][1]
    out, version = Run(options.out), version_name(config["score_epochs"])
    if out.config.is_file() and "fusion" not in out.read_config():
        raise InputError(f"--out {out.folder}: a run of src/train.py; name another folder")
    tables = fuse_scores(sources, options.how)
    parts = [
        {
            "run": str(source.run.folder.resolve()),
            "version": source.version,
            "column": source.column,
        }
        for source in sources
    ]
    official = config["dataset"].get("official", SINCE_2022)
    fusion = {"how": options.how, "sources": parts}
    text = yaml.safe_dump({**config, "fusion": fusion}, sort_keys=False)
    with out.claim():
        out.clear()
        write_fused(tables, out, version, official)
        write_text(out.config, text)
        out.mark_done(hashlib.sha256(text.encode()).hexdigest())
    print(report(out, version, list(tables)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="RUN[@VERSION[@COLUMN]]")
    parser.add_argument("--out", type=Path, required=True, help="folder of the fused scores")
    parser.add_argument(
        "--how", choices=list(FUSIONS), default="mean", help="(default: %(default)s)"
    )
    options = parser.parse_args()
    with one_line_errors(OSError):
        write_fusion(options)


if __name__ == "__main__":
    main()
