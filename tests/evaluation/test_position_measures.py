"""What is measured of tokens: streamed sums equal the definitions, written out on all at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from positions_data import CONTEXT, VOCABULARY, CachedNet, TokenNet, tokens, with_positions
from tiny import Compose

from kd_research.configuration.config import ConfigError, check_sweep
from kd_research.data.module import DataModule
from kd_research.evaluation import generation, position_sums, positions
from kd_research.evaluation.quality import NUM_RESAMPLES
from kd_research.records.measures import unknown
from kd_research.records.record import SAMPLES_NAME
from kd_research.report.damage import read_samples
from kd_research.trial.run import run


@pytest.fixture
def data() -> DataModule:
    return DataModule("tokens", tokens, VOCABULARY, 7, 0.1, 0.1, 0, 0)


def nets() -> tuple[TokenNet, TokenNet]:
    torch.manual_seed(0)
    return TokenNet(8), TokenNet(16)


def rows(data: DataModule, net: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All valid logits (N, V) in float64, their labels, and which window each is of."""
    with torch.no_grad():
        logits = net(**data.val.inputs).double()  # type: ignore[arg-type]
    valid = data.val.labels >= 0
    windows = torch.arange(len(data.val))[:, None].expand_as(valid)
    return logits[valid], data.val.labels[valid], windows[valid]


