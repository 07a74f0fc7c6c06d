"""The method as a competent PyTorch user would write it, without this repository's library.

The yardstick of benchmarks/train_step.py: float32, eager, PyTorch's defaults; clips decoded by two
DataLoader workers.

  python benchmarks/plain.py FOLDER [--method subloss_0256_4096] [--batches 4] [--bf16]

Trains on FOLDER/<machine>/train/*.wav; prints JSON: seconds of each step after the first, peak of
anonymous memory.
"""

import argparse
import json
import math
import time
from pathlib import Path

import soundfile
import torch
import torchaudio
from measuring import MemoryPeak
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

SECONDS, RATE, BATCH, SUBCLUSTERS = 18, 16000, 64, 16


class Clips(Dataset):
    def __init__(self, folder: Path, pattern: str = "*/train/*.wav"):
        self.files = sorted(folder.glob(pattern))
        names = sorted({file.parents[1].name for file in self.files})
        self.labels = [names.index(file.parents[1].name) for file in self.files]
        self.n_classes = len(names)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        wave = torch.from_numpy(soundfile.read(self.files[i], dtype="float32")[0])
        return wave.repeat(math.ceil(SECONDS * RATE / len(wave)))[: SECONDS * RATE], self.labels[i]


class SE(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gates = nn.Sequential(
            nn.Linear(channels, channels // 16, bias=False),
            nn.ReLU(),
            nn.Linear(channels // 16, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        gates = self.gates(x.mean(dim=tuple(range(2, x.dim()))))
        return x * gates.view(*gates.shape, *[1] * (x.dim() - 2))


class Spectrum(nn.Sequential):
    def __init__(self):
        layers, channels = [], 1
        for kernel, stride in ((256, 64), (64, 32), (16, 4)):
            layers += [nn.Conv1d(channels, 128, kernel, stride, bias=False), nn.ReLU(), SE(128)]
            channels = 128
        layers.append(nn.Flatten())
        for size in (1792, 128, 128, 128, 128):
            layers += [nn.Linear(size, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
        super().__init__(*layers, nn.Linear(128, 128, bias=False))

    def forward(self, wave):
        return super().forward(torch.fft.rfft(wave).abs().unsqueeze(1))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.path = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            SE(outputs),
        )
        pool = [nn.MaxPool2d(3, 2, 1), nn.Conv2d(inputs, outputs, 1, bias=False)]
        self.skip = nn.Sequential(*pool) if stride == 2 else nn.Identity()

    def forward(self, x):
        x = self.norm(x)
        return self.skip(x) + self.path(x)


class Stft(nn.Module):
    def __init__(self, n_fft):
        super().__init__()
        self.first = math.ceil(200 * n_fft / RATE)
        n_bins = n_fft // 2 + 1 - self.first
        self.stft = torchaudio.transforms.Spectrogram(
            n_fft, hop_length=n_fft // 2, power=1, normalized=True
        )
        self.norm = nn.BatchNorm1d(n_bins)
        layers = [
            nn.Conv2d(1, 16, 7, 2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        ]
        inputs, height = 16, ((n_bins - 7) // 2 + 1 - 3) // 2 + 1
        for outputs, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
            layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
            inputs, height = outputs, math.ceil(height / stride)
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.BatchNorm1d(128 * height), nn.Linear(128 * height, 128, bias=False)
        )

    def forward(self, wave):
        x = self.norm(self.stft(wave)[:, self.first :]).unsqueeze(1)
        return self.head(self.blocks(x).amax(3).flatten(1))


class AdaCos(nn.Module):
    def __init__(self, size, n_classes, trainable):
        super().__init__()
        n = n_classes * SUBCLUSTERS
        self.centers = nn.Parameter(
            nn.init.xavier_uniform_(torch.empty(size, n)).T.contiguous(), trainable
        )
        self.scale, self.n_classes = math.sqrt(2) * math.log(n - 1), n_classes

    def forward(self, embedding, target):
        logits = self.scale * F.normalize(embedding) @ F.normalize(self.centers).T
        logits = logits.view(len(logits), self.n_classes, SUBCLUSTERS).logsumexp(2)
        return -(target * logits.log_softmax(1)).sum(1).mean()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--method", default="subloss_0256_4096", help="na_* or subloss_* (default: %(default)s)"
    )
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16, channels_last")
    options = parser.parse_args()
    peak = MemoryPeak()
    torch.manual_seed(0)
    family, *n_ffts = options.method.split("_")
    clips = Clips(options.folder)
    branches = nn.ModuleList([Spectrum(), *map(Stft, sorted(map(int, n_ffts), reverse=True))])
    branches.to(memory_format=torch.channels_last if options.bf16 else torch.contiguous_format)
    whole = AdaCos(128 * len(branches), clips.n_classes, trainable=False)
    heads = nn.ModuleList(
        AdaCos(128, clips.n_classes, True) for _ in branches if family == "subloss"
    )
    optimizer = torch.optim.AdamW(nn.ModuleList([branches, whole, heads]).parameters(), lr=1e-3)
    loader = DataLoader(clips, BATCH, shuffle=True, num_workers=2, drop_last=True)
    seconds, start = [], time.perf_counter()
    for _, (wave, label) in zip(range(options.batches), loader, strict=False):
        target = F.one_hot(label, clips.n_classes).float()
        ratio = torch.where(torch.rand(len(wave), 1) < 0.5, torch.rand(len(wave), 1), 1.0)
        partner = torch.randperm(len(wave))
        wave, target = (ratio * v + (1 - ratio) * v[partner] for v in (wave, target))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            outputs = [branch(wave).float() for branch in branches]
        loss = sum(
            head(o, target)
            for head, o in zip([whole, *heads], [torch.cat(outputs, 1), *outputs], strict=False)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        start += seconds[-1]
    print(json.dumps({"seconds": seconds[1:], "peak_gb": peak.gb, "loss": loss.item()}))


if __name__ == "__main__":
    main()
