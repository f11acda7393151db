"""Blocks that run again in the backward pass: the same gradients, less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from positions_data import with_positions
from tiny import Compose, plain
from torch import nn

from kd_research.configuration.config import ConfigError
from kd_research.evaluation.costs import LiveBytes
from kd_research.models.capture import Capture
from kd_research.models.checkpointing import checkpoint_blocks
from kd_research.models.gpt import GPT
from kd_research.models.text import TextTransformer
from kd_research.trial.assembly import Parts

IDS = torch.randint(50, (4, 32), generator=torch.Generator().manual_seed(0))


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.AutoConfig.for_model("llama", vocab_size=50, **sizes, **heads)
    config.use_cache = False
    return transformers.AutoModelForCausalLM.from_config(config)


MODELS = {
    "gpt": lambda: GPT(50, 32, 4, 32, 2, dropout=0.2),
    "text_transformer": lambda: TextTransformer(3, 50, 32, 4, dropout=0.2),
    "llama": llama,
}


def step(model: nn.Module, layers: list[str]) -> tuple[int, list[torch.Tensor], torch.Tensor]:
    inputs = {"input_ids": IDS}
    if isinstance(model, TextTransformer):
        inputs["attention_mask"] = torch.ones_like(IDS)
    torch.manual_seed(1)
    live = LiveBytes([*model.parameters(), IDS])
    with live:
        output = Capture(model, layers)(inputs)
        loss = output.logits.square().mean() + sum(
            feature.mean() for feature in output.features.values()
        )
        loss.backward()
    return live.peak, [each.grad for each in model.parameters()], output.logits  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_equal_gradients_in_less_memory(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().train()
    twin = checkpoint_blocks(copy.deepcopy(model))
    assert twin.state_dict().keys() == model.state_dict().keys()
    layers = ["model.layers.1"] if name == "llama" else ["stages.1"]
    peak, gradients, logits = step(model, layers)
    less, same, again = step(copy.deepcopy(twin), layers)
    assert torch.equal(again, logits)
    for one, other in zip(gradients, same, strict=True):
        torch.testing.assert_close(other, one)
    assert less < 0.7 * peak


def test_nothing_to_checkpoint_is_told(tiny: Compose) -> None:
    config = with_positions(tiny, "loss=fkl", "student.gradient_checkpointing=true")
    with pytest.raises(ConfigError, match="TokenNet has no list of equal blocks to checkpoint"):
        Parts(plain(config))
