"""Stages before the training itself: who learns in them, what they cost, and that they go on."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import in_fork
from tiny import composed, plain

from kd_research.configuration.config import ConfigError, check, save
from kd_research.configuration.stage_checks import stage_epochs
from kd_research.pools import child
from kd_research.records.record import CONFIG_NAME, read_record
from kd_research.training import continuation
from kd_research.training.fit import EpochLog
from kd_research.trial import run as trial
from kd_research.trial.assembly import Parts

SMALL = (
    "tracking=disabled",
    "teacher=cnn",
    "student=cnn",
    *(f"{who}.model.{size}" for who in ("teacher", "student") for size in ("width=4", "depth=2")),
    "teacher.trainer.max_epochs=1",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "dataset.subset=200",
)
STILL = {  # loss, stage -> beginnings of what does not learn in it
    ("ab", "boundaries"): ("student.head.", "student.stages.1.2"),
    ("ab", None): ("objective.",),
    ("fsp", "flow"): ("student.head.",),
    ("fsp", None): ("objective.",),
    ("ft", "paraphraser"): ("student.", "objective.terms.ft.translator."),
    ("ft", None): ("objective.terms.ft.encoder.", "objective.terms.ft.decoder."),
    ("pad", "plain"): ("objective.terms.pad.variance.",),
    ("pad", None): (),
    ("sskd", "head"): ("student.", "objective.terms.sskd.student_head."),
    ("sskd", None): ("objective.terms.sskd.teacher_head.",),
    ("annealing_kd", "annealed"): (),
    ("annealing_kd", None): (),
}


def config_of(outputs: Path, *overrides: str) -> dict[str, Any]:
    config = composed(*SMALL, *overrides, f"output_dir={outputs}")
    check(config)
    return plain(config)


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(directory / "weights.pt", weights_only=True)
    return found


@pytest.mark.parametrize("loss", ["ab", "fsp", "ft", "pad", "sskd", "annealing_kd"])
def test_what_a_stage_reaches_learns_and_all_else_stands_still(outputs: Path, loss: str) -> None:
    parts = Parts(config_of(outputs, f"loss={loss}", "soft_targets.cache=false"))
    module, batch = parts.module, parts.example(16)
    assert module.learners is not None
    for stage in (*module.stages, None):
        module.learners.enter(stage)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        optimizer = torch.optim.SGD(
            [
                each
                for group in module.parameters_for_optimizer(some=True)
                for each in group["params"]
            ],
            lr=0.1,
            weight_decay=0.1,
        )
        module.losses(batch)[0].backward()
        optimizer.step()
        still = {
            name
            for name, value in module.state_dict().items()
            if torch.equal(value, before[name]) and not name.startswith("val_")
        }
        asked = STILL[loss, stage]
        wrong = [name for name in before if (name in still) != name.startswith(asked or "-")]
        assert not wrong, (stage, wrong)


@pytest.mark.parametrize("loss", ["ab", "ft"])
def test_without_its_weight_such_a_loss_is_the_student_alone(
    outputs: Path, tmp_path: Path, loss: str
) -> None:
    for at, stated in (("off", (f"loss={loss}", "loss.lambda=0")), ("alone", ("loss=ce",))):
        record = trial.run(config_of(outputs, *stated), tmp_path / at)
        assert record.error is None
        assert not any(name.startswith("stage_") for name in record.costs)
    off, alone = weights_of(tmp_path / "off"), weights_of(tmp_path / "alone")
    assert all(torch.equal(off[name], alone[name]) for name in alone)


def test_the_record_says_what_each_stage_cost(outputs: Path, tmp_path: Path) -> None:
    stages = "+loss.stages.second={epochs: 1, weights: {ft: 1}, learns: [objective.*.decoder.*]}"
    config = config_of(outputs, "loss=ft", "loss.stages.paraphraser.epochs=240", stages)
    record = trial.run(config, tmp_path)
    assert record.error is None
    assert [row["epoch"] for row in rows(tmp_path)] == [-1, 0, 1]
    first, second = (tmp_path / "stages" / name for name in ("paraphraser", "second"))
    assert [row["epoch"] for row in rows(first)] == [0, 1]
    assert rows(first)[1]["train_ft"] < rows(first)[0]["train_ft"]
    assert "val_accuracy" not in rows(first)[0]
    costs = record.costs
    assert (costs["stage_paraphraser_epochs"], costs["stage_second_epochs"]) == (2, 1)
    assert costs["stage_paraphraser_parameters"] > costs["stage_second_parameters"] > 0
    for name in ("stage_paraphraser", "stage_second"):
        assert costs[f"{name}_seconds"] > 0
        assert costs[f"{name}_cpu_seconds"] > 0
    assert not (first / "checkpoints").exists()
    assert not (second / "checkpoints").exists()


def test_a_stage_within_the_training_takes_of_its_epochs(outputs: Path, tmp_path: Path) -> None:
    config = config_of(outputs, "loss=annealing_kd", "trainer.max_epochs=4")
    record = trial.run(config, tmp_path)
    assert record.costs["stage_annealed_epochs"] == 3
    assert record.selection["last_epoch"] == 0
    assert [row["epoch"] for row in rows(tmp_path)] == [-1, 0]


def test_a_stage_has_a_rate_and_a_schedule_of_its_own(outputs: Path, tmp_path: Path) -> None:
    stage = "loss.stages.boundaries"
    config = config_of(
        outputs,
        "loss=ab",
        f"{stage}.epochs=4",
        f"{stage}.of=null",
        f"+{stage}.lr=0.5",
        f"+{stage}.scheduler={{_target_: kd_research.training.schedules.Polynomial}}",
        "+optimizer.groups.connectors={paths: [objective.*], lr: 0.25}",
    )
    record = trial.run(config, tmp_path)
    assert record.error is None
    rates = [row["lr"] for row in rows(tmp_path / "stages" / "boundaries")]
    assert rates == pytest.approx([0.375, 0.25, 0.125, 0.0])  # after the epoch
    assert rows(tmp_path)[1]["lr"] < 0.01  # the training's own


def test_stages_keep_their_share_of_another_training() -> None:
    assert stage_epochs({"epochs": 30, "of": 240}, 240) == 30
    assert stage_epochs({"epochs": 30, "of": 240}, 24) == 3
    assert stage_epochs({"epochs": 30, "of": 240}, 1) == 1
    assert stage_epochs({"epochs": 30}, 1) == 30
    within = {"epochs": 0.75, "of": 1, "within": True}
    assert [stage_epochs(within, epochs) for epochs in (1, 2, 4, 8)] == [0, 1, 3, 6]


def kill_in(stage: bool, epoch: int) -> None:
    """Make this process kill itself at the end of an epoch of a stage, or of the training."""
    whole = EpochLog.on_train_epoch_end

    def then_kill(self: Any, trainer: Any, module: Any) -> None:
        whole(self, trainer, module)
        if trainer.current_epoch == epoch and (module.objective.stage is not None) == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    EpochLog.on_train_epoch_end = then_kill  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def whole_run(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("whole")
    config = config_of(outputs, "loss=ft", "loss.stages.paraphraser.epochs=360")
    assert in_fork(lambda: trial.run(config, folder)) == 0
    return config, folder


@pytest.mark.parametrize(("stage", "epoch"), [(True, 1), (False, 0), (False, 1)])
def test_a_killed_run_goes_on_within_its_stage(
    whole_run: tuple[Any, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: bool,
    epoch: int,
) -> None:
    monkeypatch.setattr(continuation, "LONGEST_SHARE", math.inf)
    config, whole = whole_run
    asked = tmp_path / "asked"

    def killed() -> None:
        kill_in(stage, epoch)
        trial.run(config, tmp_path)

    def again() -> None:
        whole_epoch = EpochLog.on_train_epoch_end

        def note(self: Any, trainer: Any, module: Any) -> None:
            with asked.open("a") as stream:
                stream.write(f"{module.objective.stage} {trainer.current_epoch}\n")
            whole_epoch(self, trainer, module)

        EpochLog.on_train_epoch_end = note  # type: ignore[method-assign]
        trial.run(config, tmp_path)

    assert in_fork(killed) == -signal.SIGKILL
    assert in_fork(again) == 0
    epochs = [f"paraphraser {number}" for number in range(3)] + ["None 0", "None 1"]
    assert (
        asked.read_text().split("\n")[:-1]
        == epochs[epochs.index(f"paraphraser {epoch}" if stage else f"None {epoch}") :]
    ), "one epoch was lost, and no more"
    records = [read_record(folder) for folder in (whole, tmp_path)]
    assert records[0].metrics == records[1].metrics
    assert records[1].costs["stage_paraphraser_epochs"] == 3
    one, other = weights_of(whole), weights_of(tmp_path)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for part in (".", "stages/paraphraser"):
        assert rows(tmp_path / part) == rows(whole / part)


def test_two_processes_go_through_the_stages_together(outputs: Path, tmp_path: Path) -> None:
    same = ("loss=ab", "channels_last=false")
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu")
    two = tmp_path / "two"
    assert trial.run(config_of(outputs, *same), tmp_path / "one").error is None
    save(composed(*SMALL, *same, *ranks, f"output_dir={outputs}"), two / CONFIG_NAME)

    def run() -> None:
        part = child.Part(0, 2, "127.0.0.1", child.free_port())
        os._exit(child._run_ranks(two, "kd_research.trial.run", "main", 2, part))

    assert in_fork(run) == 0
    record = read_record(two)
    assert record.error is None
    assert record.costs["stage_boundaries_epochs"] == 1
    assert len(rows(two / "stages" / "boundaries")) == 1
    assert [row["epoch"] for row in rows(two)] == [-1, 0, 1]


def test_wrong_stages_are_told_before_any_training(outputs: Path) -> None:
    stated = {
        "epochs": "0",
        "within": "3",
        "weights": "{abb: 1, ab: -1}",
        "lr": "-1",
        "learns": "head",
        "wieghts": "1",
    }
    typed = [f"++loss.stages.boundaries.{key}={value}" for key, value in stated.items()]
    with pytest.raises(ConfigError) as caught:
        check(composed(*SMALL, "loss=ab", *typed, "+loss.stages.Two={weights: {}}"))
    told = str(caught.value)
    at = "loss.stages.boundaries"
    for text in (
        f"{at}.epochs must be > 0, got 0; try {at}.epochs=1",
        f"{at}.within must be true or false, got 3",
        f"{at}.weights.abb: the loss has no such term; did you mean ab? there are: ab",
        f"{at}.weights.ab must be >= 0, or a schedule, got -1",
        f"{at}.lr must be > 0, or null, got -1",
        f"{at}.learns must be a list of patterns, got 'head'",
        f"{at}.wieghts is no setting of a stage; did you mean weights?",
        "loss.stages.Two: a stage's name has letters, digits and _, a small letter first",
        "loss.stages.Two does not say for how long; type +loss.stages.Two.epochs=1",
        "loss.stages.Two.weights must give a weight to one term or more, got {}",
    ):
        assert text in told
    again = "+loss.stages.again={epochs: 1, within: true, weights: {annealing_kd: 1}}"
    with pytest.raises(ConfigError, match="leave none of the 2 epochs of trainer.max_epochs"):
        check(composed(*SMALL, "loss=annealing_kd", again))
    with pytest.raises(ConfigError, match="needs weights that each process has whole"):
        check(composed(*SMALL, "loss=ab", "trainer.strategy=fsdp", "trainer.devices=2"))
    with pytest.raises(
        ConfigError, match=r"loss.stages.boundaries has nothing to learn by no.such"
    ):
        Parts(config_of(outputs, "loss=ab", "+loss.stages.boundaries.learns=[no.such]"))
