"""One setting by a script of its own, as RepDistiller and mdistiller do it; `sweep.py` times it.

A plain PyTorch loop: a live teacher, a DataLoader over PIL transforms, an evaluation each epoch.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import asked
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from sweep import BATCH, cast, loss_of, model

from kd_research.teacher.checkpoint import load_weights

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """As torchvision's CIFAR100 with RandomCrop(32, padding=4), flip, ToTensor and Normalize."""

    def __init__(self, path: Path, start: int, stop: int, is_train: bool):
        rows = pq.read_table(path).slice(start, stop - start).to_pydict()
        pictures = [Image.open(io.BytesIO(each["bytes"])).convert("RGB") for each in rows["img"]]
        self.pictures = [np.asarray(picture) for picture in pictures]
        self.labels, self.is_train = rows["fine_label"], is_train
        self.mean = torch.tensor(MEAN).view(3, 1, 1)
        self.std = torch.tensor(STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = Image.fromarray(self.pictures[index])
        if self.is_train:
            x, y = torch.randint(0, 9, (2,)).tolist()
            picture = ImageOps.expand(picture, 4).crop((x, y, x + 32, y + 32))
            if torch.rand(1) < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return pixels.float().div(255).sub(self.mean).div(self.std), self.labels[index]


def distil(chosen: argparse.Namespace) -> None:
    """One setting by a script of its own."""
    torch.set_num_threads(chosen.threads)
    data = chosen.folder / "data" / "train-00000-of-00001.parquet"
    train = Pictures(data, 0, chosen.train, True)
    held = Pictures(data, chosen.train, chosen.train + chosen.val, False)
    loader = torch.utils.data.DataLoader(train, BATCH, shuffle=True, drop_last=False)
    tests = torch.utils.data.DataLoader(held, BATCH)
    student, teacher = model(chosen.student).train(), model(chosen.teacher).eval()
    load_weights(teacher, chosen.folder / "teacher.pt")
    optimizer = torch.optim.SGD(student.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for _ in range(chosen.epochs):
        student.train()
        for images, labels in loader:
            with cast(chosen.precision):
                with torch.no_grad():
                    soft = teacher(images)
                loss = loss_of(student(images).float(), soft.float(), labels, 4.0, 0.9)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        student.eval()
        with torch.no_grad(), cast(chosen.precision):
            print(sum(int((student(x).argmax(1) == y).sum()) for x, y in tests) / chosen.val)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="sweep.py's: data/ and teacher.pt")
    for number in ("train", "val", "epochs", "threads"):
        parser.add_argument(f"--{number}", type=asked.count, required=True)
    for name in ("precision", "teacher", "student"):
        parser.add_argument(f"--{name}", required=True)
    distil(parser.parse_args())
