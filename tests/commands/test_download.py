"""preprocess/download.py against a server that answers like Zenodo, well or badly."""

import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from local_server import run_local_server

import download
import fetching
from conftest import ROOT, files_below
from settings import datasets as dataset_facts
from unlabeledasd.errors import InputError, RunLocked
from unlabeledasd.runs.locks import locked

TINY = """
defaults: [base]
name: tiny
machines: {development: [fan, pump], evaluation: [drill]}
records: {development: 11, evaluation_train: 12, evaluation_test: 13}
clips: {train_source: 3, train_target: 1, test_normal: 1, test_anomaly: 1}
"""
RECORDS = {"dev_fan": 11, "dev_pump": 11, "eval_data_drill_train": 12, "eval_data_drill_test": 13}


def clip_bytes(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest() * 100


def zip_bytes(members: dict[str, bytes | str], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if name == link:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, content)
    return buffer.getvalue()


def clips(machine: str, split: str) -> dict[str, bytes]:
    domains = ["source"] * 3 + ["target"]
    if split == "train":
        names = [f"train/section_00_{d}_train_normal_{i:04d}_a.wav" for i, d in enumerate(domains)]
    elif machine == "drill":
        names = ["test/section_00_0000.wav", "test/section_00_0001.wav"]
    else:
        names = [f"test/section_00_source_test_{c}_0000_a.wav" for c in ("normal", "anomaly")]
    return {f"{machine}/{name}": clip_bytes(machine + name) for name in names}


def archives() -> dict[str, bytes]:
    contents = {
        "dev_fan.zip": {
            **clips("fan", "train"),
            **clips("fan", "test"),
            "fan/attributes_00.csv": b"a,b\n",
            "fan/supplemental/clean_0000.wav": b"supplemental",
            "__MACOSX/fan/train/._x.wav": b"no",
            "fan/train/.DS_Store": b"no",
            "readme.md": b"no",
        },
        "dev_pump_r2.zip": {
            f"dev_data/{name}": c for s in ("train", "test") for name, c in clips("pump", s).items()
        },
        "dev_pump.zip": {"pump/train/old.wav": b"old", "pump/test/old.wav": b"old"},
        "eval_data_drill_train.zip": clips("drill", "train"),
        "eval_data_drill_test.zip": clips("drill", "test"),
    }
    return {name: zip_bytes(members) for name, members in contents.items()}


WANTED = {
    name: content
    for machine in ("fan", "pump", "drill")
    for split in ("train", "test")
    for name, content in clips(machine, split).items()
}
WANTED |= {"fan/attributes_00.csv": b"a,b\n", "fan/supplemental/clean_0000.wav": b"supplemental"}


class Zenodo:
    """The local server as Zenodo: `put` an archive into its record, with its own or another
    checksum."""

    def __init__(self, server):
        self.server, self.records = server, {}
        self.asked, self.drops, self.errors = server.asked, server.drops, server.errors
        for name, content in archives().items():
            self.put(name, content)

    def path(self, name: str) -> str:
        return f"/api/records/{self.record(name)}/files/{name}/content.zip"

    def record(self, name: str) -> int:
        return RECORDS[re.sub(r"(_r\d+)?\.zip$", "", name)]

    def put(self, name: str, content: bytes, checksum: str = "", size: int = 0) -> None:
        files = self.records.setdefault(self.record(name), {})
        files[name] = {
            "key": name,
            "size": size or len(content),
            "links": {"self": self.server.url + self.path(name)},
            "checksum": checksum or "md5:" + hashlib.md5(content).hexdigest(),
        }
        self.server.files[self.path(name)] = content
        for number, record in self.records.items():
            body = json.dumps({"id": number, "files": list(record.values())})
            self.server.files[f"/api/records/{number}"] = body.encode()

    def ranges(self, name: str) -> list[str | None]:
        return [span for path, span in self.asked if path == self.path(name)]


@pytest.fixture
def server():
    yield from run_local_server()


@pytest.fixture
def zenodo(server, tmp_path, monkeypatch):
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(TINY)
    shutil.copy(dataset_facts.CONFIG / "base.yaml", folder)
    monkeypatch.setattr(dataset_facts, "CONFIG", folder)
    monkeypatch.setattr(fetching, "WAIT_S", 0.001)
    monkeypatch.setattr(fetching, "CHUNK_BYTES", 1000)
    monkeypatch.setenv("ZENODO_URL", server.url)
    monkeypatch.setenv("no_proxy", "*")
    return Zenodo(server)


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def fetch(data_dir, *options: str) -> None:
    download.main([str(data_dir), "tiny", *options])


def raw_files(data_dir) -> dict[str, bytes]:
    return files_below(data_dir / "tiny/all/raw")


def test_layout(zenodo, data_dir, capsys):
    fetch(data_dir)
    assert raw_files(data_dir) == WANTED
    assert list((data_dir / "tiny/archives").iterdir()) == []
    printed = capsys.readouterr().out
    assert "tiny: 0 of 4 archives are already unpacked (the others: records 11, 12, 13)" in printed
    assert "dev_pump_r2.zip: 4 train and 2 test clips in" in printed
    assert zenodo.ranges("dev_pump.zip") == []  # the newer revision alone


def test_second_call_does_nothing(zenodo, data_dir, capsys):
    fetch(data_dir)
    times = {
        path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if ".lock." not in path.name
    }
    zenodo.asked.clear()
    (data_dir / "tiny/all/raw/drill/test/section_00_0000.wav").rename(
        data_dir / "tiny/all/raw/drill/test/named.wav"
    )
    fetch(data_dir)
    assert zenodo.asked == []
    assert "4 of 4 archives are already unpacked" in capsys.readouterr().out
    same = {path for path in times if path.exists() and path.stat().st_mtime_ns == times[path]}
    assert {path.name for path in set(times) - same} <= {
        "section_00_0000.wav",
        "test",
        "tiny",
    }  # tiny: a lock in it


def test_dropped_connections_go_on_where_they_broke(zenodo, data_dir):
    zenodo.drops[zenodo.path("dev_fan.zip")] = [2500, 1700]
    fetch(data_dir)
    assert raw_files(data_dir) == WANTED
    assert zenodo.ranges("dev_fan.zip") == [None, "bytes=2500-", "bytes=4200-"]


def test_a_dead_connection_keeps_what_came(zenodo, data_dir):
    zenodo.drops[zenodo.path("dev_fan.zip")] = [3000] + [0] * (fetching.ATTEMPTS + 5)
    with pytest.raises(
        InputError, match=r"dev_fan\.zip.*3000 bytes are kept, the same command resumes"
    ):
        fetch(data_dir)
    assert set(raw_files(data_dir)) == {name for name in WANTED if not name.startswith("fan/")}
    zenodo.drops.clear()
    zenodo.asked.clear()
    fetch(data_dir)
    assert zenodo.ranges("dev_fan.zip") == ["bytes=3000-"]
    assert len(zenodo.asked) == 2  # one record, one archive
    assert raw_files(data_dir) == WANTED


DRIVER = """
import sys
from pathlib import Path
import download, fetching
from settings import datasets as dataset_facts
dataset_facts.CONFIG, fetching.CHUNK_BYTES = Path(sys.argv[1]), 1000
download.main(sys.argv[2:])
"""


def test_a_killed_process_goes_on_where_it_was(zenodo, data_dir):
    zenodo.server.stops[zenodo.path("dev_fan.zip")] = 3000
    path = os.pathsep.join(str(ROOT / folder) for folder in ("src", "preprocess"))
    command = [sys.executable, "-c", DRIVER, dataset_facts.CONFIG, data_dir, "tiny"]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL
    )
    part = data_dir / "tiny/archives/dev_fan.zip.part"
    wait_until(lambda: part.is_file() and part.stat().st_size == 3000)
    process.kill()
    process.wait()
    zenodo.server.stops.clear()
    zenodo.asked.clear()
    fetch(data_dir)
    assert zenodo.ranges("dev_fan.zip") == ["bytes=3000-"]
    assert raw_files(data_dir) == WANTED


