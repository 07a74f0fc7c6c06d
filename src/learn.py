"""Learn a detector from recordings of normal sound: one machine or several, in about a minute.

  python src/learn.py FOLDER --out detector            then: python src/score.py detector NEW.wav
  python src/learn.py FOLDER --out detector --alarm-rate 0.05 --test RECORDINGS_OF_KNOWN_STATE
  python src/learn.py FOLDER --out detector --train    a network, in minutes to hours
  python src/learn.py CLIPS... --add detector          more normal recordings, nothing is retrained
  python src/learn.py --undo detector                  take the last --add back

Recordings are wav, flac, ogg, mp3, aiff, au, caf or w64, of any sample rate, length and number of
channels. FOLDER has the recordings of one machine, or a folder per machine; --machine NAME says
that all of it is one machine, whose folders are operating states. train/ below a machine is looked
into, test/ is not, and a recording that is named as an anomaly is refused.

Recordings are compared by the statistics of their spectra; --train trains a network besides, on
machines and conditions as classes, on clusters, or on transformations of the recordings. Some
recordings are set aside, as many as the alarm rate needs (without --train and with few, each is
scored without itself), and scores above the threshold that follows from these are alarms. The
promise is that at most this share of further normal recordings are, as long as they come from the
same microphone, place and operation. A recording that cannot be read is reported, the others are
used, the exit status is 1.
"""

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf
from tqdm import tqdm

from reporting.detector_page import write_detector_page
from reporting.lines import Tally, reported
from reporting.tested import print_test
from settings.build import build
from settings.kept import build_kept
from settings.learned import NETWORK, SPECTRAL, least_seconds, make_config, train
from unlabeledasd.audio import AudioFile
from unlabeledasd.detection.conformal import false_alarms, least_scores
from unlabeledasd.detection.inbox import SUFFIXES, Copies, look
from unlabeledasd.detection.learning import (
    Learned,
    Rows,
    assign_roles,
    calibrate,
    check_unseen,
    embed_recording,
    keep_facts,
    kept_file,
    promise,
    read_learned,
    write_learned,
)
from unlabeledasd.detection.loading import load_networks
from unlabeledasd.detection.survey import (
    Facts,
    channel_number,
    channel_words,
    choose_seconds,
    machine_name,
    stated_by,
    summary,
)
from unlabeledasd.detection.training import begin
from unlabeledasd.errors import InputError, check_range, one_line_errors
from unlabeledasd.files import write_text
from unlabeledasd.runs.folder import Run, version_name

if TYPE_CHECKING:
    from torch import nn
RATE = 16000  # Hz at most, unless --sample-rate says another


def find(options: argparse.Namespace, problems: Tally) -> list[Facts]:
    """The recordings to learn from, by their headers."""
    inbox, copies, facts, tested = look(options.recordings), Copies(), [], 0
    for error in inbox.unreadable:
        problems.fail(error)
    for recording in tqdm(inbox.recordings, desc="looking", unit="file", leave=False, disable=None):
        path = recording.path
        if (machine := machine_name(recording, options.machine)) is None:
            tested += 1
            continue
        with reported(problems, path):
            with AudioFile(path) as file:
                seconds = file.frames / file.sample_rate
                place = str(path.absolute())
                found = Facts(place, machine, seconds, file.sample_rate, file.channels)
            if stated_by(path, machine) == "anomaly":
                raise InputError(f"{path}: named as an anomaly; a detector learns normal sound")
            if seconds == 0:
                raise InputError(f"{path}: no samples in it")
            if copy := copies.earlier(path):
                raise InputError(f"{path}: the same recording as {copy}")
            facts.append(found)
    if inbox.left_out.counts:
        print(f"left out: {inbox.left_out}")
    if tested:
        print(f"not learned from: {tested} recordings below test/")
    if not facts:
        places = " ".join(map(str, options.recordings))
        raise InputError(f"{places}: no recording to learn from ({' '.join(SUFFIXES)})")
    return facts


def dataset_overrides(facts: list[Facts], options: argparse.Namespace) -> list[str]:
    """Length, rate and channel of windows, as settings of a run."""
    seconds = options.seconds or choose_seconds(facts, least_scores(options.alarm_rate))
    rate = options.sample_rate or min(RATE, min(one.rate for one in facts))
    if options.train:
        seconds = max(seconds, least_seconds(rate))
    channel = "null" if options.channel is None else options.channel
    values = {"clip_seconds": seconds, "sample_rate": rate, "channel": channel}
    return [f"dataset.{name}={value}" for name, value in values.items()]


