"""The needs of a plan, against what small models have and do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from positions_data import CONTEXT, VOCABULARY, with_positions
from tiny import Compose, plain
from torch.nn import functional as F

from kd_research.evaluation.costs import LiveBytes, macs, num_params
from kd_research.evaluation.generation import cache_bytes
from kd_research.models.gpt import GPT
from kd_research.training.needs import (
    FLOAT32,
    LLAMA_2_7B,
    TINYLLAMA_1B,
    Decoder,
    Plan,
    needs,
    table,
)
from kd_research.trial.assembly import Parts


def gpt(vocabulary: int = 96, context: int = 64, layers: int = 3) -> tuple[GPT, Decoder]:
    shape = Decoder(layers, 64, 4, 4, 256, vocabulary, positions=context)
    return GPT(vocabulary, context, layers, 64, 4), shape


def test_parameters_are_those_that_models_have() -> None:
    model, shape = gpt()
    assert shape.parameters == num_params(model)
    assert abs(LLAMA_2_7B.parameters - 6_738_415_616) == 0  # as its card says
    assert abs(TINYLLAMA_1B.parameters - 1_100_048_384) == 0
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(
        "llama",
        vocab_size=96,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    llama = transformers.AutoModelForCausalLM.from_config(config)
    shape = Decoder(2, 64, 4, 2, 160, 96, gated=True, tied=False)
    assert shape.parameters == num_params(llama)


def test_the_cache_has_so_many_bytes_and_a_pass_so_many_products() -> None:
    model, shape = gpt()
    tokens = torch.zeros(1, 64, dtype=torch.int64)
    with torch.no_grad():
        cache = model.eval()(input_ids=tokens, use_cache=True)["past_key_values"]
    assert cache_bytes(cache) == 64 * shape.kv_bytes_per_token(FLOAT32)
    products = macs(model, {"input_ids": tokens})  # all pairs, where a causal kernel needs half
    assert products == pytest.approx(64 * shape.flops_per_token(64) / 2, rel=0.15)


@pytest.mark.parametrize("layers", [2, 6])
def test_a_step_s_peak_is_what_it_needs(layers: int) -> None:
    model, shape = gpt(context=128, layers=layers)
    model.train()
    tokens = torch.randint(96, (8, 128))
    present = [*model.parameters()]
    live = LiveBytes([*present, tokens])
    with live:
        logits = model(input_ids=tokens)
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    plan = Plan(tokens=1, windows=8, length=128, itemsize=FLOAT32, logits_at_once=1024)
    found = needs(shape, shape, plan)
    expected = found["weight_bytes"] + found["activation_bytes"] + 3 * 1024 * 96 * FLOAT32
    assert live.peak == pytest.approx(expected, rel=0.2)


def test_cached_outputs_have_so_many_bytes_on_disk(tiny: Compose, tmp_path: Path) -> None:
    config = with_positions(
        tiny,
        "loss=fkl",
        "soft_targets.top_k=4",
        "soft_targets.dtype=float16",
        "soft_targets.fill=ahead",
        f"output_dir={tmp_path}",
    )
    parts = Parts(plain(config))
    num = len(parts.data.train)
    folder = tmp_path / "soft_targets"
    largest = max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)
    shape = Decoder(1, 8, 1, 1, 8, VOCABULARY)
    plan = Plan(tokens=num * CONTEXT, windows=1, length=CONTEXT, top_k=4)
    assert largest == pytest.approx(needs(shape, shape, plan)["disk_bytes"], rel=0.02)


def test_the_page_has_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "scale.md"
    assert table() in page.read_text()
    whole, sharded = (
        needs(TINYLLAMA_1B, LLAMA_2_7B, Plan(10**9, 8, 2048, shards=number)) for number in (1, 8)
    )
    assert sharded["optimizer_bytes"] * 8 == whole["optimizer_bytes"]
    assert sharded["activation_bytes"] == whole["activation_bytes"]
