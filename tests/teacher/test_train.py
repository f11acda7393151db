"""The teacher: trained once per content, shared, and loaded only where it fits."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Compose, plain
from torch import nn

from kd_research.configuration.config import ConfigError
from kd_research.models.mlp import MLP
from kd_research.teacher import train as teachers
from kd_research.teacher.checkpoint import WEIGHTS_NAME, load_weights
from kd_research.trial.assembly import Parts


def obtain_in_process(config: dict[str, Any], results: Any) -> None:
    torch.set_num_threads(1)
    parts = Parts(config)
    assert parts.teacher is not None
    results.put((parts.teacher.fingerprint, parts.teacher.path.stat().st_mtime_ns))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_train_one_teacher(tiny: Compose, tmp_path: Path) -> None:
    config = plain(tiny(f"output_dir={tmp_path}"))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=obtain_in_process, args=(config, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1], "the second waited, and loaded the file that the first wrote"
    assert len(list((tmp_path / "teachers").iterdir())) == 1


def test_content_decides_which_teacher(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = f"output_dir={tmp_path}"
    first = Parts(plain(tiny(here))).teacher
    assert first is not None
    with monkeypatch.context() as patch:
        patch.setattr(teachers, "_train", lambda *_: pytest.fail("trained again"))
        other_student = tiny(
            here,
            "seed=7",
            "loss=logit_mse",
            "student.model.width=9",
            "trainer.max_epochs=1",  # the teacher states its own
            "trainer.enable_progress_bar=null",
            "trainer.accelerator=cpu",
        )
        held = tiny(  # as in a sweep over these
            here,
            "dataset.batch_size=32",
            "+trainer.accumulate_grad_batches=2",
            "+teacher.dataset.batch_size=64",
            "+teacher.trainer.accumulate_grad_batches=1",
        )
        for same in (other_student, held):
            again = Parts(plain(same)).teacher
            assert again is not None
            assert again.fingerprint == first.fingerprint
    others = (
        "teacher.seed=1",
        "teacher.model.width=5",
        "teacher.optimizer.lr=0.1",
        "trainer.gradient_clip_val=0.001",  # the student's, which the teacher inherits
        "+trainer.limit_train_batches=1",
    )
    for other in others:
        found = Parts(plain(tiny(here, other))).teacher
        assert found is not None
        assert found.fingerprint != first.fingerprint
    assert len(list((tmp_path / "teachers").iterdir())) == 1 + len(others)


def test_a_half_trained_teacher_is_trained_again(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = plain(tiny(f"output_dir={tmp_path}"))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(teachers, "save_weights", die)
        with pytest.raises(KeyboardInterrupt):
            Parts(config)
    parts = Parts(config)
    assert parts.teacher is not None
    assert parts.teacher.path.exists()


@pytest.mark.parametrize("form", ["state dict", "Lightning", "folder"])
def test_a_checkpoint_by_path(tiny: Compose, tmp_path: Path, form: str) -> None:
    given = MLP([1, 8, 8], 10, width=6, depth=1)
    path = tmp_path / ("weights.pt" if form == "folder" else "given.pt")
    state = given.state_dict()
    if form == "Lightning":
        state = {
            "state_dict": {f"student.{k}": v for k, v in state.items()} | {"metric": torch.ones(1)}
        }
    torch.save(state, path)
    config = plain(tiny("teacher.model=null"))
    config["teacher"]["model"] = config["student"]["model"] | {"width": 6, "depth": 1}
    config["teacher"]["checkpoint"] = str(tmp_path if form == "folder" else path)
    parts = Parts(config)
    assert parts.teacher is not None
    assert parts.teacher.fingerprint == teachers.fingerprint(given)


class Foreign:
    """What a pickle from outside may hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MLP([1, 8, 8], 10, width=7).state_dict(), r"layers.0.0.weight is \(7, 64\) there"),
        (MLP([1, 8, 8], 10, width=6, depth=3).state_dict(), "it has layers.2.0.weight"),
        (nn.Linear(2, 2).state_dict(), "lacks layers.0.0.weight"),
        ({"epoch": 3}, "holds no state dict"),
        (
            {**MLP([1, 8, 8], 10, width=6).state_dict(), "head.bias": torch.full((10,), torch.nan)},
            r"given.pt holds weights that are not finite: head.bias; its training failed",
        ),
        (Foreign(), "not a checkpoint that can be loaded safely"),
        (b"not a checkpoint at all", "not a checkpoint that can be loaded safely"),
        (None, "there is no checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "given.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_weights(MLP([1, 8, 8], 10, width=6), path)
    assert not Path("executed").exists()


def test_a_teacher_below_the_floor_stops_the_run(tiny: Compose, tmp_path: Path) -> None:
    from kd_research.trial.run import run

    record = run(tiny("teacher.min_accuracy=0.999"), tmp_path)
    assert record.status == "failed"
    assert "below teacher.min_accuracy=0.999" in (record.error or "")
    assert not (tmp_path / WEIGHTS_NAME).exists(), "no student was trained"


def test_the_teacher_of_a_wrong_model_is_a_configuration_error(tiny: Compose) -> None:
    config = plain(tiny("teacher.model=null"))
    config["teacher"]["model"] = config["student"]["model"] | {"width": -3}
    with pytest.raises(ConfigError, match="teacher: an MLP needs width >= 1"):
        Parts(config)


def test_a_wrong_student_is_told_before_a_teacher_is_trained(tiny: Compose, tmp_path: Path) -> None:
    config = plain(tiny(f"output_dir={tmp_path}", "student=resnet8", "student.model.depth=9"))
    with pytest.raises(ConfigError, match="^student: .*depth"):
        Parts(config)
    assert not (tmp_path / "teachers").exists()