def embed(
    facts: list[Facts], config: dict, extractor: "nn.Module", problems: Tally
) -> tuple[pd.DataFrame, np.ndarray]:
    """(recording and machine of every window, embeddings (N, ...)) of what can be read."""
    dataset, rows, embedding = config["dataset"], [], Rows()
    for one in tqdm(facts, desc="learning", unit="file", leave=False, disable=None):
        with reported(problems, one.recording):
            found = embed_recording(one, extractor, dataset["sample_rate"], dataset["channel"])
            embedding.add(found)
            rows += [(one.recording, one.machine)] * len(found)
    if not rows:
        raise InputError("no recording could be used")
    return pd.DataFrame(rows, columns=["recording", "machine"]), embedding.array


def report(learned: Learned, scores: dict[str, np.ndarray], rate: float) -> None:
    for machine, values in scores.items():
        references = learned.of(machine, "reference", "both").windows.recording.nunique()
        counts = f"{references} recordings to compare with, {len(values)} calibration scores"
        print(f"{machine}: {counts}; {promise(learned, machine, rate)}")
        if not np.isnan(checked := false_alarms(values, rate)):
            print(f"  checked: {checked:.3f} of one half by the threshold of the other")


def write(run: Run, config: dict, learned: Learned) -> None:
    """The detector's files; the marker that it is finished comes last."""
    from unlabeledasd.runs.training import keep_untrained

    run.done_marker.unlink(missing_ok=True)
    if config["score_epochs"] == [0]:
        keep_untrained(run, build(OmegaConf.create(config["model"]), n_classes=2))
    write_learned(run, learned)  # what follows can be made again from it
    text = yaml.safe_dump(config, sort_keys=False)
    write_text(run.config, text)
    ((_, node),) = config["scorer"].items()
    version = version_name(config["score_epochs"])
    scores = calibrate(learned, build(OmegaConf.create(node)), run, version)
    run.mark_done(hashlib.sha256(text.encode()).hexdigest())
    report(learned, scores, config["alarm_rate"])


def learn(options: argparse.Namespace, problems: Tally) -> Run:
    run = Run(options.out)
    interrupted = kept_file(run).is_file() and not run.is_done
    if run.config.is_file() and not interrupted:
        raise InputError(f"--out {run.folder}: exists; --add adds to it, or name another folder")
    least_scores(options.alarm_rate)  # checks the rate before anything is read
    facts = find(options, problems)
    overrides = dataset_overrides(facts, options)
    config = make_config(SPECTRAL, *overrides)
    dataset = config["dataset"]
    form = f"windows of {dataset['clip_seconds']} s at {dataset['sample_rate']} Hz"
    method = NETWORK if options.train else SPECTRAL
    print(f"{form}, {channel_words(options.channel)}; method {method}")
    extractor = build(OmegaConf.create(config["model"]["extractor"])).eval()
    table, embedding = embed(facts, config, extractor, problems)
    print(*summary(facts), sep="\n")
    roles = with_roles(table, options, problems)
    learned = learned_of(roles, embedding)
    with run.claim():
        if options.train:
            config = train(run, facts, learned, overrides)
            used = set(table.recording)
            again = [replace(one, notes=[]) for one in facts if one.recording in used]
            (network,) = load_networks(run, config, build_kept)
            later, embedding = embed(again, config, network, Tally())
            if not later.equals(table):
                raise InputError("recordings have changed meanwhile; call src/learn.py again")
            learned = learned_of(roles, embedding)
        else:
            begin(run, None)
        write(run, config | {"alarm_rate": options.alarm_rate}, learned)
        keep_facts(run, facts)
    return run


def with_roles(table: pd.DataFrame, options: argparse.Namespace, problems: Tally) -> pd.DataFrame:
    """Rows of the machines that have enough recordings; another one does not end the rest."""
    parts = []
    for machine, rows in table.groupby("machine", sort=False):
        with reported(problems, machine):
            roles = assign_roles(rows, options.alarm_rate)
            if options.train:
                check_unseen(roles, options.alarm_rate)
            parts.append(roles)
    if not parts:
        raise InputError("no machine has enough recordings, see above")
    roles = pd.concat(parts).sort_index().assign(batch=0)
    return roles[roles.role != "gap"]


