"""Two processes give the gradient of one, for every loss."""

import copy

import torch
import torch.distributed as dist
from loss_cases import CASES, make_setting
from torch import multiprocessing, nn

from kd_research.configuration.config import register_resolvers

NAMES = [name for name in sorted(CASES) if not CASES[name].random]
SPLIT = (slice(0, 4), slice(4, 6))  # uneven, as a last batch may be
STATIC = (nn.modules.batchnorm._BatchNorm,)


def prepared(name):
    """A setting whose loss has seen a batch, with fixed statistics: those are per process."""
    setting = make_setting(name)
    setting.value()  # the constants of crd come from the first batch
    setting.student_module.eval()
    for module in setting.objective.modules():
        if isinstance(module, STATIC):
            module.eval()
    return setting


def gradients(setting):
    setting.fresh()
    setting.value()[0].backward()
    return [p.grad for _, p in setting.learning() if p.requires_grad]


def alone():
    """Every setting, and what one process makes of the whole batch."""
    expected, settings = {}, {}
    for name in NAMES:
        settings[name] = prepared(name)
        state = copy.deepcopy(settings[name].objective.state_dict())
        whole = settings[name].part(slice(6))
        expected[name] = [g.clone() for g in gradients(whole)]
        after = copy.deepcopy(whole.objective.state_dict())
        whole.objective.load_state_dict(state)
        expected[name] += [value for value in after.values() if value.is_floating_point()]
    return expected, settings


def work(rank, folder, expected, settings):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    wrong = []
    for name in NAMES:
        part = settings[name].part(SPLIT[rank])
        share = 2 * len(part.batch.labels) / 6  # as Distiller weighs a process's loss
        found = []
        for gradient in gradients(part):
            gradient *= share / 2
            dist.all_reduce(gradient)
            found.append(gradient)
        found += [v for v in part.objective.state_dict().values() if v.is_floating_point()]
        least = 1e-2 * max(gradient.abs().max() for gradient in expected[name])
        for one, other in zip(found, expected[name], strict=True):
            size = other.abs().max().clamp_min(least)  # some gradients are 0 but for rounding
            if (one - other).abs().max() > 2e-4 * size:
                wrong.append(f"{name}: {(one - other).abs().max() / size:.1e}")
                break
    dist.barrier()
    dist.destroy_process_group()
    (folder / f"wrong-{rank}").write_text("\n".join(wrong))


def test_two_processes_give_the_gradient_of_one(tmp_path):
    register_resolvers()
    arguments = (tmp_path, *alone())
    multiprocessing.start_processes(work, args=arguments, nprocs=2, start_method="fork")
    assert (tmp_path / "wrong-0").read_text() == ""
    assert (tmp_path / "wrong-1").read_text() == ""
