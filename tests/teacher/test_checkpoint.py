"""Checkpoints as other people's code writes them: unwrapped where the rest fits, else named."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kd_research.models.cnn import CNN
from kd_research.models.mlp import MLP
from kd_research.teacher.checkpoint import digest_path, load_weights, save_weights


def net(seed: int = 0, width: int = 4) -> CNN:
    torch.manual_seed(seed)
    module = CNN([1, 8, 8], 10, width=width, depth=2)
    for name, buffer in module.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(7)
    return module


class Wrapper(pl.LightningModule):
    """As a tutorial has it: the net under `model`, and a loss with a weight of its own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.save_hyperparameters({"lr": 0.1}, ignore=["model"])
        self.model = model
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(10))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.criterion(self.model(batch[0]), batch[1])  # type: ignore[no-any-return]


def by_lightning(module: nn.Module, path: Path) -> None:
    trainer = pl.Trainer(
        max_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        accelerator="cpu", enable_model_summary=False, default_root_dir=path.parent,
    )  # fmt: skip
    data = torch.utils.data.TensorDataset(torch.zeros(2, 1, 8, 8), torch.zeros(2).long())
    trainer.fit(Wrapper(module), torch.utils.data.DataLoader(data))
    trainer.save_checkpoint(path)


def by_repdistiller(module: nn.Module, path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    content = {
        "opt": argparse.Namespace(model="resnet32x4", learning_rate=0.05),
        "model": module.state_dict(),
        "best_acc": np.float64(79.42),
        "epoch": 240,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path)


def by_torch_compile(module: nn.Module, path: Path) -> None:
    torch.save(torch.compile(module).state_dict(), path)  # type: ignore[attr-defined]


def without_counters(module: nn.Module, path: Path) -> None:
    state = {n: t for n, t in module.state_dict().items() if "num_batches_tracked" not in n}
    torch.save({"arch": "cnn", "state_dict": state}, path)


def under_all_of_them(module: nn.Module, path: Path) -> None:
    state = {f"module._orig_mod.model.{n}": t for n, t in module.state_dict().items()}
    torch.save({"model_state_dict": state, "epoch": 3}, path)


WRITERS = {
    "DataParallel": lambda m, p: torch.save(nn.DataParallel(m).state_dict(), p),
    "torch.compile": by_torch_compile,
    "a compiled part": lambda m, p: torch.save(
        {n.replace("stages.0.", "stages.0._orig_mod."): t for n, t in m.state_dict().items()}, p
    ),
    "Lightning": by_lightning,
    "timm": lambda m, p: torch.save({"arch": "x", "state_dict": m.state_dict(), "epoch": 1}, p),
    "RepDistiller": by_repdistiller,
    "safetensors": lambda m, p: save_file(dict(m.state_dict()), p),
    "without num_batches_tracked": without_counters,
    "several wrappings": under_all_of_them,
    "a name of its own": lambda m, p: torch.save(
        {f"encoder.{n}": t for n, t in m.state_dict().items()}, p
    ),
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.filterwarnings("ignore")  # Lightning's, of a fit without steps
def test_a_wrapped_checkpoint_loads(form: str, tmp_path: Path) -> None:
    given, taken = net(seed=1), net(seed=2)
    path = tmp_path / ("given.safetensors" if form == "safetensors" else "given.pt")
    WRITERS[form](given, path)
    load_weights(taken, path)
    for name, tensor in given.state_dict().items():
        assert torch.equal(taken.state_dict()[name], tensor), name


@pytest.mark.parametrize("name", ["weights.pt", "model.safetensors", "pytorch_model.bin"])
def test_a_folder_with_weights_loads(name: str, tmp_path: Path) -> None:
    given, taken = net(seed=1), net(seed=2)
    write = WRITERS["safetensors"] if name.endswith("safetensors") else torch.save
    write(given.state_dict() if write is torch.save else given, tmp_path / name)
    load_weights(taken, tmp_path)
    assert torch.equal(taken.head.weight, given.head.weight)


def test_a_prefix_is_named_where_the_rest_does_not_fit(tmp_path: Path) -> None:
    torch.save(nn.DataParallel(net(width=8)).state_dict(), tmp_path / "given.pt")
    expected = (
        r"given.pt, its names taken without 'module\.', is of another architecture than CNN: "
        r"stages.0.*is \(8, 1, 3, 3\) there and \(4, 1, 3, 3\) in the model"
    )
    with pytest.raises(ValueError, match=expected):
        load_weights(net(), tmp_path / "given.pt")


def test_a_part_of_something_larger_is_named(tmp_path: Path) -> None:
    parts = nn.ModuleDict({"encoder": net(), "decoder": nn.Linear(2, 2)})
    torch.save(parts.state_dict(), tmp_path / "given.pt")
    with pytest.raises(ValueError, match=r"only what begins with 'encoder\.' fits it; save that"):
        load_weights(net(), tmp_path / "given.pt")


def test_a_whole_pickled_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(MLP([1, 8, 8], 10), tmp_path / "given.pt")
    expected = r"it holds objects of .*MLP.*where it was made, save model.state_dict\(\)"
    with pytest.raises(ValueError, match=expected):
        load_weights(MLP([1, 8, 8], 10), tmp_path / "given.pt")
    (tmp_path / "given.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(ValueError, match=r"not a checkpoint .* \(SafetensorError\)"):
        load_weights(net(), tmp_path / "given.safetensors")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """torch reads such a file without a word: a weight is another one."""
    given, taken = net(seed=1), net(seed=2)
    path = tmp_path / "weights.pt"
    save_weights(given, path)
    subprocess.run(["sha256sum", "--check", digest_path(path).name], cwd=tmp_path, check=True)
    load_weights(taken, tmp_path)
    content = bytearray(path.read_bytes())
    wanted = given.head.weight.detach().numpy().tobytes()
    content[content.index(wanted) + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.pt is not as it was saved.*remove both"):
        load_weights(taken, tmp_path)
    digest_path(path).unlink()  # replaced on purpose
    load_weights(taken, path)
    assert not torch.equal(taken.head.weight, given.head.weight)
    save_weights(given, path)
    load_weights(taken, path)
    assert torch.equal(taken.head.weight, given.head.weight)
