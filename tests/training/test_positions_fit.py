"""Fits on data with many labelled positions an example: text and pictures, through one door."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from positions_data import CONTEXT, VOCABULARY, TokenNet, with_positions
from tiny import Compose, plain
from torch import Tensor, multiprocessing

from kd_research.configuration.config import ConfigError
from kd_research.data.module import DataModule
from kd_research.data.sources import Split, Splits
from kd_research.interfaces import Batch
from kd_research.losses.logits import SoftTarget
from kd_research.losses.objective import Objective
from kd_research.losses.positions import IGNORED
from kd_research.records.record import EVALUATION_NAME, METRICS_NAME, PREDICTIONS_NAME
from kd_research.training.distill import Distiller
from kd_research.training.fit import make_trainer
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run

LONGER = ("trainer.max_epochs=12", "teacher.trainer.max_epochs=12", "optimizer.lr=0.01")


def weights(directory: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(directory / "weights.pt", weights_only=True)
    return loaded


@pytest.mark.parametrize("loss", ["kd", "dkd", "ce", "dist"])
def test_tokens_train_evaluate_and_are_recorded(tiny: Compose, tmp_path: Path, loss: str) -> None:
    record = run(with_positions(tiny, f"loss={loss}", *LONGER), tmp_path)
    assert record.status == "completed", record.error
    metrics = record.metrics
    assert metrics["val_nll"] is not None
    assert metrics["val_nll"] < math.log(VOCABULARY) - 0.3
    assert metrics["val_perplexity"] == pytest.approx(math.exp(metrics["val_nll"]))
    assert metrics["teacher_val_accuracy"] is not None
    assert metrics["teacher_val_accuracy"] > 0.5
    assert metrics["acceptance_rate"] is not None
    assert 0.3 < metrics["acceptance_rate"] < 1
    assert metrics["test_nll"] is not None
    assert record.selection["metric"] == "val_nll"
    assert record.selection["value"] == pytest.approx(metrics["val_nll"], rel=1e-5)
    rows = [json.loads(line) for line in (tmp_path / METRICS_NAME).read_text().splitlines()]
    assert rows[0]["teacher_val_accuracy"] == pytest.approx(metrics["teacher_val_accuracy"])
    assert record.selection["value"] == min(row["val_nll"] for row in rows[1:])
    details = json.loads((tmp_path / EVALUATION_NAME).read_text())
    low, high = details["val"]["intervals"]["nll"]
    assert low < metrics["val_nll"] < high
    assert (tmp_path / PREDICTIONS_NAME).exists()


def test_pixels_go_through_the_same_door(tiny: Compose, tmp_path: Path) -> None:
    record = run(with_positions(tiny, *LONGER, "student=cnn", kind="masks"), tmp_path)
    assert record.status == "completed", record.error
    assert record.metrics["val_accuracy"] is not None
    assert record.metrics["val_accuracy"] > 0.8  # the background alone is 0.6
    assert record.selection["metric"] == "val_accuracy"


def test_lambda_zero_is_the_labels_alone_bit_for_bit(tiny: Compose, tmp_path: Path) -> None:
    run(with_positions(tiny, "loss=kd", "loss.lambda=0"), tmp_path / "kd")
    run(with_positions(tiny, "loss=ce"), tmp_path / "ce")
    run(with_positions(tiny, "loss=ce", "teacher.model=null"), tmp_path / "alone")
    expected = weights(tmp_path / "ce")
    for name in ("kd", "alone"):
        found = weights(tmp_path / name)
        assert all(torch.equal(found[key], expected[key]) for key in expected), name


def test_a_kept_teacher_is_the_live_one_bit_for_bit(tiny: Compose, tmp_path: Path) -> None:
    run(with_positions(tiny), tmp_path / "kept")
    run(with_positions(tiny, "soft_targets.cache=false"), tmp_path / "live")
    live, kept = weights(tmp_path / "live"), weights(tmp_path / "kept")
    assert all(torch.equal(kept[key], live[key]) for key in live)


def test_what_cannot_be_learnt_is_told_before_training(tiny: Compose) -> None:
    with pytest.raises(ConfigError, match=r"3 of 96 train examples of 'tokens' have nothing to"):
        Parts(plain(with_positions(tiny, barren=3)))
    config = plain(with_positions(tiny))
    config["teacher"]["model"]["num_classes"] = VOCABULARY - 2
    with pytest.raises(ConfigError, match=r"teacher: the model has 9 tokens, the data 11 \("):
        Parts(config)
    wrong = plain(with_positions(tiny, "teacher.model=null", "loss=ce"))
    wrong["dataset"]["source"]["_target_"] = "positions_data.masks"
    wrong["dataset"] |= {"num_classes": 3, "input_shape": [1, 8, 8]}
    wrong["student"]["model"] = {
        "_target_": "kd_research.models.mlp.MLP",
        "input_shape": [1, 8, 8],
        "num_classes": 3,
        "width": 4,
        "depth": 1,
    }
    with pytest.raises(
        ConfigError, match=r"labels are \(16, 8, 8\), but the model's logits \(16, 3\)"
    ):
        Parts(wrong)


COUNTS = (3, 1, 1, 1)  # valid tokens of four windows: any two pairs of them have 4 and 2


def four_windows() -> Splits:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(VOCABULARY, (4, CONTEXT + 1), generator=generator)
    labels = torch.full((4, CONTEXT), IGNORED)
    for row, count in enumerate(COUNTS):
        labels[row, 5 : 5 + count] = text[row, 6 : 6 + count]
    split = Split({"input_ids": text[:, :-1]}, labels)
    return Splits(split, split, split)


def make_module() -> Distiller:
    torch.manual_seed(0)
    net, teacher = TokenNet(8).double(), TokenNet(16).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)  # so that the tokens' gradients differ
    objective = Objective({"kd": {"loss": SoftTarget(2.0), "weight": 0.5}}, 0.5)
    return Distiller(net, objective, lambda p: torch.optim.SGD(p, lr=1.0), teacher=teacher)


def one_step(folder: Path, **options: Any) -> list[Tensor]:
    """The change of the weights by one optimizer step at rate 1: minus the gradient."""
    module = make_module()
    before = [parameter.detach().clone() for parameter in module.student.parameters()]
    data = DataModule("four", four_windows, VOCABULARY, 2, 0.1, 0.1, 0, 0)
    trainer = make_trainer(
        {
            "max_epochs": 1,
            "accelerator": "cpu",
            "precision": "64-true",
            "accumulate_grad_batches": 2,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            **options,
        },
        folder,
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 1
    return [
        old - new.detach() for old, new in zip(before, module.student.parameters(), strict=True)
    ]


def in_two(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "RANK": str(rank)}
    found = one_step(folder, devices=2, strategy="ddp")
    torch.save(found, folder / f"gradient-{rank}.pt")


def whole_gradient(mean_of_means: bool = False) -> list[Tensor]:
    """By autograd from all tokens at once; or the field's commonest bug."""
    module, split = make_module(), four_windows().train
    assert isinstance(split.inputs, dict)
    batch = Batch(split.inputs, split.labels, torch.arange(4))
    parts = (
        [batch]
        if not mean_of_means
        else [
            Batch(
                {"input_ids": split.inputs["input_ids"][i : i + 1]},
                split.labels[i : i + 1],
                batch.index[i : i + 1],
            )
            for i in range(4)
        ]
    )
    for part in parts:
        total, _ = module.objective(module._student(part.inputs), module.teach(part), part)
        (total / len(parts)).backward()
    return [parameter.grad for parameter in module.student.parameters()]  # type: ignore[misc]


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    flat = [torch.cat([each.flatten() for each in each_list]) for each_list in (one, other)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_mean_is_over_the_tokens_of_the_whole_step(tmp_path: Path, processes: int) -> None:
    """Micro-batches of 4 and 2 tokens, and of these 3 and 1, 1 and 1 in two processes."""
    if processes == 1:
        found = one_step(tmp_path, devices=1)
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (tmp_path, port)
        multiprocessing.start_processes(in_two, args=arguments, nprocs=2, start_method="fork")
        found, other = (torch.load(tmp_path / f"gradient-{rank}.pt") for rank in range(2))
        assert all(torch.equal(a, b) for a, b in zip(found, other, strict=True))
    expected = whole_gradient()
    assert distance(whole_gradient(mean_of_means=True), expected) > 0.1
    assert distance(found, expected) < 1e-12
