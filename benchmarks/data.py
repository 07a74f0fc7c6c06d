"""Time of reading clips against a training step: would a second, packed copy on disk pay off?

  python benchmarks/data.py [--clips 512] [--step 3.1]

Milliseconds per clip of 10 s, files in the operating system's cache: the header alone, 16-bit
samples in place (what training reads), decoding to float32, the same clip from one packed file (a
memory map), and what packing takes. --step: seconds of a training step of 64 clips, to compare with
(benchmarks/train_step.py).
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from measuring import clips, options, show


def main() -> None:
    given = options(__doc__, clips=512, step=3.1)
    from unlabeledasd.waveforms import check_clip, fit_length, read_clip

    with clips(8, -(-given.clips // 8)) as data_dir:
        paths = sorted(data_dir.glob("bench/all/raw/*/train/*.wav"))
        packed, length = Path(data_dir, "packed.i16"), soundfile.info(paths[0]).frames

        def pack() -> None:
            with packed.open("wb") as file:
                for path in paths:
                    file.write(read_clip(path).tobytes())

        def milliseconds(function: Callable[[int], object]) -> float:
            start = time.perf_counter()
            for i in range(len(paths)):
                function(i)
            return 1e3 * (time.perf_counter() - start) / len(paths)

        start = time.perf_counter()
        pack()
        packing = 1e3 * (time.perf_counter() - start) / len(paths)
        rows_of_pack = np.memmap(packed, np.int16, "r").reshape(len(paths), length)
        measured = {
            "header": lambda i: check_clip(paths[i], 16000),
            "16-bit samples in place": lambda i: read_clip(paths[i]),
            "the same, repeated to 18 s": lambda i: fit_length(read_clip(paths[i]), 288_000),
            "decoded to float32": lambda i: soundfile.read(paths[i], dtype="float32"),
            "from a packed file": lambda i: np.array(rows_of_pack[i]),
        }
        rows = [
            {"what": what, "ms per clip": milliseconds(function)}
            for what, function in measured.items()
        ]
    rows.append({"what": "packing", "ms per clip": packing})
    for row in rows:
        row["% of a step"] = 100 * 64 * row["ms per clip"] / 1e3 / given.step
    show(f"{len(paths)} clips of 10 s", rows, given.json)


if __name__ == "__main__":
    main()
