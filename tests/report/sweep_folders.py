"""Sweep folders as the sweeper and its trials write them, without training anything."""

import json
import math
import random
from pathlib import Path

import yaml

from kd_research.records.record import RunRecord, write_json, write_record, write_text

OBJECTIVES = {"val_accuracy": "maximize", "num_params": "minimize"}


def make_record(params, seed, rng, weight=None):
    """A plausible completed record of a digits student; seconds and accuracies from `rng`."""
    width, depth = params["student.model.width"], params["student.model.depth"]
    num_params = 64 * width + width + (depth - 1) * (width * width + width) + 10 * width + 10
    kd_weight = params["loss.lambda"] if weight is None else weight
    temperature = params["loss.temperature"]
    logit = 0.9 + 0.45 * math.log(num_params / 500) + 0.5 * kd_weight
    logit -= 0.3 * abs(math.log(temperature / 4)) * kd_weight
    accuracy = round(360 / (1 + math.exp(-logit - rng.gauss(0, 0.08)))) / 360
    loss = {"temperature": temperature, "lambda": kd_weight, "ce_weight": 1 - kd_weight}
    loss["terms"] = {"kd": {"loss": {"_target_": "kd_research.losses.logits.KD"}}}
    loss["terms"]["kd"]["weight"] = kd_weight
    return RunRecord(
        status="completed",
        config={"seed": seed, "loss": loss, "student": {"model": {"width": width, "depth": depth}}},
        seed=seed,
        metrics={
            "val_accuracy": accuracy,
            "val_nll": 1.1 * (1 - accuracy) / 0.3,
            "val_ece": 0.02 + 0.05 * rng.random(),
            "teacher_agreement": min(1.0, accuracy + 0.01 * rng.random()),
            "teacher_val_accuracy": 0.9861111,
            "accuracy_retention": accuracy / 0.9861111,
            "test_accuracy": max(0.0, accuracy - 0.02 * rng.random()),
        },
        costs={
            "num_params": num_params,
            "model_bytes": 4 * num_params,
            "macs": num_params - 10,
            "latency_ms": 0.03 + num_params / 1e6 + 0.005 * rng.random(),
            "peak_memory_bytes": None,
            "teacher_num_params": 85002,
            "teacher_latency_ms": 0.11,
        },
        selection={"epoch": 18, "by": "val_accuracy"},
        provenance={"command": "python -m kd_research.trial"},
    )


def write_curves(folder, record, rng):
    final = record.metrics["val_accuracy"]
    rows = []
    for epoch in range(20):
        accuracy = final * (1 - 0.6 * math.exp(-epoch / 4)) + 0.003 * rng.gauss(0, 1)
        rows.append({"epoch": epoch, "train_loss": 2.3 * math.exp(-epoch / 6) + 0.1})
        rows.append({"epoch": epoch, "val_accuracy": accuracy, "val_nll": 1.5 - accuracy})
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def write_evaluation(folder, record, rng):
    """Reliability bins as an over-confident student and a calibrated teacher have them."""

    def bins(overconfidence):
        middles = [(k + 0.5) / 15 for k in range(15)]
        accuracy = [max(0.0, c - overconfidence + 0.02 * rng.gauss(0, 1)) for c in middles]
        count = [1 + int(120 * c**4) for c in middles]
        return {"confidence": middles, "accuracy": accuracy, "count": count}

    accuracy = record.metrics["val_accuracy"]
    found = {"reliability": bins(0.1), "teacher_reliability": bins(0.0)}
    found["intervals"] = {"accuracy": [accuracy - 0.02, min(1.0, accuracy + 0.02)]}
    found = {"val": found}
    write_json(folder / "evaluation.json", found)


def propose(rng, number):
    return {
        "loss.temperature": round(math.exp(rng.uniform(0, 3)), 3),
        "loss.lambda": 0.0 if number % 9 == 4 else round(rng.random(), 3),
        "student.model.width": rng.choice([4, 8, 16, 32, 64]),
        "student.model.depth": rng.randint(1, 3),
    }


def make_sweep(directory: Path, num_trials=24, seeds=1, random_seed=0, objectives=None) -> Path:
    """`num_trials` trials: number 3 failed, number 7 pruned, the last still running."""
    rng = random.Random(random_seed)
    spec = {
        "name": directory.name,
        "objectives": objectives or OBJECTIVES,
        "reference_point": {"val_accuracy": 0.0, "num_params": 20000},
        "space": {"loss.temperature": "tag(log, interval(1,20))", "loss.lambda": "interval(0,1)"},
        "n_trials": num_trials,
        "seeds": seeds,
        "command": f"python -m kd_research.run -m sweep.name={directory.name}",
    }
    write_text(directory / "sweep.yaml", yaml.safe_dump(spec, sort_keys=False))
    for number in range(num_trials):
        trial = directory / "trials" / f"{number:04d}"
        params = propose(rng, number)
        write_json(trial / "proposal.json", {"number": number, "params": params})
        for seed in range(seeds):
            folder = trial / f"seed-{seed}" if seeds > 1 else trial
            record = make_record(params, seed, rng)
            if number == 3:
                reason = "RuntimeError: out of memory\n while <building> the student"
                record = RunRecord("failed", record.config, seed, error=reason)
            elif number == 7:
                record = RunRecord("pruned", record.config, seed, metrics={"val_accuracy": 0.2})
            if number == num_trials - 1 and (seed == seeds - 1):
                folder.mkdir(exist_ok=True)
                write_text(folder / "metrics.jsonl", '{"epoch": 0, "train_loss": 2.1}\n{"epo')
                continue
            write_record(record, folder)
            if record.status == "completed":
                write_curves(folder, record, rng)
                write_evaluation(folder, record, rng)
    return directory
