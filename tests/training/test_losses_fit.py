"""Every loss fits the project's own networks as they come, and runs through a whole trial."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from tiny import TINY, Compose, composed, plain

from kd_research.configuration.config import ROOT, ConfigError, check
from kd_research.interfaces import Batch
from kd_research.models.capture import Capture
from kd_research.teacher.stated import objective_of
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run

TEXT = {"distilbert", "tinybert", "minilm"}
TEXT |= {"seqkd", "gkd", "minillm", "distillm", "speculative_kd"}  # they draw it
LOSSES = sorted({path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml")} - TEXT)
CONVOLUTIONAL = ("student=cnn", "student.model.width=3", "student.model.depth=2")
TREE = ("student=soft_tree", "student.model.depth=2")  # the student of its own loss


@pytest.mark.parametrize("loss", LOSSES)
def test_defaults_fit_the_cnn(outputs: Path, loss: str) -> None:
    rest = [item for item in TINY if "student" not in item]
    student = TREE if loss == "soft_tree" else CONVOLUTIONAL
    config = composed(*rest, *student, f"loss={loss}", f"output_dir={outputs}")
    parts = Parts(plain(config))
    module, batch = parts.module, parts.example(16)
    for stage in (*module.stages, None):
        if module.learners is not None:
            module.learners.enter(stage)
            module.zero_grad(set_to_none=True)
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-3)
        module.objective.set_epoch(0, 10)
        student = module._student(batch.inputs)
        teacher = module.run_teacher(batch.inputs) if module.objective.needs_teacher else None
        total, _ = module.objective(student, teacher, batch)
        total.backward()
        optimizer.step()
        assert total.isfinite()
        idle = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
        assert not idle, "DistributedDataParallel would wait for these"


@pytest.mark.parametrize("model", ["resnet8", "wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv1"])
@pytest.mark.parametrize("loss", ["at", "sp", "pkt", "reviewkd", "simkd", "crd"])
def test_defaults_fit_the_other_families(outputs: Path, model: str, loss: str) -> None:
    rest = [item for item in TINY if "student" not in item]
    config = composed(*rest, f"student={model}", f"loss={loss}", f"output_dir={outputs}")
    config.dataset.input_shape = [3, 32, 32]
    resolved = plain(config)
    nets = [instantiate(resolved[who]["model"]).eval() for who in ("student", "teacher")]
    if (model, loss) == ("mobilenetv2", "simkd"):  # there is one more convolution
        resolved["loss"]["terms"]["simkd"]["loss"]["student_layers"] = ["last"]
    objective = objective_of(resolved["loss"])
    objective.bind(*nets)
    see_student, see_teacher = (
        Capture(net, objective.layers(who))
        for net, who in zip(nets, ("student", "teacher"), strict=True)
    )
    batch = Batch(torch.randn(4, 3, 32, 32), torch.arange(4), torch.arange(4))
    objective.build(see_student(batch.inputs), see_teacher(batch.inputs), num_examples=16)
    total, _ = objective(see_student(batch.inputs), see_teacher(batch.inputs), batch)
    assert total.isfinite()


def test_weights_and_terms_are_stated_on_the_command_line(tiny: Compose) -> None:
    schedule = "{_target_: kd_research.losses.schedules.CosineDecay, weight: 0.9, start: 1, of: 2}"
    attention = (
        "{_target_: kd_research.losses.attention.AttentionTransfer, "
        "student_layers: [stages.-1], teacher_layers: [stages.-1]}"
    )
    config = tiny(
        *CONVOLUTIONAL,
        f"loss.terms.kd.weight={schedule}",
        f"+loss.terms.at.loss={attention}",
        "+loss.terms.at.weight=1000",
    )
    check(config)
    objective = Parts(plain(config)).module.objective
    objective.set_epoch(3, 4)
    assert objective.weights == {"kd": pytest.approx(0.45), "at": 1000.0}
    config = tiny("loss=dkd", "loss.terms.dkd.weight=1")
    check(config)
    assert Parts(plain(config)).module.objective.weights == {"dkd": 1.0}


def test_simkd_goes_right_before_the_pooling(tiny: Compose) -> None:
    with pytest.raises(ConfigError, match=r"takes \(64, 6, 4, 4\), but its layer 'stages.0' gives"):
        Parts(plain(tiny(*CONVOLUTIONAL, "loss=simkd", "loss.student_layers=[stages.0]")))


def test_simkd_is_counted_saved_and_evaluated_as_it_is_used(tiny: Compose, tmp_path: Path) -> None:
    config = tiny(*CONVOLUTIONAL, "loss=simkd")
    record = run(config, tmp_path)
    assert record.status == "completed", record.error
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert any(name.startswith("pool.0.") for name in state)
    alone = Parts(plain(tiny(*CONVOLUTIONAL))).student
    own = sum(p.numel() for p in alone.stages.parameters())
    teacher_head = 8 * 10 + 10
    projector = 4 * 6 + 8 + 9 * 16 + 8 + 4 * 8 + 16
    assert record.costs["num_params"] == own + teacher_head + projector
    chained = plain(tiny(f"teacher.checkpoint={tmp_path}"))
    chained["teacher"]["model"] = plain(config)["student"]["model"]
    with pytest.raises(ConfigError, match="another architecture"):
        Parts(chained)


def test_layers_that_do_not_fit_stop_the_run_before_it_trains(
    tiny: Compose, tmp_path: Path
) -> None:
    record = run(tiny("loss=at"), tmp_path)  # the student is an MLP
    assert record.status == "failed"
    assert "no layer 'stages.0'" in str(record.error)
    assert "there are: flatten, input_dropout, layers" in str(record.error)
    record = run(tiny("loss=at", "loss.student_layers=[layers.0,head]"), tmp_path)
    assert "AttentionTransfer needs feature maps" in str(record.error)
    assert "the student's layer 'layers.0' gives" in str(record.error)
