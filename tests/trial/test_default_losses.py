"""Every loss for images runs as it is typed, with the student that it gets by default."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import composed, plain

from kd_research.configuration.config import ROOT
from kd_research.configuration.overrides import student_for
from kd_research.configuration.parts_checks import parts_problems
from kd_research.trial.assembly import Parts

OF_TOKENS = ("distilbert", "minilm", "tinybert")  # they need a transformer's layers, and text
OF_TEXT = ("seqkd", "gkd", "minillm", "distillm", "speculative_kd")  # they draw it
LOSSES = sorted(path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one teacher, for all."""
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in OF_TOKENS + OF_TEXT])
def test_a_loss_is_made_for_the_student_that_it_gets_by_default(loss: str, outputs: Path) -> None:
    """Losses on `pool` failed in every trial, because an MLP had none."""
    typed = [f"loss={loss}", *(["teacher=none"] if loss == "dml" else [])]
    student = student_for(typed)
    typed += [student] if student else []
    # A loss on maps is searched at the depth of its student; the others at any.
    for depth in [4] if student else [1, 4]:
        config = composed(
            *typed,
            f"output_dir={outputs}",
            "tracking=disabled",
            "trainer.max_epochs=1",
            "teacher.trainer.max_epochs=1",
            *([] if student == "student=soft_tree" else ["student.model.width=4"]),
            f"student.model.depth={depth}",
        )
        assert config.student.model.depth == depth
        assert Parts(plain(config)).module.objective is not None


def test_a_typed_student_is_left_alone() -> None:
    assert student_for(["loss=at"]) == "student=cnn"
    assert student_for(["loss=soft_tree"]) == "student=soft_tree"
    assert student_for(["loss=kd"]) is None
    assert student_for(["loss=at,kd"]) is None
    assert student_for(["loss=at", "student=resnet20"]) is None
    assert student_for(["loss=at", "loss.student_layers=[pool]"]) is None
    assert student_for(["loss=at", "+sweeps=papers/crd_cifar10"]) is None


def test_a_tree_s_loss_takes_a_tree_and_a_tree_takes_a_table() -> None:
    table = ("dataset=table", "dataset.input_shape=[4]", "dataset.num_classes=3", "teacher=mlp")
    typed = ("loss=soft_tree", *table)
    problems = parts_problems(plain(composed(*typed, "student=mlp")))
    (line,) = [text for _, text in problems if "tree" in text]
    assert "the student MLP has not; try student=soft_tree" in line
    problems = parts_problems(plain(composed(*typed, "student=soft_tree")))
    assert not [text for _, text in problems if text.startswith("student")]
