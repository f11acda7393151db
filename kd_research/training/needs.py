"""What distilling one decoder into another would need: memory, disk and time, on paper.

`python -m kd_research.training.needs` prints the table for 7 billion parameters into 1 billion. The
tests compare each part with what is measured on small models: parameter counts, cached bytes on
disk, the peak of a training step.

Shapes: L layers, W width, F neurons of an MLP, V tokens of the vocabulary, T positions of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

from kd_research.soft_targets.encoding import LOGITS, Encoding

FLOAT32, HALF = 4, 2  # bytes
GIB = 1 << 30
OPTIMIZER = 2 * FLOAT32  # AdamW's two moments of each parameter


@dataclass(frozen=True)
class Decoder:
    """The shape of a decoder without biases.

    Attributes:
        layers: L.
        width: W.
        heads: of attention.
        kv_heads: of keys and values; fewer share theirs (Ainslie et al. 2023, arXiv:2305.13245).
        neurons: F.
        vocabulary: V.
        positions: learnt ones; 0 where they are rotary.
        gated: whether an MLP has a third matrix, as SwiGLU has.
        tied: whether the head has the embedding's weights.
        head_size: None is W / heads.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    neurons: int
    vocabulary: int
    positions: int = 0
    gated: bool = False
    tied: bool = True
    head_size: int | None = None

    @property
    def kv_width(self) -> int:
        """Of the keys of a position, in one layer."""
        return self.kv_heads * (self.head_size or self.width // self.heads)

    @property
    def parameters(self) -> int:
        """How many it has; shared ones once."""
        inner = self.heads * (self.head_size or self.width // self.heads)
        attention = 2 * self.width * inner + 2 * self.width * self.kv_width
        mlp = (3 if self.gated else 2) * self.width * self.neurons
        layer = attention + mlp + 2 * self.width  # and the weights of two norms
        embedding = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.layers * layer + self.width + embedding + self.positions * self.width

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Of the cache: keys and values of all layers."""
        return 2 * self.layers * self.kv_width * itemsize

    def flops_per_token(self, length: int) -> int:
        """Of a forward pass: two for each weight that multiplies, and attention to T / 2 others."""
        embedding = self.vocabulary * self.width
        looked_up = (0 if self.tied else embedding) + self.positions * self.width
        return 2 * (self.parameters - looked_up) + 2 * self.layers * self.width * length

    def activation_bytes(self, tokens: int, itemsize: int, checkpointed: bool) -> int:
        """What a training step keeps of so many tokens for its backward pass, logits left out.

        Of a layer the input and output of two norms, queries, keys, values and what they mix, and
        of the MLP two (gated: four) times its neurons; checkpointed its input alone, and one layer
        whole while it runs again (Chen et al. 2016, arXiv:1604.06174).
        """
        gates = 4 if self.gated else 2
        layer = (6 * self.width + 2 * self.kv_width) + gates * self.neurons
        kept = self.layers * self.width + layer if checkpointed else self.layers * layer
        return tokens * (kept + 2 * self.width) * itemsize


@dataclass(frozen=True)
class Plan:
    """How it is to be done.

    Attributes:
        tokens: of the whole training.
        windows: of an optimizer step on one device at once.
        length: T.
        itemsize: bytes of an activation, and of the teacher's weights: 2 in bf16, 4 in float32.
        checkpointed: whether the student's layers run again in the backward pass.
        logits_at_once: positions whose logits are there together; they are chunked.
        top_k: of the cached teacher outputs, kept with their tail.
        peak_flops: of the devices together, a second.
        utilisation: the share of it that is reached, in (0, 1].
        shards: devices over which weights, gradients and optimizer are spread; 1 has all on each.
    """

    tokens: int
    windows: int
    length: int
    itemsize: int = HALF
    checkpointed: bool = False
    logits_at_once: int = 4096
    top_k: int = 50
    peak_flops: float = 989e12
    utilisation: float = 0.4
    shards: int = 1


def needs(student: Decoder, teacher: Decoder, plan: Plan) -> dict[str, float]:
    """What the plan needs, by name; bytes are of one device.

    Args:
        student: trained, with its weights, gradients and AdamW's moments in float32.
        teacher: frozen, run live; or once, for the cached outputs.
        plan: how.
    """
    tokens = plan.windows * plan.length
    own, other = student.parameters, teacher.parameters
    logits = min(tokens, plan.logits_at_once) * student.vocabulary
    found: dict[str, float] = {
        "student_parameters": own,
        "teacher_parameters": other,
        "weight_bytes": own * FLOAT32 / plan.shards,
        "gradient_bytes": own * FLOAT32 / plan.shards,
        "optimizer_bytes": own * OPTIMIZER / plan.shards,
        "teacher_bytes": other * plan.itemsize / plan.shards,
        "activation_bytes": student.activation_bytes(tokens, plan.itemsize, plan.checkpointed),
        "logits_bytes": 5 * logits * FLOAT32,  # the two nets', their logarithms, and a gradient
    }
    parts = [value for name, value in found.items() if name.endswith("bytes")]
    found["live_teacher_bytes"] = sum(parts)
    found["cached_teacher_bytes"] = sum(parts) - found["teacher_bytes"]
    row = Encoding({LOGITS: (plan.length, student.vocabulary)}, "float16", plan.top_k, None)
    found["disk_bytes"] = (row.words + 1) * 8 * (plan.tokens / plan.length)
    found["disk_bytes_per_token"] = (row.words + 1) * 8 / plan.length
    found["student_kv_bytes_per_token"] = student.kv_bytes_per_token(plan.itemsize)
    found["teacher_kv_bytes_per_token"] = teacher.kv_bytes_per_token(plan.itemsize)
    trained = (4 if plan.checkpointed else 3) * student.flops_per_token(plan.length)
    asked = teacher.flops_per_token(plan.length)
    reached = plan.peak_flops * plan.utilisation
    found["live_tokens_per_second"] = reached / (trained + asked)
    found["cached_tokens_per_second"] = reached / trained
    found["live_hours"] = plan.tokens / found["live_tokens_per_second"] / 3600
    found["cached_hours"] = plan.tokens / found["cached_tokens_per_second"] / 3600
    return found


LLAMA_2_7B = Decoder(32, 4096, 32, 32, 11008, 32000, gated=True, tied=False)
TINYLLAMA_1B = Decoder(22, 2048, 32, 4, 5632, 32000, gated=True, tied=False)  # arXiv:2401.02385
BILLION = Plan(tokens=10**9, windows=8, length=2048)
COLUMNS = {
    "one GPU": BILLION,
    "checkpointed": Plan(10**9, 8, 2048, checkpointed=True),
    "8 GPUs, sharded": Plan(10**9, 8, 2048, checkpointed=True, peak_flops=8 * 989e12, shards=8),
}


def table() -> str:
    """The needs of a Llama-2 of 7 billion parameters into one of 1.1 billion, as Markdown."""
    columns = {name: needs(TINYLLAMA_1B, LLAMA_2_7B, plan) for name, plan in COLUMNS.items()}
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name in next(iter(columns.values())):
        values = " | ".join(_shown(name, found[name]) for found in columns.values())
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def _shown(name: str, value: float) -> str:
    if "per_token" in name or not name.endswith("bytes"):
        return f"{value:,.0f}"
    return f"{value / GIB:,.1f} GiB"


if __name__ == "__main__":
    print(table())
