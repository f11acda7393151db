"""Divergences by hand, at their limits, where logits are extreme, and against other libraries."""

import ast
import importlib.util
import math
import typing
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from loss_references import kl as kl_of_lists

from kd_research.interfaces import Batch, Output
from kd_research.losses import divergences
from kd_research.losses.logits import SoftTarget

BATCH = Batch(torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.zeros(1))
EVERY = {
    "fkl": SoftTarget(1.0),
    "rkl": divergences.ReverseKL(1.0),
    "jsd": divergences.JensenShannon(1.0, 0.3),
    "skl": divergences.SkewKL(1.0, 0.1),
    "srkl": divergences.SkewReverseKL(1.0, 0.1),
    "tvd": divergences.TotalVariation(1.0),
    "akl": divergences.AdaptiveKL(1.0),
    "alpha_beta": divergences.AlphaBeta(1.0, 0.2, 0.7),
}


def value(loss, student, teacher):
    return loss(Output(student, {}), Output(teacher, {}), BATCH)


def with_gradient(loss, student, teacher):
    leaf = student.detach().requires_grad_()
    found = value(loss, leaf, teacher)
    found.backward()
    return found.detach(), leaf.grad


def random_logits(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(2)]


# p = (3/4, 1/4), q = (1/2, 1/2); written out by hand.
P, Q = [0.75, 0.25], [0.5, 0.5]
M = [0.625, 0.375]
BY_HAND = [
    (SoftTarget(1.0), 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
    (divergences.ReverseKL(1.0), 0.5 * math.log(2 / 3) + 0.5 * math.log(2)),
    (divergences.JensenShannon(1.0, 0.5), 2 * (kl_of_lists(P, M) + kl_of_lists(Q, M))),
    (
        divergences.JensenShannon(1.0, 0.5, normalise=False),
        0.5 * (kl_of_lists(P, M) + kl_of_lists(Q, M)),
    ),
    (divergences.SkewKL(1.0, 0.1), kl_of_lists(P, [0.525, 0.475])),
    (divergences.SkewReverseKL(1.0, 0.1), kl_of_lists(Q, [0.725, 0.275])),
    (divergences.TotalVariation(1.0), 0.25),
    (divergences.AdaptiveKL(1.0), 0.5 * kl_of_lists(P, Q) + 0.5 * kl_of_lists(Q, P)),
    (
        divergences.AlphaBeta(1.0, 0.5, 0.5),
        2 * sum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in zip(P, Q, strict=True)),
    ),
]


@pytest.mark.parametrize(("loss", "expected"), BY_HAND, ids=lambda v: type(v).__name__)
def test_by_hand(loss, expected):
    teacher = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    found = value(loss, torch.zeros(1, 2, dtype=torch.float64), teacher)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_gradient_is_the_difference_quotient(name):
    student, teacher = random_logits(3, 6)
    leaf = student.requires_grad_()
    if name == "akl":  # its weight is constant for the gradient
        loss = EVERY[name]
        log_p, log_q = divergences.distributions(student, teacher, 1.0)
        share = loss._share(log_p, log_q.detach())

        class Fixed(divergences._Divergence):
            def rows(self, log_p, log_q):
                forward, reverse = divergences.kl(log_p, log_q), divergences.kl(log_q, log_p)
                return share * forward + (1 - share) * reverse

        loss = Fixed(1.0)
        assert torch.equal(
            with_gradient(EVERY[name], student, teacher)[1],
            with_gradient(loss, student, teacher)[1],
        )
    else:
        loss = EVERY[name]
    assert torch.autograd.gradcheck(lambda s: value(loss, s, teacher), (leaf,), atol=1e-7)


def limit_pairs():
    fkl, rkl = SoftTarget(1.0), divergences.ReverseKL(1.0)
    jsd, ab = divergences.JensenShannon, divergences.AlphaBeta
    yield "jsd, beta to 0", lambda e: jsd(1.0, e), fkl
    yield "jsd, beta to 1", lambda e: jsd(1.0, 1 - e), rkl
    yield "skl, alpha to 0", lambda e: divergences.SkewKL(1.0, e), fkl
    yield "srkl, alpha to 0", lambda e: divergences.SkewReverseKL(1.0, e), rkl
    yield "alpha_beta to (1, 0)", lambda e: ab(1.0, 1.0, e), fkl
    yield "alpha_beta to (0, 1)", lambda e: ab(1.0, e, 1.0), rkl