def learned_of(roles: pd.DataFrame, embedding: np.ndarray) -> Learned:
    return Learned(roles.reset_index(drop=True), embedding[roles.index])


def add(options: argparse.Namespace, problems: Tally) -> Run:
    run = Run(options.add)
    before, config = read_learned(run), run.read_config()
    if not run.is_done:
        with run.claim():
            write(run, config, before)
        print("an earlier call was interrupted; it is completed now")
    facts = find(options, problems)
    known = list(dict.fromkeys(before.windows.machine))
    for one in facts:
        if one.machine not in known and len(known) == 1:
            one.machine = known[0]
    if unknown := sorted({one.machine for one in facts} - set(known)):
        raise InputError(f"machine {unknown[0]}: the detector has {' '.join(known)}; see --machine")
    if twice := {one.recording for one in facts} & set(before.windows.recording):
        raise InputError(f"{min(twice)}: the detector has learned it already")
    (extractor,) = load_networks(run, config, build_kept)
    table, embedding = embed(facts, config, extractor, problems)
    print(*summary(facts), sep="\n")
    names = table.recording.unique()
    aside = table.recording.isin(names[3::4])  # every fourth one is for calibration
    crossed = table.machine.isin(before.windows.machine[before.windows.role == "both"])
    roles = np.select([crossed, aside], ["both", "calibration"], "reference")
    later = table.assign(unit=table.recording, role=roles, batch=before.batches)
    with run.claim():
        write(run, config, before.added(Learned(later, embedding)))
        keep_facts(run, facts)
    print(f"added: {len(names)} recordings; --undo {run.folder} takes them back")
    return run


def undo(options: argparse.Namespace) -> Run:
    run = Run(options.undo)
    try:
        learned = read_learned(run).without_last()
    except InputError as error:
        raise InputError(f"--undo {run.folder}: {error}") from None
    with run.claim():
        write(run, run.read_config(), learned)
    return run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", nargs="*", type=Path, metavar="FOLDER_OR_FILE")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--out", type=Path, metavar="DETECTOR", help="folder to write")
    place.add_argument("--add", type=Path, metavar="DETECTOR", help="add confirmed normal clips")
    place.add_argument("--undo", type=Path, metavar="DETECTOR", help="take the last --add back")
    parser.add_argument("--machine", help="what all recordings are of")
    parser.add_argument("--train", action="store_true", help="a network, by minutes of training")
    parser.add_argument("--alarm-rate", type=float, default=0.1, help="(default: %(default)s)")
    parser.add_argument("--channel", type=channel_number, default=0, help="from 0, or mean (0)")
    parser.add_argument("--seconds", type=float, help="of a window (the median, from 1 to 10)")
    parser.add_argument("--sample-rate", type=int, help=f"in Hz (the lowest, at most {RATE})")
    parser.add_argument("--test", type=Path, metavar="FOLDER", help="recordings of known state")
    options = parser.parse_args(arguments)
    problems = Tally()
    with one_line_errors(OSError):
        if bool(options.recordings) == bool(options.undo):
            raise InputError("FOLDER_OR_FILE: needed for --out and --add, not taken by --undo")
        for name, value, *allowed in (
            ("--channel", options.channel, 0),
            ("--seconds", options.seconds, 0.1, 60),
            ("--sample-rate", options.sample_rate, 1000, 192_000),
        ):
            if value is not None:
                check_range(name, value, *allowed)
        if options.test and not options.test.exists():
            raise InputError(f"--test {options.test}: no such folder")
        run = undo(options) if options.undo else (add if options.add else learn)(options, problems)
        if options.test:
            print_test(run, options.test, options.machine)
        with reported(problems, run.folder):
            print(f"page: {write_detector_page(run.folder)}")
        if problems.failed:
            print(f"{problems.failed} could not be used, see above", file=sys.stderr)
        print(f"detector: {run.folder}; python src/score.py {run.folder} RECORDING")
    sys.exit(int(problems.failed > 0))


if __name__ == "__main__":
    main()
