import numpy as np
import pandas as pd
import pytest
import torch

from conftest import write_wav
from unlabeledasd.cache import ClipCache
from unlabeledasd.data import ClipDataModule, ShuffledClips
from unlabeledasd.errors import InputError
from unlabeledasd.labels import Labels
from unlabeledasd.waveforms import fit_length, tiled_window


@pytest.mark.parametrize(
    ("n", "batch_size", "kept"), [(10, 4, 10), (9, 4, 8), (8, 4, 8), (3, 64, 3)]
)
def test_last_batch_is_kept_unless_it_is_one_clip(n, batch_size, kept):
    indices = [i for i, _ in ShuffledClips(n, batch_size, seed=0)]
    assert len(indices) == len(ShuffledClips(n, batch_size, seed=0)) == kept
    assert len(set(indices)) == kept
    assert set(indices) <= set(range(n))


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = ShuffledClips(50, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 3) == order(1, 3)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert all(0 <= position < 1 for _, position in order(1, 0))


@pytest.fixture
def clips(tmp_path):
    """Clips of different lengths whose samples count up, so that a window shows its place."""
    import soundfile

    paths = [f"fan/train/{i}.wav" for i in range(6)]
    for i, path in enumerate(paths):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / path, np.arange(60 + 40 * i, dtype=np.int16), 16000)
    table = pd.DataFrame({"path": paths, "split": "train"})
    return tmp_path, table, Labels(list("abcdef"), {path: i for i, path in enumerate(paths)})


def batches(clips, **options):
    data = ClipDataModule(*clips, n_samples=100, batch_size=4, **options)
    return list(data.train_dataloader())


def test_batches(clips):
    first, second = batches(clips)
    assert first[0].shape == (4, 100)
    assert second[0].shape == (2, 100)
    assert first[0].dtype == torch.int16
    assert sorted(torch.cat([first[1], second[1]]).tolist()) == list(range(6))
    for wave, label in zip(
        torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]).tolist(), strict=True
    ):
        size = 60 + 40 * label
        start = int(wave[0])
        expected = np.arange(100) % size if size < 100 else np.arange(start, start + 100)
        assert wave.tolist() == expected.tolist()


def test_batches_do_not_depend_on_workers(clips):
    for (wave, label), (other_wave, other_label) in zip(
        batches(clips), batches(clips, num_workers=2), strict=True
    ):
        assert torch.equal(wave, other_wave)
        assert torch.equal(label, other_label)


@pytest.mark.parametrize("tiled", [False, True])
def test_a_cache_on_the_device_gives_the_same_batches(clips, tiled):
    def batches(cached):
        data = ClipDataModule(*clips, n_samples=100, batch_size=4)
        data.dataset.fit = tiled_window if tiled else fit_length
        if cached:
            data.fill_cache(torch.device("cpu"))
            assert data.cache is not None
        return [
            data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
            for batch in data.train_dataloader()
        ]

    for (wave, label), (other_wave, other_label) in zip(batches(True), batches(False), strict=True):
        assert wave.dtype == torch.int16
        assert torch.equal(wave, other_wave)
        assert torch.equal(label, other_label)


@pytest.mark.parametrize("reason", ["too large", "a float clip"])
def test_no_cache(clips, reason):
    if reason == "a float clip":
        write_wav(clips[0] / "fan/train/5.wav", subtype="FLOAT")
    data = ClipDataModule(
        *clips, n_samples=100, batch_size=4, cache_gb=1e-6 if reason == "too large" else 1
    )
    data.fill_cache(torch.device("cpu"))
    assert data.cache is None
    assert next(iter(data.train_dataloader()))[0].shape == (4, 100)


def test_a_cache_takes_half_of_a_gpus_free_memory(clips, monkeypatch):
    paths, gpu = (
        [str(path.relative_to(clips[0])) for path in clips[0].glob("*/train/*.wav")],
        torch.device("cuda"),
    )
    size = sum((clips[0] / path).stat().st_size - 44 for path in paths)  # without the headers
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * size - 1, 1 << 40))
    assert ClipCache.read(clips[0], paths, None, gpu, 1e12) is None
    assert ClipCache.read(clips[0], paths, None, torch.device("cpu"), size) is not None
    assert ClipCache.read(clips[0], paths, None, torch.device("cpu"), size - 1) is None


def test_a_cache_is_gone_after_training(clips):
    data = ClipDataModule(*clips, n_samples=100, batch_size=4)
    data.fill_cache(torch.device("cpu"))
    data.teardown("fit")
    assert data.cache is None


def test_a_float_clip_makes_its_batch_float(clips):
    write_wav(clips[0] / "fan/train/0.wav", subtype="FLOAT")
    for wave, label in batches(clips):
        if 0 in label:
            assert wave.dtype == torch.float32
            others = wave[label != 0]
            assert torch.equal((others * 32768).round() / 32768, others)
        else:
            assert wave.dtype == torch.int16


def test_errors(clips):
    with pytest.raises(InputError, match="batch_size=1"):
        ClipDataModule(*clips, n_samples=100, batch_size=1)
    with pytest.raises(InputError, match=r"1 training clip\(s\)"):
        ClipDataModule(clips[0], clips[1][:1], clips[2], n_samples=100)


@pytest.mark.parametrize(
    ("n", "least_steps", "batch_size"),
    [(190, 12, 15), (190, 0, 64), (1000, 12, 64), (40, 12, 8), (9, 12, 8)],
)
def test_small_sets_have_smaller_batches(tmp_path, n, least_steps, batch_size):
    paths = [f"fan/train/{i}.wav" for i in range(n)]
    table = pd.DataFrame({"path": paths, "split": "train"})
    labels = Labels(["a"], dict.fromkeys(paths, 0))
    data = ClipDataModule(tmp_path, table, labels, n_samples=100, least_steps=least_steps)
    assert data.batch_size == data.sampler.batch_size == batch_size