def test_measures_equal_their_definitions(
    data: DataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(position_sums, "CHUNK", 50 * VOCABULARY)  # several chunks a batch
    student, teacher = nets()
    object.__setattr__(data.val, "num_bytes", torch.full((len(data.val),), 3 * CONTEXT))
    found = positions.evaluate_positions(
        student, lambda split: lambda batch: teacher(**batch.inputs), data, read_test=False
    ).metrics
    q, labels, _ = rows(data, student)
    p, _, _ = rows(data, teacher)
    log_q, log_p = q.log_softmax(1), p.log_softmax(1)
    nll = -log_q[torch.arange(len(labels)), labels].mean().item()
    agree = p.argmax(1) == q.argmax(1)
    wrong = p.argmax(1) != labels
    expected = {
        "val_nll": nll,
        "val_perplexity": math.exp(nll),
        "val_bits_per_byte": nll * len(labels) / math.log(2) / (3 * CONTEXT * len(data.val)),
        "val_accuracy": (q.argmax(1) == labels).double().mean().item(),
        "teacher_agreement": agree.double().mean().item(),
        "teacher_kl": (log_p.exp() * (log_p - log_q)).sum(1).mean().item(),
        "teacher_reverse_kl": (log_q.exp() * (log_q - log_p)).sum(1).mean().item(),
        "acceptance_rate": torch.minimum(log_p.exp(), log_q.exp()).sum(1).mean().item(),
        "copied_error_share": agree[wrong].double().mean().item(),
        "teacher_val_accuracy": (~wrong).double().mean().item(),
        "teacher_val_nll": -log_p[torch.arange(len(labels)), labels].mean().item(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
        assert unknown(name) is None
    gap = 0.5 * (log_p.exp() - log_q.exp()).abs().sum(1).mean().item()
    assert found["acceptance_rate"] == pytest.approx(1 - gap, rel=1e-6)


def test_no_more_than_a_batch_of_logits_is_held(data: DataModule) -> None:
    class Watched(TokenNet):
        held = 0

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            logits = super().forward(input_ids)
            Watched.held = max(Watched.held, len(logits))
            return logits

    positions.evaluate_positions(Watched(8), None, data, read_test=False)
    assert Watched.held == 7 < len(data.val)


def test_intervals_are_over_windows(data: DataModule) -> None:
    """Of windows that are alike inside and differ from each other: wider than over tokens."""
    sums = position_sums.Sums(200, 2)
    sure = torch.tensor([[4.0, 0.0]])
    for window in range(200):
        label = torch.full((50,), window % 2)
        sums.add(sure.expand(50, -1), None, label, torch.full((50,), window))
    low, high = sums.intervals()["accuracy"]
    deviation = 0.5 / math.sqrt(200)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert high - low > 5 * (2 * 1.96 * 0.5 / math.sqrt(200 * 50))


def test_a_cache_is_measured_as_it_is() -> None:
    net = CachedNet(width=6).eval()
    row = {"input_ids": torch.arange(CONTEXT)[None] % VOCABULARY}
    passes = []
    hook = net.register_forward_pre_hook(
        lambda _, __, given: passes.append(given["input_ids"].shape), with_kwargs=True
    )
    found = generation.speeds(net, row, batch_size=4)
    hook.remove()
    at_once = passes.count(torch.Size((1, CONTEXT)))  # and once for the size of the cache
    assert 5 < at_once <= generation.NUM_PREFILLS + 1, "however fast it is"
    assert found["kv_bytes_per_token"] == 2 * 1 * 2 * 3 * 4  # layers, heads, size, bytes
    for name in generation.SPEEDS[:3]:
        assert found[name] is not None
        assert found[name] > 0
        assert unknown(name) is None
    assert set(generation.speeds(TokenNet(4), row, 4).values()) == {None}
    assert set(generation.speeds(net, torch.zeros(1, 3), 4).values()) == {None}


def test_steps_with_the_cache_equal_the_whole() -> None:
    """That what is timed is decoding: the logits are those of the row at once."""
    torch.manual_seed(0)
    net, row = CachedNet(width=6).eval(), torch.randint(VOCABULARY, (2, 8))
    whole = net(row)
    out = net(row[:, :4], use_cache=True)
    for place in range(4, 8):
        out = net(row[:, place : place + 1], out["past_key_values"], use_cache=True)
        torch.testing.assert_close(out["logits"][:, 0], whole[:, place])


def test_the_same_seed_writes_the_same_text() -> None:
    net = TokenNet(8)
    prompt = torch.randint(VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(0))
    one, again, other = (generation.continued(net, prompt, 20, seed) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (3, 20)


def test_a_run_keeps_samples_and_speeds(tiny: Compose, tmp_path: Path) -> None:
    config = with_positions(tiny, "efficiency.num_runs=5")
    config.student.model = {"_target_": "positions_data.CachedNet", "width": 4}
    record = run(config, tmp_path)
    assert record.status == "completed", record.error
    samples = read_samples(tmp_path)
    assert len(samples) == 3
    for sample in samples:
        assert {len(sample[name] or "") for name in ("prompt", "student", "teacher", "text")} == {6}
    assert record.costs["kv_bytes_per_token"] == 2 * 4 * 4
    assert record.costs["decode_tokens_per_second"]
    assert record.costs["teacher_decode_tokens_per_second"] is None
    with np.load(tmp_path / "predictions.npz") as kept:
        assert kept["val_nll"].shape == kept["val_count"].shape == (24,)
        nll = kept["val_nll"].sum() / kept["val_count"].sum()
    assert nll == pytest.approx(record.metrics["val_nll"])
    (tmp_path / SAMPLES_NAME).write_text('{"samples": [3]}')
    with pytest.raises(ValueError, match=r"samples.json is damaged: it holds no samples"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("val_perplexity", "minimize"),
        ("val_bits_per_byte", "minimize"),
        ("acceptance_rate", "maximize"),
        ("teacher_kl", "minimize"),
        ("prefill_tokens_per_second", "maximize"),
        ("decode_tokens_per_second", "maximize"),
        ("kv_bytes_per_token", "minimize"),
    ],
)
def test_a_sweep_can_have_it_as_an_objective(tiny: Compose, name: str, way: str) -> None:
    config: Any = tiny()
    config.sweep.objectives = {name: way}
    config.sweep.reference_point = {}
    check_sweep(config)
    config.sweep.objectives = {name + "s": way}
    with pytest.raises(ConfigError, match=name):
        check_sweep(config)


def test_perplexity_and_bits_per_byte_have_intervals_over_windows(data: DataModule) -> None:
    student, _ = nets()
    sums = position_sums.Sums(len(data.val), VOCABULARY)
    logits, labels, windows = rows(data, student)
    sums.add(logits, None, labels, windows)
    num_bytes = torch.arange(1, len(data.val) + 1)
    found = sums.intervals(num_bytes)
    assert found["perplexity"] == pytest.approx([math.exp(end) for end in found["nll"]])
    low, high = found["bits_per_byte"]
    value = sums.bits_per_byte(num_bytes)
    assert value is not None
    assert low < value < high
    # By hand: each resample's bits over its own windows' bytes.
    generator = torch.Generator().manual_seed(0)
    nll, ratios = sums.by_example["nll"], []
    for _ in range(NUM_RESAMPLES):
        index = torch.randint(len(nll), (len(nll),), generator=generator)
        ratios.append(float(nll[index].sum() / num_bytes[index].sum()) / math.log(2))
    assert [low, high] == pytest.approx(np.quantile(ratios, [0.025, 0.975]).tolist())
    assert "bits_per_byte" not in sums.intervals(), "no text"
    evaluation = positions.evaluate_positions(student, None, data, read_test=False)
    assert "perplexity" in evaluation.details["val"]["intervals"]


def test_the_teacher_is_measured_as_the_student_is(data: DataModule) -> None:
    student, teacher = nets()

    def teach(name: str) -> positions.Teach:
        return lambda batch: teacher(**batch.inputs)

    found = positions.evaluate_positions(student, teach, data)
    alone = positions.evaluate_positions(teacher, None, data)
    for name in ("val_perplexity", "test_perplexity", "val_nll", "val_accuracy"):
        assert found.metrics[f"teacher_{name}"] == pytest.approx(alone.metrics[name])
        assert unknown(f"teacher_{name}") is None
    share = found.metrics["copied_error_share"]
    low, high = found.details["val"]["intervals"]["copied_error_share"]
    assert share is not None
    assert low < share < high
    assert "copied_errors" not in found.details["val"]["intervals"]
