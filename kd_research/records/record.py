"""The record of one run: `record.json`, written once, atomically, and read by everything else.

Imports neither torch nor wandb: the sweeper and the report read records in light processes.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kd_research.records.printable import masked, printable, typed

SCHEMA = 1
STATUSES = ("completed", "failed", "pruned")
RECORD_NAME = "record.json"
CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.jsonl"
LOG_NAME = "log.txt"
SPOKEN_NAME = "spoken.txt"  # how far the preparation of a sweep is
EVALUATION_NAME = "evaluation.json"  # what is no single number: intervals, reliability, confusion
SAMPLES_NAME = "samples.json"  # what a language model writes; where student and teacher disagree
PREDICTIONS_NAME = "predictions.npz"  # the predicted classes of validation and test
SWEEP_NAME = "sweep.yaml"  # in a sweep: its resolved settings
EXPORT_NAME = "export.json"  # metrics and costs of the exported files
STOP_NAME = "stop.json"  # in a run that its sweep stops: what its record will say
PROPOSAL_NAME = "proposal.json"  # in a trial of a sweep: its number and what was proposed


@dataclass(frozen=True)
class RunRecord:
    """What one run gave. Accuracies are fractions; None is "not measured", never 0.

    Attributes:
        status: "completed", "failed" or "pruned" (stopped, or never started, by its sweep).
        config: the resolved configuration, all of it.
        seed: the run's seed.
        metrics: val_accuracy, val_nll, val_ece, teacher_agreement, teacher_kl,
            copied_error_share, teacher_val_accuracy, accuracy_retention and their test_* twins;
            of text also val_perplexity, val_bits_per_byte, teacher_reverse_kl, acceptance_rate,
            and of prompts with completions val_rouge_l, val_exact_match, val_gsm8k_accuracy,
            val_text_perplexity.
        costs: num_params, model_bytes, macs, latency_ms, latency_p95_ms, batch_latency_ms,
            peak_memory_bytes, energy_joules (of 1,000 inferences); the teacher's under teacher_*;
            compression_ratio, speedup, energy_ratio; of language models
            prefill_tokens_per_second, decode_tokens_per_second, batch_decode_tokens_per_second,
            kv_bytes_per_token; of the training: train_epoch_seconds,
            train_epoch_cpu_seconds, train_step_bytes.
        selection: which epoch was kept, by which metric, and what the last epoch had.
        provenance: command, versions, git state, data and teacher fingerprints, device, times.
        error: None, or why the run failed or was pruned, for a person.
        schema: version of this layout.
    """

    status: str
    config: dict[str, Any]
    seed: int
    metrics: dict[str, float | None] = field(default_factory=dict)
    costs: dict[str, float | int | None] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    schema: int = SCHEMA

    def value(self, name: str) -> float | None:
        """The metric or cost called `name`; None where it was not measured or is not finite."""
        found = self.metrics.get(name, self.costs.get(name))
        return float(found) if found is not None and math.isfinite(found) else None


def write_text(path: Path, text: str) -> None:
    """Write `text` to a temporary name in the same folder, then rename: never half a file.

    Passwords in addresses are masked; the umask says who may read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        # An error's text may hold bytes of a path that are no characters: they become escapes.
        with temporary.open("x", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(masked(text))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_path(path: Path) -> Path:
    """A name that nobody else has, in the same folder; hidden."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically; NaN and infinities become null, as "not measured"."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """A text of ours or of a library; bytes that are not UTF-8 become U+FFFD."""
    return path.read_text(encoding="utf-8", errors="replace")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, in which every text can be written and shown.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read, or holds something else; the message names it.
    """
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a JSON {type(found).__name__}, not an object")
    return {str(key): _showable(value) for key, value in found.items()}


def _showable(value: Any) -> Any:
    """The value with half characters, which JSON can escape and nothing can print, as escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_showable(key): _showable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_showable(item) for item in value]
    return value


def finite(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinities are None, keys are texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def write_record(record: RunRecord, directory: Path) -> Path:
    """Write `record` to `directory/record.json` and return the path."""
    path = directory / RECORD_NAME
    error = None if record.error is None else printable(record.error)
    write_json(path, {**asdict(record), "error": error})
    return path


def stopped_record(config: dict[str, Any], directory: Path) -> RunRecord:
    """The record of a run whose sweep has stopped it, by what the sweep left in its folder.

    Raises:
        FileNotFoundError: no sweep has.
    """
    stop = read_json(directory / STOP_NAME)
    return RunRecord("pruned", config, config["seed"], **stop)


def read_record(path: Path) -> RunRecord:
    """Read a record from its file or from the folder that holds it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no record, or one of another schema.
    """
    path = path / RECORD_NAME if path.is_dir() else path
    data = read_json(path)
    if "schema" not in data:
        raise ValueError(f"{path} is not a run record; expected the keys of RunRecord")
    if data["schema"] != SCHEMA:
        raise ValueError(
            f"{path} has record schema {data['schema']}, this version reads {SCHEMA}; "
            f"rerun it with `python -m kd_research.trial {typed(path.parent)}`"
        )
    try:
        shown = (
            printable(data["error"]) if isinstance(data.get("error"), str) else data.get("error")
        )
        record = RunRecord(**{**data, "error": shown})
    except TypeError as error:  # a key too many or too few
        raise ValueError(f"{path} is not a run record ({error})") from None
    if wrong := list(_wrong_parts(record)):
        raise ValueError(f"{path} is damaged: {'; '.join(wrong[:3])}")
    return record


def _wrong_parts(record: RunRecord) -> Iterator[str]:
    """What in a record is of another type than it should be."""
    if record.status not in STATUSES:
        yield f"status is {record.status!r}"
    for name in ("config", "metrics", "costs", "selection", "provenance"):
        part = getattr(record, name)
        if not isinstance(part, dict):
            yield f"{name} is {part!r}"
        elif name in ("metrics", "costs"):
            wrong = {k: v for k, v in part.items() if not isinstance(v, float | int | None)}
            yield from (f"{name}.{key} is {value!r}, no number" for key, value in wrong.items())
    if not isinstance(record.error, str | None):
        yield f"error is {record.error!r}"