def wait_until(true, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_server_without_ranges_starts_over(zenodo, data_dir):
    zenodo.server.ignores_range = True
    zenodo.drops[zenodo.path("dev_fan.zip")] = [2500]
    fetch(data_dir)
    assert raw_files(data_dir) == WANTED
    assert zenodo.ranges("dev_fan.zip") == [None, "bytes=2500-"]


def test_a_tired_server_is_asked_again(zenodo, data_dir):
    zenodo.errors |= {zenodo.path("dev_fan.zip"): [503, 429], "/api/records/12": [500]}
    fetch(data_dir)
    assert raw_files(data_dir) == WANTED


@pytest.mark.parametrize("content", [b"x" * 5000, None], ids=["other bytes", "larger"])
def test_wrong_checksum_is_named_and_set_aside(zenodo, data_dir, content):
    good = archives()["dev_fan.zip"]
    size = len(content or good)
    zenodo.put(
        "dev_fan.zip", content or good + b"more", "md5:" + hashlib.md5(good).hexdigest(), size
    )
    with pytest.raises(
        InputError,
        match=r"dev_fan\.zip: its checksum is md5:\w+, the record says md5:\w+; set aside",
    ):
        fetch(data_dir)
    assert [path.name for path in (data_dir / "tiny/archives").iterdir()] == ["dev_fan.zip.wrong"]
    assert set(raw_files(data_dir)) == {name for name in WANTED if not name.startswith("fan/")}
    zenodo.put("dev_fan.zip", good)
    fetch(data_dir)
    assert raw_files(data_dir) == WANTED


OUTSIDE = ["../evil.wav", "fan/train/../../../../evil.wav", "/tmp/evil.wav", "C:\\evil.wav", "link"]


@pytest.mark.parametrize("member", OUTSIDE)
def test_no_member_leaves_the_folder(zenodo, data_dir, tmp_path, member):
    members = {
        **clips("fan", "train"),
        **clips("fan", "test"),
        member: "/etc" if member == "link" else b"evil",
    }
    zenodo.put("dev_fan.zip", zip_bytes(members, link="link"))
    before = {path for path in tmp_path.rglob("*") if data_dir not in path.parents}
    message = re.escape(f"its member {member!r} would leave the folder; nothing was unpacked")
    with pytest.raises(InputError, match=message):
        fetch(data_dir)
    assert set(raw_files(data_dir)) == {name for name in WANTED if not name.startswith("fan/")}
    assert {path for path in tmp_path.rglob("*") if data_dir not in path.parents} - before <= {
        data_dir
    }
    assert not list(data_dir.rglob("*evil*"))


def test_what_is_not_there_is_named_and_the_rest_is_fetched(zenodo, data_dir, capsys):
    del zenodo.server.files[zenodo.path("dev_fan.zip")]
    del zenodo.server.files["/api/records/13"]
    with pytest.raises(InputError, match="2 problems, see above"):
        fetch(data_dir)
    printed = capsys.readouterr().err
    assert (
        f"error: {zenodo.server.url}{zenodo.path('dev_fan.zip')}: the server answers 404" in printed
    )
    assert f"error: {zenodo.server.url}/api/records/13: the server answers 404" in printed
    assert set(raw_files(data_dir)) == {
        name for name in WANTED if name.startswith(("pump/", "drill/train/"))
    }
    assert len(zenodo.ranges("dev_fan.zip")) == 1  # asking again would not help


def test_a_record_of_other_content(zenodo, data_dir):
    del zenodo.records[12]["eval_data_drill_train.zip"]
    zenodo.put("eval_data_drill_test.zip", archives()["eval_data_drill_test.zip"])
    with pytest.raises(
        InputError, match=r"record 12: no eval_data_drill_train\.zip in it, only nothing"
    ):
        fetch(data_dir)
    zenodo.server.files["/api/records/12"] = b"<html>"
    with pytest.raises(
        InputError, match=r"/api/records/12: not the description of a Zenodo record"
    ):
        fetch(data_dir)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no zip", r"dev_fan\.zip: cannot be unpacked \(File is not a zip file\)"),
        (
            zip_bytes({"fan/readme.md": b"x"}),
            r"dev_fan\.zip: no clip of train/ in it, it begins \['fan/readme\.md'\]",
        ),
    ],
)
def test_archives_that_are_none(zenodo, data_dir, content, message):
    zenodo.put("dev_fan.zip", content)
    with pytest.raises(InputError, match=message):
        fetch(data_dir)


