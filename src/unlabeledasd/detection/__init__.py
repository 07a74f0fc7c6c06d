"""Score recordings with a trained run, from any program.

from unlabeledasd.detection import load

detector = load("results/exp/demo/subloss_0256_4096_1")
score = detector.score_file("recording.wav", machine="gearbox")
is_anomalous = score > detector.threshold("gearbox")
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unlabeledasd.detection.detector import Detector


def load(folder: str | Path, precision: str | None = None) -> "Detector":
    """The detector of a finished run, or of a folder that src/export.py wrote.

        detector = load("results/exp/demo/subloss_0256_4096_1")
        detector.score_file("recording.wav", machine="gearbox")       # higher = more anomalous
        detector.score(samples, sample_rate=48000, machine="gearbox")  # an array

    folder: results/exp/<dataset>/<method>_<seed>, or the exported folder, which needs onnxruntime
    in place of torch. It is moved freely: nothing but the folder is read. precision: what the
    networks of a run compute in, 32-true or bf16-mixed; None: as in training where this CPU is
    fast in it, else 32-true. InputError where the folder is no finished run, is corrupt, or names
    a class that is not of this library.
    """
    from unlabeledasd.detection.loading import load_detector  # which imports scikit-learn

    return load_detector(Path(folder), precision)
