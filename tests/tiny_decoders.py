"""Causal language models of a few thousand random weights: ours and Hugging Face's."""

import pytest
import torch
from torch import nn

from kd_research.models.gpt import GPT

VOCAB = 23
CONTEXT = 48
KINDS = ("gpt", "gpt2", "llama")


def decoder(kind: str, seed: int = 0, width: int = 16, depth: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "gpt":
        model = GPT(VOCAB, CONTEXT, depth=depth, width=width, heads=2, bias=True)
    else:
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": 2}
        if kind == "llama":
            sizes |= {"intermediate_size": 2 * width, "num_key_value_heads": 1}
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=VOCAB, max_position_embeddings=CONTEXT, use_cache=False, **sizes
        )
        model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # so that positions and neighbours matter
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model.eval()


class WithoutCache(nn.Module):
    """The same model, read anew for each token."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.context = CONTEXT

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids
        )
        return found if isinstance(found, torch.Tensor) else found["logits"]
