"""A mistake in the loss is told before a teacher is trained for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Compose, plain

from kd_research.configuration.config import ConfigError
from kd_research.models.ensemble import Ensemble
from kd_research.teacher import chain
from kd_research.trial.assembly import Parts

CNN = ("student=cnn", "student.model.width=4", "student.model.depth=2")
STAGE = "{epochs: 1, weights: {kd: 1}, learns: [nothing.*]}"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ((*CNN, "loss=fitnet", "loss.student_layers=[nope]"), "no layer 'nope'"),
        ((*CNN, "loss=fitnet", "loss.teacher_layers=[nope]"), "no layer 'nope'"),
        ((f"+loss.stages.first={STAGE}",), "has nothing to learn by nothing.*"),
    ],
)
@pytest.mark.parametrize(
    "members", [(), ("+teacher.members.a.seed=0", "+teacher.members.b.seed=1")]
)
def test_a_mistake_in_the_loss_is_told_before_a_teacher_is_trained(
    tiny: Compose, outputs: Path, overrides: tuple[str, ...], told: str, members: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="^loss: ") as found:
        Parts(plain(tiny(*overrides, *members, f"output_dir={outputs}/new")))
    assert told in str(found.value)
    assert not (outputs / "new/teachers").exists()


def test_what_the_loss_is_tried_on_is_what_will_teach(tiny: Compose) -> None:
    alone = plain(tiny())
    data = Parts(alone).data
    assert type(chain.stand_in(alone, data)) is type(Parts(alone).teacher.module)  # type: ignore[union-attr]
    several = plain(tiny("+teacher.members.a.seed=0", "+teacher.members.b.seed=1"))
    assert isinstance(chain.stand_in(several, data), Ensemble)
    middle = {**alone["teacher"]["model"], "width": 3}
    assisted = {**several, "teacher": {**several["teacher"], "assistants": {"middle": middle}}}
    found = chain.stand_in(assisted, data)
    assert sum(each.numel() for each in found.parameters()) < sum(
        each.numel() for each in chain.stand_in(alone, data).parameters()
    )


def test_a_teacher_is_the_same_whatever_was_tried_on_it(tiny: Compose, outputs: Path) -> None:
    def trained(name: str, *overrides: str) -> str:
        parts = Parts(plain(tiny(*CNN, *overrides, f"output_dir={outputs}/{name}")))
        assert parts.teacher is not None
        return parts.teacher.fingerprint

    assert trained("kd", "loss=kd") == trained("fitnet", "loss=fitnet")
