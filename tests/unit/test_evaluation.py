import numpy as np
import pandas as pd
import pytest
import torch

from conftest import SECONDS, files_below, write_wav
from unlabeledasd.cache import ClipCache
from unlabeledasd.clips import index_clips
from unlabeledasd.errors import InputError
from unlabeledasd.evaluation import CACHED_BATCH, embed, score_machines
from unlabeledasd.networks import MultiResolutionNet
from unlabeledasd.results import average_scores, report
from unlabeledasd.runs.folder import Run
from unlabeledasd.scorers.density import VarMin
from unlabeledasd.scorers.references import Knn
from unlabeledasd.scoring import TargetKmeansCos

COLUMN = "AS-TargetKmeansCos-16-plain"


def make_table(machines=("fan", "pump"), unknown=()) -> pd.DataFrame:
    rows = []
    for machine in machines:
        for split, domain, condition, count in [
            ("train", "source", "normal", 20),
            ("train", "target", "normal", 3),
            *[("test", d, c, 4) for d in ("source", "target") for c in ("normal", "anomaly")],
        ]:
            hidden = machine in unknown and split == "test"
            known = ("unknown", "unknown") if hidden else (domain, condition)
            rows += [
                (f"{machine}/{split}/{domain}_{condition}_{i}.wav", machine, split, *known)
                for i in range(count)
            ]
    return pd.DataFrame(rows, columns=["path", "machine", "split", "domain", "condition"])


def score(run, table, seed=0, version="epoch12", **options):
    embeddings = np.random.default_rng(seed).standard_normal((len(table), 8))
    score_machines(run, version, "epoch12", table, embeddings, [TargetKmeansCos()], **options)
    return embeddings


def test_machines_are_scored_by_their_own_training_clips(tmp_path):
    run, table = Run(tmp_path), make_table()
    embeddings = score(run, table)
    for machine in ("fan", "pump"):
        train, test = (
            (table.machine == machine) & (table.split == split) for split in ("train", "test")
        )
        scorer = TargetKmeansCos().fit(embeddings[train], (table.domain == "target")[train])
        scores = pd.read_csv(run.version(machine, "epoch12") / "epoch12_test_score.csv")
        np.testing.assert_allclose(scores[COLUMN], scorer.score(embeddings[test]))
        with np.load(run.scorers("epoch12"), allow_pickle=False) as kept:
            np.testing.assert_array_equal(kept[f"{machine}/{COLUMN}/centers_"], scorer.centers_)
            np.testing.assert_array_equal(kept[f"{machine}/{COLUMN}/targets_"], scorer.targets_)


def test_held_out_scores_and_map(tmp_path):
    run, table = Run(tmp_path), make_table(["fan"])
    embeddings = score(run, table)
    folder = run.version("fan", "epoch12")
    source = (table.split == "train") & (table.domain == "source")
    held_out = pd.read_csv(folder / "epoch12_held_out_score.csv")
    assert held_out.path.tolist() == table.path[source].tolist()
    seen = pd.read_csv(folder / "epoch12_train_score.csv").set_index("path")[COLUMN]
    assert (
        held_out[COLUMN] > seen[held_out.path].to_numpy()
    ).all()  # 20 clips, 16 centres: most are their own
    plane = pd.read_csv(folder / "epoch12_map.csv")
    assert plane.path.tolist() == table.path.tolist()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    variances = np.linalg.eigvalsh(np.cov(unit.T))[::-1]
    np.testing.assert_allclose(np.cov(plane[["x", "y"]].T), np.diag(variances[:2]), atol=1e-4)


def test_one_training_clip_has_nothing_held_out(tmp_path):
    run, table = Run(tmp_path), make_table(["fan"])
    table = table[(table.split == "test") | (table.path == table.path[0])].reset_index(drop=True)
    score(run, table)
    assert not (run.version("fan", "epoch12") / "epoch12_held_out_score.csv").exists()
    assert (run.version("fan", "epoch12") / "epoch12_train_score.csv").exists()


def test_unknown_flags_are_empty_and_have_no_metrics(tmp_path):
    run, table = Run(tmp_path), make_table(unknown=["pump"])
    score(run, table)
    scores = pd.read_csv(run.version("pump", "epoch12") / "epoch12_test_score.csv")
    assert scores[["is_normal", "is_target"]].isna().all(axis=None)
    assert scores[COLUMN].notna().all()
    assert not (run.version("pump", "epoch12") / "epoch12_test_result.csv").exists()
    text = report(run, "epoch12", ["fan", "pump"])
    assert "pump: test clips of unknown condition" in text
    assert text.count("fan") == 1


def test_several_scorers_are_columns_and_rows(tmp_path):
    run, table = Run(tmp_path), make_table(["fan"])
    embeddings = np.random.default_rng(0).standard_normal((len(table), 8))
    score_machines(
        run, "epoch12", "epoch12", table, embeddings, [TargetKmeansCos(), TargetKmeansCos(4)]
    )
    folder = run.version("fan", "epoch12")
    columns = [COLUMN, "AS-TargetKmeansCos-4-plain"]
    assert list(pd.read_csv(folder / "epoch12_test_score.csv"))[3:] == columns
    assert pd.read_csv(folder / "epoch12_test_result.csv").post_process.tolist() == columns