def test_killed_while_unpacking(zenodo, data_dir):
    """One of two folders was moved; the archive is still there, and so is the temporary folder."""
    fan = data_dir / "tiny/all/raw/fan"
    for name, content in clips("fan", "train").items():
        for folder in (fan.parent, fan / ".unpacking_dev_fan"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    archive = data_dir / "tiny/archives/dev_fan.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(archives()["dev_fan.zip"])
    fetch(data_dir)
    assert raw_files(data_dir) == WANTED
    assert zenodo.ranges("dev_fan.zip") == []


def test_a_folder_with_other_files(zenodo, data_dir):
    folder = data_dir / "tiny/all/raw/fan/test"
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    with pytest.raises(InputError, match=r"fan/test: has files, but no clips; remove it"):
        fetch(data_dir)
    (folder / "notes.txt").unlink()  # an empty one is filled
    fetch(data_dir)
    assert raw_files(data_dir) == WANTED


def test_a_folder_with_another_number_of_clips(zenodo, data_dir):
    """Neither overwritten nor taken for granted."""
    fetch(data_dir)
    clip = next((data_dir / "tiny/all/raw/fan/train").iterdir())
    clip.unlink()
    with pytest.raises(
        InputError, match=r"fan/train: 3 clips, expected 4; remove the folder to fetch it again"
    ):
        fetch(data_dir)
    shutil.rmtree(clip.parent)
    fetch(data_dir)
    assert raw_files(data_dir) == WANTED


def test_machines_and_keep_archives(zenodo, data_dir):
    fetch(data_dir, "--keep-archives", "--machines", "drill")
    assert set(raw_files(data_dir)) == {name for name in WANTED if name.startswith("drill/")}
    kept = files_below(data_dir / "tiny/archives")
    assert kept == {name: content for name, content in archives().items() if "drill" in name}


def test_dry_run_changes_nothing(zenodo, data_dir, capsys):
    fetch(data_dir, "--dry-run")
    assert not data_dir.exists()
    printed = capsys.readouterr().out
    assert re.search(
        rf"0\.00 GB  {zenodo.server.url}\S+dev_fan\.zip/content\.zip -> \S+/fan/{{train,test}}",
        printed,
    )
    assert re.search(
        r"4 archives to fetch, 0\.00 GB; takes about 0\.00 GB, \d+\.\d\d GB are free", printed
    )
    assert all(path.startswith("/api/records/") and "files" not in path for path, _ in zenodo.asked)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_no_room(zenodo, data_dir, monkeypatch, options):
    usage = namedtuple("usage", "total used free")(1, 1, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        InputError, match=r"not enough room: 4 archives to fetch, .* 0\.00 GB are free"
    ):
        fetch(data_dir, *options)
    assert not (data_dir / "tiny/all").exists()


def test_several_at_once(zenodo, data_dir):
    zenodo.server.meeting = threading.Barrier(
        4, timeout=10
    )  # broken unless four are asked for together
    fetch(data_dir, "--jobs", "4")
    assert raw_files(data_dir) == WANTED


def test_one_process_at_a_time(zenodo, data_dir):
    with (
        locked(data_dir / "tiny", data_dir / "tiny/.lock"),
        pytest.raises(RunLocked, match="locked by process"),
    ):
        fetch(data_dir)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["tiny", "--machines", "fan", "saw"],
            r"--machines saw: unknown; allowed are fan pump drill",
        ),
        (["demo"], r"dataset demo: no official archives known; allowed are tiny"),
        (["tiny", "--jobs", "0"], r"--jobs 0: at least 1"),
    ],
)
def test_arguments(zenodo, data_dir, arguments, message):
    with pytest.raises(InputError, match=message):
        download.main([str(data_dir), *arguments])
    assert not data_dir.exists()


