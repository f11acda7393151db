"""Costs against closed forms, published counts, and a counter that the test winds itself."""

import functools
import sys
import types
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch import nn

from kd_research.evaluation import energy
from kd_research.evaluation.costs import (
    costs_of_pair,
    latencies,
    macs,
    measure,
    measuring,
    model_bytes,
    num_params,
    peak_memory_bytes,
)

PAPERS = Path(__file__).resolve().parents[3] / "shared" / "papers.yaml"
NAMES = {  # conf/model -> the name in papers.yaml; one or two of each family
    **{name: name for name in ("resnet20", "resnet8x4", "wrn_16_2", "vgg8")},
    "mobilenetv2": "MobileNetV2",
    "shufflenetv1": "ShuffleV1",
    "shufflenetv2": "ShuffleV2",
}


def mlp(hidden=100):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def images(size):
    return torch.zeros(size, 1, 8, 8)


def test_an_mlp_has_its_closed_form():
    model = mlp()
    assert num_params(model) == 64 * 100 + 100 + 100 * 10 + 10
    assert macs(model, images(1)) == 64 * 100 + 100 * 10
    weights = 4 * num_params(model)
    assert weights < model_bytes(model) < weights + 4000
    # weights, the input, and the hidden layer before and after its ReLU
    assert peak_memory_bytes(model, images(1)) == weights + 4 * 64 + 2 * 4 * 100


def test_peak_memory_forgets_what_is_dead():
    layers = [nn.Linear(64, 64, bias=False) for _ in range(20)]
    model = nn.Sequential(nn.Flatten(), *layers)
    # Of the chain at most two activations live at once, beside the weights and the input.
    assert peak_memory_bytes(model, images(1)) == 20 * 4 * 64 * 64 + 4 * 64 + 2 * 4 * 64
    in_place = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(inplace=True))
    assert peak_memory_bytes(in_place, images(1)) == 4 * (65 * 100 + 64 + 100)


@functools.cache
def published_sizes():
    text = PAPERS.read_text()
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["model_sizes_cifar100"]


@pytest.mark.parametrize("name", NAMES)
def test_macs_of_the_benchmark_are_the_published_ones(name):
    if not PAPERS.is_file():
        pytest.skip("the published counts are not beside the repository")
    published = published_sizes()[NAMES[name]]
    conf = Path(__file__).resolve().parents[2] / "conf" / "model" / f"{name}.yaml"
    settings = yaml.safe_load(conf.read_text())
    settings |= {"num_classes": 100}
    if "input_shape" in settings:
        settings["input_shape"] = [3, 32, 32]
    with torch.device("meta"):  # shapes are all that counting needs
        model, inputs = instantiate(settings).eval(), torch.zeros(1, 3, 32, 32)
    assert macs(model, inputs) == pytest.approx(published["macs"], rel=0.01)
    assert num_params(model) == published["params"]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True, bidirectional=True)

    def forward(self, inputs):
        return self.lstm(inputs)[0].mean(1)


def test_fused_kernels_are_counted():
    # 10 steps, 2 directions, 4 gates of 16 from 8 + 16
    assert macs(Recurrent().eval(), torch.zeros(1, 10, 8)) == 10 * 2 * 4 * 16 * (8 + 16)
    layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3)).eval()
    model(torch.zeros(1, 6, 8))
    # 6 tokens: q, k, v, o and the two layers of the MLP; scores and mixing; the head
    expected = 6 * (4 * 8 * 8 + 2 * 8 * 32) + 2 * 6 * 6 * 8 + 6 * 8 * 3
    assert macs(model, torch.zeros(1, 6, 8)) == expected


def test_counting_leaves_the_switches_as_they_were():
    before = (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled)
    macs(Recurrent().eval(), torch.zeros(1, 3, 8))
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled) == before


def test_measuring_says_how_and_leaves_the_mode():
    model = mlp().train()
    costs, how = measure(model, images, batch_size=16, num_runs=7)
    assert model.training
    assert 0 < costs["latency_ms"] <= costs["latency_p95_ms"]
    assert costs["batch_latency_ms"] > 0
    assert (how["device"], how["num_runs"], how["batch_size"]) == ("cpu", 7, 16)
    if costs["energy_joules"] is None:
        assert how["energy"].startswith("not measured: ")


def test_a_slow_model_is_not_run_for_ever(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("kd_research.evaluation.costs.time.perf_counter", lambda: next(clock))
    calls = []
    found = latencies(lambda: calls.append(1), 50, torch.device("cpu"))
    assert len(found) == 5  # each pass takes a second of this clock
    assert len(calls) == 5 + 5


def test_ratios_are_teacher_over_student():
    measured = partial(measure, example=images, batch_size=4, num_runs=5)
    costs, _ = costs_of_pair(mlp(10), mlp(1000), measured)
    assert costs["compression_ratio"] == num_params(mlp(1000)) / num_params(mlp(10))
    assert costs["speedup"] == costs["teacher_latency_ms"] / costs["latency_ms"]
    assert costs["teacher_macs"] == 64 * 1000 + 1000 * 10
    alone, _ = costs_of_pair(mlp(10), None, measured)
    assert not any(name.startswith("teacher_") for name in alone)
    assert "speedup" not in alone


def test_one_process_at_a_time_measures(monkeypatch, tmp_path):
    from filelock import FileLock, Timeout

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with measuring():
        (path,) = tmp_path.glob("kd_research*.lock")
        with pytest.raises(Timeout):
            FileLock(path).acquire(timeout=0)
    FileLock(path).acquire(timeout=0)


class Meter:
    """Zeus's monitor on a machine whose processor draws 2 J in the window."""

    def __init__(self, gpu_indices, cpu_indices):
        self.gpu_indices, self.cpu_indices = gpu_indices, [0] if cpu_indices is None else []

    def begin_window(self, key):
        self.key = key

    def end_window(self, key):
        assert key == self.key
        return types.SimpleNamespace(gpu_energy={}, cpu_energy={0: 2.0})


def install_zeus(monkeypatch, meter):
    monitor = types.ModuleType("zeus.monitor")
    monitor.ZeusMonitor = meter
    monkeypatch.setitem(sys.modules, "zeus", types.ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", monitor)
    monkeypatch.setattr(energy, "MIN_SECONDS", 0.01)


def test_energy_is_of_a_thousand_inferences(monkeypatch):
    install_zeus(monkeypatch, Meter)
    calls = []
    joules, source = energy.joules_per_1000(lambda: calls.append(1), torch.device("cpu"))
    assert joules == pytest.approx(1000 * 2.0 / len(calls))
    assert source == f"RAPL counter of the whole package, {len(calls)} inferences"


def test_without_a_counter_there_is_no_energy_but_a_reason(monkeypatch):
    class Blind(Meter):
        def __init__(self, gpu_indices, cpu_indices):
            self.gpu_indices, self.cpu_indices = [], []

    install_zeus(monkeypatch, Blind)
    found = energy.joules_per_1000(lambda: None, torch.device("cpu"))
    assert found == (None, "not measured: no readable energy counter of the cpu")

    def refused(**_):
        raise PermissionError("/sys/class/powercap")

    install_zeus(monkeypatch, refused)
    found = energy.joules_per_1000(lambda: None, torch.device("cpu"))
    assert found == (None, "not measured: PermissionError: /sys/class/powercap")
    monkeypatch.setitem(sys.modules, "zeus.monitor", None)  # as where it is not installed
    assert "Zeus is not installed" in energy.joules_per_1000(lambda: None, torch.device("cpu"))[1]
