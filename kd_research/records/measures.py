"""The names of what a run measures, as sweeps and papers may state them."""

from __future__ import annotations

import difflib
import re

METRICS = (
    "val_accuracy",
    "val_nll",
    "val_ece",
    "val_perplexity",
    "val_bits_per_byte",
    "teacher_agreement",
    "teacher_kl",
    "teacher_reverse_kl",
    "acceptance_rate",
    "copied_error_share",
    "accuracy_retention",
    "val_rouge_l",
    "val_exact_match",
    "val_gsm8k_accuracy",
    "val_text_perplexity",
    "val_choice_accuracy",
    "choice_agreement",
    "choice_kl",
)
TEST_METRICS = tuple(
    name.replace("val_", "test_") if name.startswith("val_") else f"test_{name}" for name in METRICS
)
COSTS = (
    "num_params",
    "model_bytes",
    "macs",
    "latency_ms",
    "latency_p95_ms",
    "batch_latency_ms",
    "peak_memory_bytes",
    "energy_joules",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "batch_decode_tokens_per_second",
    "kv_bytes_per_token",
    "compression_ratio",
    "speedup",
    "energy_ratio",
)
RATIOS = COSTS[-3:]
OF_TEXTS = ("rouge_l", "exact_match", "gsm8k_accuracy", "text_perplexity")  # ends of names
TRAINING_COSTS = (
    "train_epoch_seconds",
    "train_epoch_cpu_seconds",
    "live_teacher_epoch_cpu_seconds",
    "cached_teacher_epoch_cpu_seconds",
    "train_step_bytes",
    "trained_parameters",
    "generation_seconds",
    "generated_tokens",
    "on_policy_share",
)
OF_STAGES = r"stage_\w+_(epochs|seconds|cpu_seconds|parameters)"  # whatever a stage is called
_KNOWN = (
    *METRICS,
    *TEST_METRICS,
    *COSTS,
    *TRAINING_COSTS,
    "teacher_val_accuracy",
    "teacher_test_accuracy",
    "teacher_val_nll",
    "teacher_test_nll",
    "teacher_val_perplexity",
    "teacher_test_perplexity",
    "teacher_val_bits_per_byte",
    "teacher_test_bits_per_byte",
    "teacher_val_rouge_l",
    "teacher_test_rouge_l",
    "teacher_val_exact_match",
    "teacher_test_exact_match",
    "teacher_val_gsm8k_accuracy",
    "teacher_test_gsm8k_accuracy",
    "teacher_val_choice_accuracy",
    "teacher_test_choice_accuracy",
    *(f"teacher_{name}" for name in COSTS if name not in RATIOS),
    "test_errors",
    "teacher_test_errors",
)
# What a paper's rule of the epoch, a class, a shift of some classes' logits, and each stage of a
# loss add.
_COUNTED = re.compile(
    r"(teacher_)?test_errors(_on_\d+)?|test_accuracy_(last|best)_epoch"
    r"|shift_(frequency|val|test)(_test_errors(_on)?)?"
    rf"|{OF_STAGES}"
)


def unknown(name: object) -> str | None:
    """Why no run can have measured this; None where one can."""
    if name in _KNOWN or _COUNTED.fullmatch(str(name)):
        return None
    close = difflib.get_close_matches(str(name), _KNOWN, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{name!r} is not measured; {hint}there are: {', '.join(_KNOWN)}"
