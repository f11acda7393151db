"""The model card: how a student was made, and every number of its record."""

import pytest

from kd_research.export.card import model_card
from kd_research.records.measures import COSTS, METRICS, TRAINING_COSTS
from kd_research.records.record import RunRecord

GPT = {"_target_": "kd_research.models.gpt.GPT", "depth": 2}
LABELS = {"ce_weight": 1.0, "terms": {}, "search": {}}
LORA = {"_target_": "peft.LoraConfig", "r": 8, "target_modules": ["query"]}


def card(loss=LABELS, student=None, epochs=3, is_distilled=False, **values) -> str:
    config = {
        "dataset": {"name": "sst2_words"},
        "student": {"model": GPT, **(student or {})},
        "teacher": {"model": GPT if is_distilled else None},
        "loss": loss,
        "trainer": {"max_epochs": epochs},
    }
    record = RunRecord("completed", config, 0, values, selection={"epoch": epochs})
    return model_card(record, {}, None, is_distilled=is_distilled)


def test_every_measure_of_a_record_is_shown():
    names = [name for name in METRICS if name != "val_nll"]
    values = {name: 1000.0 + place for place, name in enumerate([*names, *COSTS, *TRAINING_COSTS])}
    text = card(**values)
    for name, value in values.items():
        assert f"| {name.removeprefix('val_')} | {value:,.0f} |" in text
    assert "| nll |" not in text
    found = card(test_choice_accuracy=0.75, teacher_val_choice_accuracy=0.875)
    assert "| choice_accuracy |  | 0.75 | 0.875 |  |" in found


def test_text_of_the_teacher_is_what_was_learnt():
    text = {
        "_target_": "kd_research.soft_targets.teacher_text.TeacherText",
        "prompt_tokens": None,
        "generation": {"temperature": 0.5, "top_k": None},
    }
    found = card({**LABELS, "text": text}, is_distilled=True)
    assert "# A student distilled on sst2_words" in found
    assert "- knowledge-distillation" in found
    assert "| loss terms | cross-entropy with the teacher's text |" in found
    assert "| text | written by the teacher, once, in place of the data's |" in found
    assert "| text: temperature | 0.5 |" in found


def test_text_of_the_student_and_its_share_are_shown():
    text = {
        "_target_": "kd_research.training.on_policy.StudentText",
        "share": 0.5,
        "beside": {"_target_": "kd_research.generation.beside.TeacherMixed", "share": 0.2},
    }
    terms = {"gkd": {"weight": 1.0}, "at": {"weight": 0.0}}
    loss = {"ce_weight": 0.0, "lambda": 1.0, "on_policy": 0.5, "terms": terms, "text": text}
    found = card(loss, is_distilled=True, generated_tokens=1234)
    for row in (
        "loss terms | gkd",
        "on_policy | 0.5",
        "text | written by the student, during the fit",
        "text: share | 0.5",
        "text: beside | kd_research.generation.beside.TeacherMixed",
        "generated_tokens | 1,234",
    ):
        assert f"| {row} |" in found


@pytest.mark.parametrize("is_trained", [True, False])
def test_an_adapter_and_what_it_began_with_are_shown(is_trained):
    shots = {"_target_": "kd_research.training.adapters.FewShot", "examples": 4}
    student = {"checkpoint": "/home/me/0007/weights.pt", "adapter": LORA if is_trained else shots}
    found = card(student=student, epochs=3 if is_trained else 0, trained_parameters=42)
    assert "| begins with | 0007/weights.pt |" in found
    assert "/home" not in found
    assert "knowledge-distillation" not in found
    assert "| trained_parameters | 42 |" in found
    if is_trained:
        assert "# A student trained on sst2_words" in found
        assert "| adapter | peft.LoraConfig (r=8, target_modules=['query']) |" in found
        assert "| loss terms | cross-entropy with the labels |" in found
    else:
        assert "# A student on sst2_words" in found
        assert "| adapter | kd_research.training.adapters.FewShot (examples=4) |" in found
        assert "| loss terms | none: it was not trained |" in found
        assert "| epoch chosen |" not in found


def test_a_stage_before_is_shown_with_what_it_cost():
    stage = {"epochs": 30, "of": 240, "weights": {"ab": 1.0}}
    loss = {"ce_weight": 1.0, "terms": {"ab": {"weight": 0.0}}, "stages": {"boundaries": stage}}
    found = card(loss, is_distilled=True, stage_boundaries_seconds=12.5)
    said = "| stage before: boundaries | ab, 30 epochs to 240 of the training, beside it |"
    assert said in found
    assert "| stage_boundaries_seconds | 12.5 |" in found
