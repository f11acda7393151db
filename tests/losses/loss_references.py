"""Second implementations, from the papers' equations, in float64 and example by example.

Each takes a `Setting` (the outputs in float64, the labels, the loss for its options and parts) and
gives the unweighted term. They share no code with kd_research.
"""

import math

import torch


def softmax(z, temperature=1.0):
    e = [math.exp((v - max(z)) / temperature) for v in z]
    return [v / sum(e) for v in e]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def per_example(rule):
    """The mean over examples of rule(student row, teacher row, label, loss), as lists of floats."""

    def reference(setting):
        rows = zip(
            setting.student.logits.tolist(),
            setting.teacher.logits.tolist(),
            setting.batch.labels.tolist(),
            strict=True,
        )
        values = [rule(s, t, y, setting.loss) for s, t, y in rows]
        return sum(values) / len(values)

    return reference


@per_example
def soft_target(s, t, y, loss):
    return loss.temperature**2 * kl(softmax(t, loss.temperature), softmax(s, loss.temperature))


@per_example
def logit_mse(s, t, y, loss):
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)


@per_example
def prob_mse(s, t, y, loss):
    return sum((a - b) ** 2 for a, b in zip(softmax(s), softmax(t), strict=True))


def weight_norm(setting):
    squares = [w.double().square().sum().item() for w in setting.student_module.parameters()]
    return math.sqrt(sum(squares))


@per_example
def label_smoothing(s, t, y, loss):
    target = [loss.smoothing / len(s)] * len(s)
    target[y] += 1 - loss.smoothing
    return -sum(a * math.log(b) for a, b in zip(target, softmax(s), strict=True))


@per_example
def virtual_teacher(s, t, y, loss):
    u = [(1 - 0.99) / (len(s) - 1)] * len(s)
    u[y] = 0.99
    return kl(softmax(u, loss.temperature), softmax(s))


def others(row, y):
    return [v for c, v in enumerate(row) if c != y]


@per_example
def dkd(s, t, y, loss):
    temperature = loss.temperature
    ps, pt = softmax(s, temperature), softmax(t, temperature)
    target = kl([pt[y], 1 - pt[y]], [ps[y], 1 - ps[y]])
    non_target = kl(softmax(others(t, y), temperature), softmax(others(s, y), temperature))
    return temperature**2 * (1.0 * target + 8.0 * non_target)


@per_example
def nkd(s, t, y, loss):
    temperature = loss.temperature
    first = -softmax(t)[y] * math.log(softmax(s)[y])
    qs, qt = softmax(others(s, y), temperature), softmax(others(t, y), temperature)
    return first - 1.5 * temperature**2 * sum(b * math.log(a) for a, b in zip(qs, qt, strict=True))


@per_example
def wsld(s, t, y, loss):
    temperature = loss.temperature
    ps, pt = softmax(s, temperature), softmax(t, temperature)
    weight = 1 - math.exp(-math.log(softmax(s)[y]) / math.log(softmax(t)[y]))
    return -(temperature**2) * weight * sum(b * math.log(a) for a, b in zip(ps, pt, strict=True))


@per_example
def rld(s, t, y, loss):
    ps, pt = softmax(s, 4.0), softmax(t, 4.0)
    confidence = 16 * kl([max(pt), 1 - max(pt)], [ps[y], 1 - ps[y]])
    below = [c for c in range(len(t)) if t[c] < t[y]]
    masked = 0.0
    if below:
        masked = 16 * kl(softmax([t[c] for c in below], 4.0), softmax([s[c] for c in below], 4.0))
    return confidence + 8.0 * masked


def standard_scores(row, correction=1):
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / (len(row) - correction))
    return [(v - mean) / deviation for v in row]


@per_example
def lskd(s, t, y, loss):
    return 2.0**2 * kl(softmax(standard_scores(t), 2.0), softmax(standard_scores(s), 2.0))


@per_example
def dkd_lskd(s, t, y, loss):
    s, t = standard_scores(s), standard_scores(t)
    ps, pt = softmax(s, 2.0), softmax(t, 2.0)
    target = kl([pt[y], 1 - pt[y]], [ps[y], 1 - ps[y]])
    non_target = kl(softmax(others(t, y), 2.0), softmax(others(s, y), 2.0))
    return 4.0 * (target + 8.0 * non_target)


@per_example
def spherical(s, t, y, loss):
    s, t = ([2.0 * v for v in standard_scores(row, correction=0)] for row in (s, t))
    return kl(softmax(t), softmax(s))