@pytest.mark.parametrize(("make", "limit"), [(m, x) for _, m, x in limit_pairs()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_limits(make, limit, dtype):
    student, teacher = (logits / 2 for logits in random_logits(5, 7, dtype=dtype))
    expected, gradient = with_gradient(limit, student, teacher)
    rounding = 1e-12 if dtype == torch.float64 else 2e-5
    for small in (1e-4, 1e-6, 1e-9, 0.0):  # in float32 too: nothing cancels
        found, its = with_gradient(make(small), student, teacher)
        least = 100 * small + rounding
        assert found.item() == pytest.approx(expected.item(), rel=least)
        assert (its - gradient).abs().max() <= least * gradient.abs().max() + rounding


def test_the_unnormalised_jsd_vanishes_at_the_ends():
    student, teacher = random_logits(5, 7)
    small = value(divergences.JensenShannon(1.0, 1e-6, normalise=False), student, teacher)
    assert small.item() < 1e-5


@pytest.mark.parametrize("name", EVERY)
def test_masked_vocabularies_and_huge_logits(name):
    student, teacher = random_logits(4, 9, dtype=torch.float32)
    expected, gradient = with_gradient(EVERY[name], student[:, :6], teacher[:, :6])
    masked_student, masked_teacher = student.clone(), teacher.clone()
    masked_student[:, 6:8], masked_teacher[:, 7:] = -math.inf, -math.inf  # one, both, the other
    found, its = with_gradient(EVERY[name], masked_student, masked_teacher)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(its[:, :6], gradient)
    assert not its[:, 6:].any()
    for sign in (1, -1):
        huge, its = with_gradient(EVERY[name], sign * 1e4 * student, -1e4 * teacher)
        assert math.isfinite(huge.item())
        assert its.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_it_is_never_negative_and_0_for_equal_bfloat16_logits(name):
    student, teacher = random_logits(64, 512, dtype=torch.float32)
    student = student.bfloat16()
    assert abs(value(EVERY[name], student, student).item()) < 1e-6
    assert value(EVERY[name], student, teacher.bfloat16()).item() > 0
    near = student + 0.01 * teacher
    assert value(EVERY[name], near, student).item() >= -1e-7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: divergences.JensenShannon(1.0, 1.5), r"in \[0, 1\], got 1.5; try loss.beta=0.5"),
        (lambda: divergences.SkewKL(1.0, 1.0), r"in \[0, 1\), got 1.0; try loss.alpha=0.1"),
        (lambda: divergences.AdaptiveKL(1.0, 0.0), "try loss.head=0.5"),
        (lambda: divergences.AlphaBeta(1.0, 0.0, 0.0), "not both 0, got 0.0 and 0.0"),
        (lambda: divergences.ReverseKL(0.0), "temperature must be > 0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def source_of(package, path):
    """A file of an installed library, without importing the library and all that it wants."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed: pip install --no-deps {package}")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.exists():
        pytest.skip(f"this version of {package} has no {path}")
    return file.read_text()


def definition(source, name):
    """One function or class out of a module's source, made alone."""
    nodes = [node for node in ast.walk(ast.parse(source)) if getattr(node, "name", "") == name]
    node = nodes[0]
    node.decorator_list = []
    scope = {"torch": torch, "F": F, "List": typing.List}  # noqa: UP006
    exec(compile(ast.Module([node], []), name, "exec"), scope)
    return scope[name]


def peers_logits(dtype):
    student, teacher = random_logits(4, 64, 512, dtype=dtype)
    return student, teacher


def flat(loss, student, teacher):
    leaf = student.detach().requires_grad_()
    found = value(loss, leaf.flatten(0, 1), teacher.flatten(0, 1))
    found.backward()
    return found, leaf.grad


def gradient_error(ours, theirs):
    """As a share of the largest gradient."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_trl(beta, temperature):
    theirs = definition(source_of("trl", "experimental/gkd/gkd_trainer.py"), "generalized_jsd_loss")
    student, teacher = peers_logits(torch.float64)
    leaf = student.detach().requires_grad_()
    labels = torch.zeros(4, 64, dtype=torch.int64)
    found = theirs(leaf, teacher, labels=labels, beta=beta, temperature=temperature)
    found = found * temperature**2  # which TRL leaves out
    found.backward()
    loss = divergences.JensenShannon(temperature, beta, normalise=False)
    ours, gradient = flat(loss, student, teacher)
    assert ours.item() == pytest.approx(found.item(), rel=1e-6, abs=1e-7)
    assert gradient_error(gradient, leaf.grad) <= 1e-6


@pytest.mark.parametrize("name", ["ForwardKLLoss", "ReverseKLLoss"])
def test_equals_torchtune(name):
    """Whose forward KL leaves out the teacher's entropy, a constant."""
    theirs = definition(source_of("torchtune", "modules/loss/kd_losses.py"), name)()
    student, teacher = peers_logits(torch.float32)  # which it computes in, whatever it gets
    leaf = student.detach().requires_grad_()
    found = theirs(leaf.flatten(0, 1), teacher.flatten(0, 1), torch.zeros(256, dtype=torch.int64))
    found.backward()
    if name == "ForwardKLLoss":
        log_p = teacher.flatten(0, 1).double().log_softmax(1)
        found = found.double() + (log_p.exp() * log_p).sum(1).mean()
    loss = SoftTarget(1.0) if name == "ForwardKLLoss" else divergences.ReverseKL(1.0)
    ours, gradient = flat(loss, student, teacher)
    assert ours.item() == pytest.approx(found.item(), rel=1e-6, abs=1e-7)
    assert gradient_error(gradient, leaf.grad) <= 1e-6
