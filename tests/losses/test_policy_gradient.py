"""MiniLLM's estimator against the exact gradient: every text of a small vocabulary, enumerated."""

import itertools

import pytest
import torch

from kd_research.interfaces import Batch, Output
from kd_research.losses import policy_gradient
from kd_research.losses.policy_gradient import MiniLLM, after, importance, whitened

V, T = 4, 3
PREFIXES = [p for length in range(T) for p in itertools.product(range(V), repeat=length)]
EVERY = list(itertools.product(range(V), repeat=T))
STOP = 0  # of texts that end: those of EVERY, cut behind the first of these
ENDED = sorted({text[: text.index(STOP) + 1] if STOP in text else text for text in EVERY})


def tables(seed=0):
    """Logits of student and teacher after each prefix, (21, 4) in float64: a complete model."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        1.5 * torch.randn(len(PREFIXES), V, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    return student.requires_grad_(), teacher


def rows_of(text):
    """Where a text's positions are in the tables."""
    return [PREFIXES.index(text[:place]) for place in range(len(text))]


def log_probability(table, text):
    return table.log_softmax(1)[rows_of(text), list(text)].sum()


def gradient(value, leaf):
    return torch.autograd.grad(value, leaf)[0]


def exact_gradient(student, teacher, texts=EVERY):
    """By autograd of sum q(y) (log q(y) - log p(y)) over all 64 texts."""
    total = torch.zeros((), dtype=torch.float64)
    for text in texts:
        log_q = log_probability(student, text)
        total = total + log_q.exp() * (log_q - log_probability(teacher, text))
    return gradient(total, student)


def estimate(loss, student, teacher, text):
    """The loss of one text, as a sum over its positions."""
    rows, valid = rows_of(text), torch.arange(T)[None] < len(text)
    batch = Batch(torch.zeros(1), torch.tensor(text), torch.arange(len(text)), valid)
    return len(text) * loss(Output(student[rows], {}), Output(teacher[rows], {}), batch)


def expected_gradient(loss, student, teacher, share=0.0, exact_weights=False, texts=EVERY):
    """Over all texts, each as probable as the mixture draws it."""
    total = torch.zeros((), dtype=torch.float64)
    for text in texts:
        rows, ids = rows_of(text), list(text)
        q = student.detach().softmax(1)[rows, ids]
        p = teacher.softmax(1)[rows, ids]
        mixed = share * p + (1 - share) * q
        weight = (q / mixed).prod() if exact_weights else 1.0
        total = total + mixed.prod() * weight * estimate(loss, student, teacher, text)
    return gradient(total, student)


PLAIN = MiniLLM(0.0, length_normalise=False, whiten=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_expected_gradient_is_that_of_the_reverse_kl_of_whole_texts(seed):
    student, teacher = tables(seed)
    for texts, num in ((EVERY, 64), (ENDED, 40)):
        assert len(texts) == num
        exact = exact_gradient(student, teacher, texts)
        assert exact.abs().max() > 0.01
        found = expected_gradient(PLAIN, student, teacher, texts=texts)
        assert (found - exact).abs().max() < 1e-12


def test_texts_of_the_mixture_give_it_too_once_they_are_weighed_by_whole_texts():
    student, teacher = tables()
    found = expected_gradient(PLAIN, student, teacher, share=0.2, exact_weights=True)
    exact = exact_gradient(student, teacher)
    assert (found - exact).abs().max() < 1e-12
    unweighed = expected_gradient(PLAIN, student, teacher, share=0.2)
    one_step = MiniLLM(0.2, length_normalise=False, whiten=False)
    paper = expected_gradient(one_step, student, teacher, share=0.2)
    assert (unweighed - exact).norm() > (paper - exact).norm() > 1e-4  # less bias, not none


def test_the_single_step_alone_is_not_the_gradient(monkeypatch):
    """What is missing without A: a proof that this passed would prove nothing."""
    student, teacher = tables()
    monkeypatch.setattr(policy_gradient, "after", lambda rewards, *_: torch.zeros_like(rewards))
    found = expected_gradient(PLAIN, student, teacher)
    assert (found - exact_gradient(student, teacher)).abs().max() > 1e-2


def test_what_follows_a_token_by_hand():
    valid = torch.tensor([[False, True, True, True, False], [False, False, True, False, False]])
    rewards = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    assert after(rewards, valid, mean=False).tolist() == [6.0, 4.0, 0.0, 0.0]
    assert after(rewards, valid, mean=True).tolist() == [3.0, 4.0, 0.0, 0.0]


def test_whitened_over_the_positions_alone():
    values = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)
    assert whitened(values).mean().abs() < 1e-12
    assert whitened(values).square().mean() == pytest.approx(1, abs=1e-6)
    assert whitened(torch.ones(1)).tolist() == [0.0]


def test_the_weight_is_of_the_mixture_that_drew_the_token():
    log_p, log_q = torch.tensor([0.5, 0.1]).log(), torch.tensor([0.25, 0.4]).log()
    expected = [0.25 / (0.2 * 0.5 + 0.8 * 0.25), 0.4 / (0.2 * 0.1 + 0.8 * 0.4)]
    assert importance(log_p, log_q, 0.2).tolist() == pytest.approx(expected, rel=1e-6)
    assert importance(log_p, log_q, 0.0).tolist() == [1.0, 1.0]
    assert importance(torch.tensor([0.0]), torch.tensor([-1000.0]), 0.2).tolist() == [0.0]


def test_rewards_and_weights_take_no_gradient():
    """The value is the weighed single-step divergence, whatever follows."""
    student, teacher = tables()
    for loss in (PLAIN, MiniLLM(0.0), MiniLLM(0.2)):
        text = (1, 3, 0)
        rows = rows_of(text)
        log_p, log_q = teacher.log_softmax(1)[rows], student.detach().log_softmax(1)[rows]
        divergence = (log_q.exp() * (log_q - log_p)).sum(1)
        ids = torch.tensor(text)[:, None]
        q, p = (each.exp().gather(1, ids)[:, 0] for each in (log_q, log_p))
        share = loss.teacher_share
        weight = q / (share * p + (1 - share) * q)
        value = estimate(loss, student, teacher, text).item()
        assert value == pytest.approx((weight * divergence).sum().item(), rel=1e-12)


def test_a_wrong_share_is_told():
    with pytest.raises(ValueError, match=r"teacher_share must be in \[0, 1\), got 1.0"):
        MiniLLM(1.0)