def test_every_official_archive_is_asked_for(server, tmp_path):
    """The script as a whole, on the records of the real datasets; two revisions, as in 2024."""
    names = dataset_facts.dataset_names("records")
    assert len(names) >= 4
    n_archives = 0
    for name in names:
        dataset = dataset_facts.load_dataset(name)
        for kind, (group, _) in download.KINDS.items():
            stem = dataset.archives[kind]
            revised = {"3DPrinter"} if (name, kind) == ("dcase2024", "evaluation_train") else set()
            files = [
                stem.format(m) + ("_r2.zip" if m in revised else ".zip")
                for m in dataset.machines[group]
            ]
            n_archives += len(files)
            facts = [
                {
                    "key": file,
                    "size": 10**8,
                    "checksum": "md5:0",
                    "links": {"self": f"{server.url}/{file}"},
                }
                for file in files
            ]
            server.files[f"/api/records/{dataset.records[kind]}"] = json.dumps(
                {"files": facts}
            ).encode()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"ZENODO_URL": server.url, "no_proxy": "*", "PATH": path}

    def run(*arguments: str):
        command = [ROOT / "preprocess/download.sh", "data", *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = run(*names, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" -> ") == n_archives
    assert (
        f"{server.url}/eval_data_3DPrinter_train_r2.zip -> "
        "data/dcase2024/all/raw/3DPrinter/{train}" in done.stdout
    )
    assert list(tmp_path.iterdir()) == []
    done = run("nothing")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(
        "error: dataset nothing: no official archives known; allowed are dcase2020 "
    )
