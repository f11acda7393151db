"""A causal student as transformers has it: safetensors, config.json, tokenizer.

`gpt` is GPT-2 but for three things, all of which GPT-2's layers can say: query, key and value are
layers of their own (they become one), there may be no biases (they become zeros), and GELU is exact
(`activation_function: gelu`). What `AutoModelForCausalLM.from_pretrained` loads says the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from kd_research.models.gpt import GPT
from kd_research.records.record import write_json

FOLDER = "transformers"  # in the export's
USAGE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (kind.from_pretrained(".") for kind in (AutoModelForCausalLM, AutoTokenizer))
inputs = tokenizer("The", return_tensors="pt", add_special_tokens=False)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))"""


def to_transformers(
    student: nn.Module, tokenizer: Tokenizer, stop: int | None, folder: Path
) -> str | None:
    """Write the folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    Args:
        student: a `gpt`, or a decoder of transformers.
        tokenizer: of its tokens.
        stop: the token that ends a text; None: there is none.
        folder: takes the files.

    Returns:
        Why there is none: transformers has no such architecture; None where it was written.
    """
    if any(type(module).__module__.startswith("peft.") for module in student.modules()):
        return "a student with an adapter is two models, which transformers loads by peft"
    if type(student) is GPT:
        folder.mkdir(parents=True, exist_ok=True)
        _save_gpt(student, stop, folder)
    elif type(student).__module__.startswith("transformers."):
        student.save_pretrained(folder)  # type: ignore[operator]
    else:
        return f"transformers has no architecture for {type(student).__name__}"
    tokenizer.save(str(folder / "tokenizer.json"))
    end = None if stop is None else tokenizer.id_to_token(stop)
    known = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(
        folder / "tokenizer_config.json", {**known, **({} if end is None else {"eos_token": end})}
    )
    for weights in folder.glob("*.safetensors"):  # which safetensors writes for its owner alone
        weights.chmod((folder / "config.json").stat().st_mode & 0o777)
    return None


def gpt2_config(student: GPT, stop: int | None) -> dict[str, Any]:
    """The config.json of GPT2LMHeadModel that is this `gpt`."""
    vocab_size, width = student.embedding.weight.shape
    first: Any = student.stages[0]
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_positions": student.context,
        "n_embd": width,
        "n_layer": len(student.stages),
        "n_head": first.attention.heads,
        "activation_function": "gelu",
        "layer_norm_epsilon": student.norm.eps,
        "embd_pdrop": student.dropout.p,
        "attn_pdrop": first.attention.dropout,
        "resid_pdrop": first.dropout.p,
        "tie_word_embeddings": True,
        "bos_token_id": stop,  # null is written too: without it GPT-2's own would be meant
        "eos_token_id": stop,
        "torch_dtype": "float32",
    }


def gpt2_state(student: GPT) -> dict[str, Tensor]:
    """The weights of a `gpt` under GPT-2's names; its linear layers are transposed there."""

    def bias(layer: Any) -> Tensor:
        size = layer.weight.shape[0]
        return torch.zeros(size) if layer.bias is None else layer.bias

    def linear(name: str, *layers: Any) -> dict[str, Tensor]:
        weight = torch.cat([layer.weight for layer in layers]).T
        return {f"{name}.weight": weight, f"{name}.bias": torch.cat([bias(x) for x in layers])}

    def norm(name: str, layer: Any) -> dict[str, Tensor]:
        return {f"{name}.weight": layer.weight, f"{name}.bias": bias(layer)}

    found = {
        "transformer.wte.weight": student.embedding.weight,
        "transformer.wpe.weight": student.positions.weight,
        **norm("transformer.ln_f", student.norm),
    }
    for number, block in enumerate(student.stages):
        stage: Any = block
        name, attention = f"transformer.h.{number}", stage.attention
        found |= norm(f"{name}.ln_1", stage.norm1) | norm(f"{name}.ln_2", stage.norm2)
        parts = (attention.query, attention.key, attention.value)
        found |= linear(f"{name}.attn.c_attn", *parts)
        found |= linear(f"{name}.attn.c_proj", attention.out)
        found |= linear(f"{name}.mlp.c_fc", stage.up) | linear(f"{name}.mlp.c_proj", stage.down)
    return {name: tensor.detach().float().contiguous() for name, tensor in found.items()}


def _save_gpt(student: GPT, stop: int | None, folder: Path) -> None:
    from safetensors.torch import save_file

    temporary = folder / ".model.safetensors.partial"
    save_file(gpt2_state(student), temporary, metadata={"format": "pt"})
    temporary.replace(folder / "model.safetensors")
    write_json(folder / "config.json", gpt2_config(student, stop))
    write_json(folder / "generation_config.json", {} if stop is None else {"eos_token_id": stop})


def difference(student: nn.Module, folder: Path, inputs: dict[str, Tensor]) -> float | None:
    """The largest |logit - the student's| of what transformers loads; None where it is not there.

    Args:
        student: in eval mode, on the processor.
        folder: what `to_transformers` wrote.
        inputs: examples.
    """
    try:
        from transformers import AutoModelForCausalLM, logging
    except ImportError:
        return None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of the loading
    kinds = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)  # in eval mode
    assert type(loaded).__name__ in kinds
    with torch.no_grad():
        found = student(**inputs)
        expected = found if isinstance(found, Tensor) else found["logits"]
        logits = loaded(**inputs).logits[..., : expected.shape[-1]]
    return float((logits - expected).abs().max())