def test_band_scores_combine_to_the_scores(tmp_path):
    run, table = Run(tmp_path), make_table(["fan"])
    rng = np.random.default_rng(0)
    scorers = [VarMin(parts="mean"), Knn(), Knn(2, parts="max")]
    folders = [run.version("fan", f"epoch{i}") for i in (1, 2)]
    bands = []
    for i, folder in enumerate(folders, 1):
        embeddings = rng.standard_normal((len(table), 5, 6))
        score_machines(run, f"epoch{i}", f"epoch{i}", table, embeddings, scorers)
        for split in ("held_out", "test"):
            whole = pd.read_csv(folder / f"epoch{i}_{split}_score.csv")
            own = pd.read_csv(folder / f"epoch{i}_{split}_band_score.csv")
            assert own.path.tolist() == whole.path.tolist()
            assert own.shape == (len(whole), 1 + 2 * 5)  # Knn() compares embeddings as a whole
            for column, combine in (("AS-VarMin-4-mean", "mean"), ("AS-Knn-2-max", "max")):
                parts = own[[f"{column}/{band}" for band in range(5)]]
                np.testing.assert_allclose(parts.agg(combine, axis=1), whole[column], rtol=1e-12)
        assert not (folder / f"epoch{i}_train_band_score.csv").exists()
        bands.append(own)
    average_scores(run, [("epoch1", "epoch1"), ("epoch2", "epoch2")], "mean", scorers[0].column)
    file = run.version("fan", "mean") / "ensemble_test_band_score.csv"
    mean = pd.read_csv(file)
    assert list(mean) == ["path", *(f"AS-ensemble/{band}" for band in range(5))]
    expected = (bands[0].iloc[:, 1:6] + bands[1].iloc[:, 1:6]) / 2
    np.testing.assert_allclose(mean.iloc[:, 1:], expected, rtol=1e-12)
    scores = pd.read_csv(file.with_name("ensemble_test_score.csv"))["AS-ensemble"]
    np.testing.assert_allclose(mean.iloc[:, 1:].mean(axis=1), scores, rtol=1e-12)
    average_scores(run, [("epoch1", "epoch1"), ("epoch2", "epoch2")], "mean", scorers[1].column)
    assert not file.exists()  # these scores have no bands


def test_stored_scorers(tmp_path):
    run, table = Run(tmp_path), make_table()
    embeddings = score(run, table)
    test = table[table.split == "test"]
    kept = run.scorers("epoch12")
    score_machines(
        run, "new", "epoch12", test, embeddings[table.split == "test"], [TargetKmeansCos()], kept
    )
    for machine in ("fan", "pump"):
        new, old = (
            run.version(machine, version) / "epoch12_test_score.csv"
            for version in ("new", "epoch12")
        )
        assert new.read_bytes() == old.read_bytes()
    for stranger, scorer in (
        (test.assign(machine="valve"), TargetKmeansCos()),
        (test, TargetKmeansCos(2)),
    ):
        with pytest.raises(InputError, match=f"no training clips to fit {scorer.column}"):
            score_machines(
                run, "x", "epoch12", stranger, embeddings[table.split == "test"], [scorer], kept
            )


def test_embedding_does_not_depend_on_batches_or_neighbours(tmp_path):
    paths = [f"{i}.wav" for i in range(5)]
    for i, path in enumerate(paths):
        write_wav(tmp_path / path, seconds=3 + i, hz=200 * (i + 1), seed=i)
    torch.manual_seed(0)
    extractor = MultiResolutionNet([256], clip_seconds=4.4)
    whole = embed(extractor, tmp_path, paths)
    assert whole.shape == (5, 256)
    np.testing.assert_allclose(
        embed(extractor, tmp_path, paths, batch_size=2), whole, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        embed(extractor, tmp_path, paths[::-1])[::-1], whole, rtol=1e-4, atol=1e-5
    )


def test_clips_on_the_device_give_the_same_embeddings(data_dir):
    root = data_dir / "tiny/all/raw"
    paths = index_clips(root, ["fan"]).path.tolist()
    network = MultiResolutionNet([1024], SECONDS)
    cache = ClipCache.read(root, paths, None, torch.device("cpu"), 1e9)
    expected = embed(network, root, paths, batch_size=CACHED_BATCH)
    np.testing.assert_array_equal(embed(network, root, paths, cache=cache), expected)


def test_machines_side_by_side_have_the_same_bytes(tmp_path, monkeypatch):
    table, written = make_table(["fan", "pump", "valve"]), []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        score(Run(tmp_path / str(threads)), table)
        written.append(files_below(tmp_path / str(threads), "*/infer/**/*.csv"))
    assert len(written[0]) == 5 * 3
    assert written[0] == written[1]
