"""Nine speakers by how they say two vowels: the pair of networks that classifies no images, and its data.

The data are JapaneseVowels (Kudo, Toyama and Shimbo 1999, UCI): 270 training and 370 test series of 7 to 29 steps of 12
coefficients. PyPI's aeon carries them as text, which is read from its wheel: ``pip download --no-deps aeon``.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader

from lit_distill.data.base import split_by_class

Series = tuple[Tensor, int]  # [T, 12], and the speaker
_FOLDER, _NAME = "aeon/datasets/data/JapaneseVowels", "JapaneseVowels"
SPEAKERS, COEFFICIENTS = 9, 12
_VALIDATION = 54


def read(source: Path, part: str) -> list[Series]:
    """Read the part ``TRAIN`` or ``TEST``.

    Args:
        source: aeon's wheel, or a folder with the ``.ts`` files.
        part: ``TRAIN`` or ``TEST``.
    """
    if source.is_dir():
        text = (source / f"{_NAME}_{part}.ts").read_text()
    else:
        with zipfile.ZipFile(source) as wheel:
            text = wheel.read(f"{_FOLDER}/{_NAME}_{part}.ts").decode()
    lines = text[text.index("@data") :].split()[1:]
    return [_series(line) for line in lines]


def _series(line: str) -> Series:
    """Read ``coefficient:coefficient:...:label``, each coefficient with its values over time."""
    *coefficients, label = line.split(":")
    values = [[float(value) for value in one.split(",")] for one in coefficients]
    return torch.tensor(values).T.contiguous(), int(label) - 1


class Vowels(LightningDataModule):
    """Batches ``{"series": [B, T, 12], "lengths": [B], "label": [B]}``, padded with zeros, standardised.

    Args:
        root: aeon's wheel, or a folder with the ``.ts`` files.
        batch_size: Series per batch.
        train_size: Number of training series to keep, evenly from each speaker; all but the 54 for validation if None.
    """

    def __init__(self, root: str, batch_size: int = 18, train_size: int | None = None) -> None:
        super().__init__()
        self.root, self.batch_size, self.train_size = Path(root), batch_size, train_size

    def setup(self, stage: str) -> None:
        training = read(self.root, "TRAIN")
        steps = torch.cat([series for series, _ in training])
        self.mean, self.deviation = steps.mean(0), steps.std(0)
        labels = [label for _, label in training]
        held, kept = split_by_class(labels, 0.2, seed=0, count=_VALIDATION)
        if self.train_size is not None:
            chosen, _ = split_by_class([labels[place] for place in kept], 0.5, seed=1, count=self.train_size)
            kept = [kept[place] for place in chosen]
        self.training, self.validation = [training[place] for place in kept], [training[place] for place in held]

    def train_dataloader(self) -> DataLoader[Series]:
        return self._loader(self.training, shuffle=True)

    def val_dataloader(self) -> DataLoader[Series]:
        return self._loader(self.validation)

    def test_dataloader(self) -> DataLoader[Series]:
        return self._loader(read(self.root, "TEST"))

    def _loader(self, data: list[Series], shuffle: bool = False) -> DataLoader[Series]:
        return DataLoader(data, self.batch_size, shuffle, collate_fn=self._collate)  # type: ignore[arg-type]

    def _collate(self, samples: list[Series]) -> dict[str, Tensor]:
        series = [(one - self.mean) / self.deviation for one, _ in samples]
        return {
            "series": pad_sequence(series, batch_first=True),
            "lengths": torch.tensor([len(one) for one in series]),
            "label": torch.tensor([label for _, label in samples]),
        }


class Speakers(nn.Module):
    """A layer for each step, two recurrent layers, the mean over the steps that count, and a linear classifier.

    Its layers have the names of the CIFAR-10 networks': ``layer1`` to ``layer3`` give ``[B, T, C]``, ``linear`` the logits.

    Args:
        width: Channels of each direction.
        bidirectional: Read each series from both ends.
    """

    def __init__(self, width: int = 16, bidirectional: bool = False) -> None:
        super().__init__()
        wide = 2 * width if bidirectional else width
        self.layer1 = nn.Sequential(nn.Linear(COEFFICIENTS, wide), nn.ReLU())
        self.layer2 = Recurrent(wide, width, bidirectional)
        self.layer3 = Recurrent(wide, width, bidirectional)
        self.linear = nn.Linear(wide, SPEAKERS)

    def forward(self, series: Tensor, lengths: Tensor) -> Tensor:
        """Return logits ``[B, 9]`` for series ``[B, T, 12]``, of which ``lengths [B]`` steps count."""
        steps = self.layer3(self.layer2(self.layer1(series), lengths), lengths)
        counts = torch.arange(steps.shape[1], device=steps.device) < lengths.unsqueeze(1)
        mean = (steps * counts.unsqueeze(2)).sum(1) / lengths.unsqueeze(1)
        logits: Tensor = self.linear(mean)
        return logits


class Recurrent(nn.Module):
    """A GRU that stops at each series' end, from ``[B, T, inputs]`` to ``[B, T, width]``, or twice the width."""

    def __init__(self, inputs: int, width: int, bidirectional: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, width, batch_first=True, bidirectional=bidirectional)

    def forward(self, steps: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=steps.shape[1])
        return outputs
