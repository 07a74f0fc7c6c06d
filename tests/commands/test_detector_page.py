"""The page of a detector: what it shows, against the files that it is made of, and in a browser."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_learn import Input, call, sound, write
from test_page import data_of, decoded, needs_browser, outcome_of

import learn
import report
import score
from unlabeledasd.detection import load
from unlabeledasd.detection.recent import RECORDINGS, WINDOWS, read


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, str]:
    """(a detector of two machines that has scored recordings and a stream, the page of learn.py)"""
    top = tmp_path_factory.mktemp("page")
    for k, machine in enumerate(("fan", "pump")):
        for i in range(14):
            write(top / "normal" / machine, f"{i}.wav", sound(50 * k + i))
    for i in range(12):
        write(top / "new/pump", f"<b>{i}.wav", sound(300 + i, tone_hz=1700 * (i in (3, 7))))
    stream = np.round(sound(400, 150) * 32768).astype("<i2").tobytes()
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(monkeypatch, learn, top / "normal", "--out", top / "detector") == 0
        first = (top / "detector/detector.html").read_text()
        assert call(monkeypatch, score, top / "detector", top / "new") == 0
        monkeypatch.setattr(sys, "stdin", Input(stream))
        assert call(monkeypatch, score, top / "detector", "-", "--machine", "pump") == 0
    return top / "detector", first


@pytest.fixture(scope="module")
def page(made) -> str:
    """As src/report.py writes it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", ["report.py", str(made[0]), "--clips", "2"])
        report.main()
    return (made[0] / "detector.html").read_text()


def test_a_new_detector_has_a_page(made):
    detector, text = made
    machines = data_of(text)["machines"]
    assert list(machines) == ["fan", "pump"]
    for name, own in machines.items():
        held_out = load(detector).machines[name].held_out
        np.testing.assert_allclose(own[RECORDINGS]["calibration"], held_out, rtol=0.01, atol=1e-3)
        assert own[RECORDINGS]["scores"] == own[WINDOWS]["scores"] == own["clips"] == []
        assert own["facts"] == [f"{name}: 14 recordings, 1.5 to 1.5 s, 0.01 hours; 8000 Hz, 1 "
                                "channel(s)"]  # fmt: skip
        assert own["promise"].startswith("alarms at a rate of about 0.1")


def test_recent_scores_and_the_worst_clips(made, page):
    detector, _ = made
    kept = read(detector / "recent.json")["pump"]
    own = data_of(page)["machines"]["pump"]
    recordings = own[RECORDINGS]
    assert recordings["threshold"] == load(detector).threshold("pump")
    assert recordings["clips"] == [one.clip for one in kept[RECORDINGS]]
    assert recordings["alarms"] == [one.is_alarm for one in kept[RECORDINGS]]
    expected = [one.score for one in kept[RECORDINGS]]
    np.testing.assert_allclose(recordings["shown"], expected, rtol=0.01, atol=1e-3)
    expected = [one.highest for one in kept[WINDOWS]]
    np.testing.assert_allclose(own[WINDOWS]["shown"], expected, rtol=0.01, atol=1e-3)
    assert {Path(clip["texts"][1]).name for clip in own["clips"]} == {"<b>3.wav", "<b>7.wav"}
    for clip in own["clips"]:
        assert clip["texts"][0].startswith("alarm, score ")
        said, nearest = clip["found"]["sentence"], Path(clip["normal"])
        low, _, high = said.partition(" kHz")[0].partition("-")
        assert float(low) <= 1.7 <= float(high)
        assert said.endswith(f"against {nearest.name}")
        assert nearest.parent.name == "pump"
        loudest = []
        for heard in (clip["media"][0], clip["normal_sound"]):
            audio, rate = soundfile.read(decoded(heard, "audio/ogg"))
            assert len(audio) / rate == pytest.approx(1.5, abs=0.01)
            loudest.append(np.abs(np.fft.rfft(audio)[round(1000 * 1.5) :]).argmax() / 1.5 + 1000)
        assert loudest[0] == pytest.approx(1700, abs=5)
        assert loudest[1] != pytest.approx(1700, abs=5)
        for picture in (clip["media"][1], clip["found"]["picture"]):
            assert decoded(picture, "image/webp").read()
    assert own["drift"] == []


def test_calibration_recordings_where_nothing_was_scored(made, page):
    """Those with the highest scores."""
    fan = data_of(page)["machines"]["fan"]
    assert len(fan["clips"]) == 2
    first = fan["clips"][0]
    detector = load(made[0])
    assert first["texts"][0].startswith(f"score {max(detector.machines['fan'].held_out):.4f}")
    assert first["media"]
    assert "found" not in first
    assert Path(first["texts"][1]).parent.name == "fan"


def test_what_is_refused(tmp_path, monkeypatch, capsys):
    for arguments, message in (
        ([tmp_path], "no detector of src/learn.py"),
        ([], "DETECTOR or --datasets --methods --seeds: required"),
    ):
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        with pytest.raises(SystemExit):
            report.main()
        assert message in capsys.readouterr().err


TRY_OUT = """<script>
const wait = ms => new Promise(done => setTimeout(done, ms));
async function tryOut() {
  const seen = {};
  for (const name of ["fan", "pump"]) {
    [...document.querySelectorAll("[role=tab]")].find(t => t.textContent === name).click();
    await wait(300);
    const plots = [...document.querySelectorAll(".plot")].filter(p => p.offsetParent);
    seen[name] = {
      heading: document.getElementById("heading").textContent,
      plots: plots.map(p => p.id),
      points: plots.map(p => p.querySelectorAll("path.point, .point path").length),
      texts: [...document.querySelectorAll("#worst p")].map(p => p.textContent),
      pictures: [...document.querySelectorAll("#worst > figure > img")].map(i => i.naturalHeight),
    };
  }
  const requests = performance.getEntriesByType("resource").map(request => request.name);
  const outcome = document.createElement("pre");
  outcome.id = "outcome";
  outcome.textContent = JSON.stringify({
    seen, printed, requests: requests.filter(name => !name.startsWith("data:")),
    wide: document.documentElement.scrollWidth > innerWidth,
  });
  document.body.append(outcome);
}
tryOut();
</script>"""


@needs_browser
@pytest.mark.parametrize("window", ["1280,900", "500,900"])
def test_in_a_browser(page, window, tmp_path):
    outcome = outcome_of(page, tmp_path, f"--window-size={window}", script=TRY_OUT)
    assert outcome["printed"] == outcome["requests"] == []
    assert outcome["wide"] is False
    fan, pump = outcome["seen"]["fan"], outcome["seen"]["pump"]
    assert (fan["heading"], pump["heading"]) == ("fan", "pump")
    assert fan["plots"] == ["scores", "window_scores"]
    assert pump["plots"] == ["scores", "window_scores", "recordings", "windows"]
    assert pump["points"][2:] == [12, 3]  # 150 s: a window of each of three minutes
    assert pump["pictures"] == [128] * 2
    assert any(text.endswith("<b>3.wav") for text in pump["texts"])
