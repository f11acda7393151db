"""Pretrained decoders of transformers out of folders: vocabularies, speeds, the record."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from later import Later
from positions_data import VOCABULARY, with_positions
from tiny import Compose

from kd_research.configuration.config import ConfigError
from kd_research.models.headless import Headless, cut_vocabulary
from kd_research.records.record import RunRecord
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run

transformers = Later("transformers", extra="transformers")
CONTEXT = 12
SIZES: dict[str, dict[str, int]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT},
    "llama": {
        **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT},
    },
}


def saved(folder: Path, kind: str, vocab_size: int) -> Path:
    """A folder as `save_pretrained` leaves it."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=vocab_size, **SIZES[kind])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def pretrained(folder: Path) -> dict[str, Any]:
    """`conf/model/causal_lm.yaml` with its path."""
    return {
        "_target_": "transformers.AutoModelForCausalLM.from_pretrained",
        "pretrained_model_name_or_path": str(folder),
        "use_safetensors": True,
        "use_cache": False,
    }


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_folder_is_student_of_a_teacher_with_another_padding(
    tiny: Compose, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = "llama" if kind == "gpt2" else "gpt2"
    student = saved(tmp_path / "student", kind, VOCABULARY + 5)
    teacher = saved(tmp_path / "teacher", other, VOCABULARY + 9)
    config = with_positions(tiny, "loss=fkl")
    config.student.model = pretrained(student)
    config.teacher.model = pretrained(teacher)
    with caplog.at_level(logging.WARNING):
        record = run(config, tmp_path / "run")
    assert record.status == "completed", record.error
    assert f"the student has {VOCABULARY + 5} tokens, the data {VOCABULARY}" in caplog.text
    assert f"the teacher has {VOCABULARY + 9} tokens, the data {VOCABULARY}" in caplog.text
    check_record(record, kind)


def check_record(record: RunRecord, kind: str) -> None:
    costs, heads = record.costs, 2 if kind == "llama" else 4
    assert costs["kv_bytes_per_token"] == 2 * 2 * heads * (16 // 4) * 4
    for name in ("prefill", "decode", "batch_decode"):
        speed = costs[f"{name}_tokens_per_second"]
        assert speed is not None
        assert speed > 0
    assert record.metrics["teacher_kl"] is not None
    assert record.metrics["acceptance_rate"] is not None
    measured = record.provenance["measurement"]
    assert (measured["context"], measured["stride"]) == (CONTEXT, CONTEXT)


def test_the_weights_are_the_folder_s(tiny: Compose, tmp_path: Path) -> None:
    folder = saved(tmp_path / "student", "gpt2", VOCABULARY)
    config = with_positions(tiny, "teacher.model=null", "loss=ce")
    config.student.model = pretrained(folder)
    parts = Parts(config)  # type: ignore[arg-type]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    inputs = parts.example(2).inputs
    assert isinstance(inputs, dict)
    ours = parts.student.eval()(**inputs)["logits"]
    assert torch.equal(ours, theirs.eval()(**inputs).logits)


def test_fewer_tokens_than_the_data_are_told_before_training(tiny: Compose, tmp_path: Path) -> None:
    folder = saved(tmp_path / "student", "gpt2", VOCABULARY - 2)
    config = with_positions(tiny)
    config.student.model = pretrained(folder)
    with pytest.raises(ConfigError, match=r"student: the model has 9 tokens, the data 11"):
        Parts(config)  # type: ignore[arg-type]


def test_cut_logits_are_the_others_and_states_are_not_cut(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "llama", 20)
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    cut = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert cut_vocabulary(cut, VOCABULARY) == 20
    inputs = {"input_ids": torch.randint(VOCABULARY, (2, CONTEXT))}
    with torch.no_grad():
        assert torch.equal(cut(**inputs).logits, whole(**inputs).logits[..., :VOCABULARY])
        parts = Headless(cut)
        states = parts.hidden(inputs)
        assert states.shape[-1] == 16 > VOCABULARY
        assert parts.problem(inputs) is None
