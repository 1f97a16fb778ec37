"""Eight classes of short sounds in noise at 8 kHz (sweeps up, down, up and down, down and up; two
tones up, two tones down; vibrato; tremolo), and a network of 1-D convolutions to classify them."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

RATE, LONG = 8000, 2048


def sounds(count, seed):
    draw = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, 1, LONG)
    kinds = torch.arange(count) % 8
    r = torch.rand(count, 6, generator=draw)
    low, span = 300 + 900 * r[:, 0, None], 150 + 700 * r[:, 1, None]
    shapes = [t, 1 - t, 1 - (2 * t - 1).abs(), (2 * t - 1).abs()]
    shapes += [(t > 0.5).float(), (t < 0.5).float(), None, None]
    pitch = torch.stack([0.5 + 0 * t if s is None else s for s in shapes])[kinds]
    rate = 4 + 6 * r[:, 2, None]
    wave = torch.sin(2 * torch.pi * (rate * t + r[:, 3, None]))
    pitch = torch.where(kinds[:, None] == 6, 0.5 + 0.4 * wave, pitch)
    phase = 2 * torch.pi * torch.cumsum((low + span * pitch) / RATE, 1)
    loud = torch.where(kinds[:, None] == 7, 0.6 + 0.4 * wave, torch.ones(()))
    start, length = 0.3 * r[:, 4, None], 0.5 + 0.2 * r[:, 5, None]
    loud = loud * ((t > start) & (t < start + length))
    noise = torch.randn(count, LONG, generator=draw)
    x = loud * torch.sin(phase) + 0.9 * noise
    return ((x - x.mean(1, True)) / x.std(1, keepdim=True))[:, None], kinds


def loaders():
    train, test = TensorDataset(*sounds(6000, seed=0)), TensorDataset(*sounds(2000, seed=1))
    return {
        "train": DataLoader(train, batch_size=64, shuffle=True),
        "test": DataLoader(test, batch_size=64),
    }


def block(a, b, kernel, stride):
    conv = nn.Conv1d(a, b, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(b), nn.ReLU())


class Hears(nn.Module):
    def __init__(self, num_classes=8):
        super().__init__()
        self.stem = block(1, 32, 33, 4)
        self.body = nn.Sequential(
            block(32, 64, 9, 2), block(64, 64, 9, 2), block(64, 128, 9, 2), block(128, 128, 9, 2)
        )
        self.head = nn.Linear(128, num_classes)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean(2))