@per_example
def ttm(s, t, y, loss):
    powers = [p**0.1 for p in softmax(t)]
    return kl([p / sum(powers) for p in powers], softmax(s))


@per_example
def wttm(s, t, y, loss):
    powers = [p**0.1 for p in softmax(t)]
    return sum(powers) * kl([p / sum(powers) for p in powers], softmax(s))


@per_example
def ctkd(s, t, y, loss):
    temperature = 1 + 20 / (1 + math.exp(-loss.theta.item()))
    return temperature**2 * kl(softmax(t, temperature), softmax(s, temperature))


@per_example
def annealed(s, t, y, loss):
    factor = 1 - (10 - 1) / 10  # the first epoch: T = T_max
    return sum((a - factor * b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)


def dist(setting):
    student = torch.tensor([softmax(row, 4.0) for row in setting.student.logits.tolist()])
    teacher = torch.tensor([softmax(row, 4.0) for row in setting.teacher.logits.tolist()])

    def distance(a, b):
        return sum(
            1 - torch.corrcoef(torch.stack(pair).double())[0, 1].item()
            for pair in zip(a, b, strict=True)
        ) / len(a)

    return 16 * (2.0 * distance(student, teacher) + 2.0 * distance(student.T, teacher.T))


def multi_level(setting):
    student, teacher = setting.student.logits.tolist(), setting.teacher.logits.tolist()
    size, classes, total = len(student), len(student[0]), 0.0
    for temperature in (2, 3, 4, 5, 6):
        s = [softmax(row, temperature) for row in student]
        t = [softmax(row, temperature) for row in teacher]
        total += temperature**2 * sum(kl(b, a) for a, b in zip(s, t, strict=True)) / size

        def products(rows):
            return [
                [sum(a * b for a, b in zip(one, two, strict=True)) for two in rows] for one in rows
            ]

        for over in (lambda rows: rows, lambda rows: list(zip(*rows, strict=True))):
            ours, theirs = products(over(s)), products(over(t))
            total += sum(
                (a - b) ** 2
                for one, two in zip(ours, theirs, strict=True)
                for a, b in zip(one, two, strict=True)
            ) / (size if len(ours) == size and over(s) is s else classes)
    return total


def scaled(rule):
    """T^2 times rule(p, q, loss) of the softened distributions, as lists of floats."""

    @per_example
    def reference(s, t, y, loss):
        p, q = softmax(t, loss.temperature), softmax(s, loss.temperature)
        return loss.temperature**2 * rule(p, q, loss)

    return reference


def mixture(p, q, weight):
    return [weight * a + (1 - weight) * b for a, b in zip(p, q, strict=True)]


@scaled
def reverse_kl(p, q, loss):
    return kl(q, p)


@per_example
def uld(s, t, y, loss):
    pairs = zip(sorted(softmax(s)), sorted(softmax(t)), strict=True)
    return sum(abs(a - b) for a, b in pairs)


@per_example
def minillm(s, t, y, loss):
    """Of texts of one token, after which nothing comes."""
    q, p = softmax(s), softmax(t)
    mixed = loss.teacher_share * p[y] + (1 - loss.teacher_share) * q[y]
    return q[y] / mixed * kl(q, p)


@scaled
def jensen_shannon(p, q, loss):
    beta, m = loss.beta, mixture(p, q, loss.beta)
    return (beta * kl(p, m) + (1 - beta) * kl(q, m)) / (beta * (1 - beta))


@scaled
def skew_kl(p, q, loss):
    return kl(p, mixture(p, q, loss.alpha))


@scaled
def skew_reverse_kl(p, q, loss):
    return kl(q, mixture(p, q, 1 - loss.alpha))


@scaled
def total_variation(p, q, loss):
    return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


@scaled
def adaptive_kl(p, q, loss):
    head, tail, mass = 0.0, 0.0, 0.0
    for rank, (a, b) in enumerate(sorted(zip(p, q, strict=True), reverse=True)):
        mass += a
        if rank == 0 or mass <= 0.5:
            head += abs(a - b)
        else:
            tail += abs(a - b)
    return (head * kl(p, q) + tail * kl(q, p)) / (head + tail)


@scaled
def alpha_beta(p, q, loss):
    a, b = loss.alpha, loss.beta
    terms = [
        x**a * y**b - a / (a + b) * x ** (a + b) - b / (a + b) * y ** (a + b)
        for x, y in zip(p, q, strict=True)
    ]
    return -sum(terms) / (a * b)
