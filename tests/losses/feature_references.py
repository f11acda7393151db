"""Second implementations of the feature losses, in float64, from the papers' equations.

Like loss_references, they share no code with kd_research but a loss's trained parts (regressors,
embeddings, memories), taken from `setting.loss`, which is in float64 too. Loops, where the losses
have matrix products.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from loss_references import kl, per_example, softmax

from kd_research.losses.contrast import draw_others


def layers(setting, position=None):
    """(student's, teacher's) activations, of each pair or of one."""
    loss = setting.loss
    pairs = [
        (setting.student.features[ours], setting.teacher.features[theirs])
        for ours, theirs in zip(loss.student_layers, loss.teacher_layers, strict=True)
    ]
    return pairs if position is None else pairs[position]


def vector(feature):
    return feature.mean(dim=(2, 3)) if feature.ndim == 4 else feature


def shrink(one, other):
    """Average pooling to the smaller size, by blocks."""
    size = min(one.shape[-1], other.shape[-1])

    def pool(maps):
        block = maps.shape[-1] // size
        return maps.unfold(2, block, block).unfold(3, block, block).mean(dim=(4, 5))

    return pool(one), pool(other)


def unit(rows):
    return rows / rows.square().sum(dim=-1, keepdim=True).sqrt()


def attention(setting):
    total = 0
    for pair in layers(setting):
        maps = shrink(*pair)
        ours, theirs = (unit((m**2).sum(dim=1).flatten(1)) for m in maps)
        total += ((ours - theirs) ** 2).sum() / ours.numel()
    return total


def nst(setting):
    total = 0
    for pair in layers(setting):
        ours, theirs = (unit(m.flatten(2).nan_to_num()).nan_to_num() for m in shrink(*pair))

        def kernel(a, b):
            return torch.einsum("bip,bjp->bij", a, b).pow(2).mean()

        total += kernel(ours, ours) + kernel(theirs, theirs) - 2 * kernel(ours, theirs)
    return total


def fsp(setting):
    loss = setting.loss

    def flow(a, b):
        size = min(a.shape[-1], b.shape[-1])
        a, b = (F.max_pool2d(m, m.shape[-1] // size) for m in (a, b))
        return torch.einsum("bixy,bjxy->bij", a, b) / size**2

    (s0, t0), (s1, t1) = layers(setting)
    s0, s1 = loss.adapters[0](s0), loss.adapters[1](s1)
    return (flow(s0, s1) - flow(t0, t1)).square().mean()


def singular_vectors(setting):
    # one example, one vector at a time, by numpy's singular value decomposition
    loss = setting.loss
    (s0, t0), (s1, t1) = layers(setting)
    maps = [(loss.adapters[0](s0), t0), (loss.adapters[1](s1), t1)]
    total = 0.0
    for row in range(len(s0)):
        vectors = []
        for ours, theirs in maps:
            aim = np.linalg.svd(theirs[row].flatten(1).T.detach().numpy())[2][0]
            aim = aim if aim.sum() >= 0 else -aim
            found = np.linalg.svd(ours[row].flatten(1).T.detach().numpy())[2][:4]
            best = max(found, key=lambda vector: abs(vector @ aim))
            vectors.append((best * np.sign(best @ aim), aim))
        (s_before, t_before), (s_after, t_after) = vectors
        for i in range(len(t_after)):
            for j in range(len(t_before)):
                ours = math.exp(-((s_after[i] - s_before[j]) ** 2) / 8)
                theirs = math.exp(-((t_after[i] - t_before[j]) ** 2) / 8)
                total += (ours - theirs) ** 2
    return total / len(s0)


def cwd(setting):
    ours, theirs = layers(setting, 0)
    ours = setting.loss.adapters[0](ours)
    values = [
        kl(softmax(t, 4.0), softmax(s, 4.0))
        for s, t in zip(
            ours.flatten(2).flatten(0, 1).tolist(),
            theirs.flatten(2).flatten(0, 1).tolist(),
            strict=True,
        )
    ]
    return 16 * sum(values) / len(values)  # rows: batch x channels


def ickd(setting):
    ours, theirs = layers(setting, 0)
    ours = setting.loss.embeddings[0](ours)

    def gram(maps):
        return unit(torch.einsum("bixy,bjxy->bij", maps, maps)).nan_to_num()

    return (gram(ours) - gram(theirs)).square().sum() / (ours.shape[0] * ours.shape[1])


def hint(setting):
    ours, theirs = layers(setting, 0)
    return (setting.loss.regressors[0](ours) - theirs).square().mean()


def vid(setting):
    total = 0
    for regress, scale, pair in zip(
        setting.loss.regressors, setting.loss.scales, layers(setting), strict=True
    ):
        ours, theirs = shrink(*pair)
        variance = (1 + scale.exp()).log() + 1e-5
        mean = regress(ours)
        normal = torch.distributions.Normal(mean, variance.sqrt().expand_as(mean))
        total += -(normal.log_prob(theirs) + 0.5 * math.log(2 * math.pi)).mean()
    return total


def mgd(setting):
    torch.manual_seed(7)
    ours, theirs = layers(setting, 0)
    kept = torch.rand(ours.shape[0], 1, *ours.shape[2:]) >= 0.5
    generated = setting.loss.generators[0](setting.loss.adapters[0](ours) * kept)
    return ((generated - theirs) ** 2).sum() / len(ours)


def srrl(setting):
    ours, theirs = (vector(f) for f in layers(setting, 0))
    connected = setting.loss.connector(ours)
    head = setting.teacher_module.head
    logits = connected @ head.weight.double().T + head.bias.double()
    return (connected - theirs).square().mean() + (logits - setting.teacher.logits).square().mean()


def simkd(setting):
    ours, theirs = layers(setting, 0)
    projector = setting.student_module.pool[0]
    projected = projector(ours.float()).double()
    expected = setting.teacher_module.head(projected.float().mean(dim=(2, 3)))
    assert torch.allclose(expected.double(), setting.student.logits, atol=1e-4)
    return (projected - theirs).square().mean()


def ofd(setting):
    total = 0
    for position, (connect, (ours, theirs)) in enumerate(
        zip(setting.loss.connectors, layers(setting), strict=True)
    ):
        norm = setting.teacher_module.stages[(0, 2)[position]].norm
        samples = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
        weights = torch.exp(-0.5 * samples**2)
        responses = norm.bias.double() + norm.weight.double().abs() * samples[:, None]
        negative = (responses < 0) * weights[:, None]
        margin = (responses * negative).sum(dim=0) / negative.sum(dim=0)
        mapped = connect(ours)
        target = torch.maximum(theirs, margin[:, None, None])
        errors = torch.where((mapped <= target) & (target <= 0), 0.0, (mapped - target) ** 2)
        total += errors.sum() / len(ours) / (2, 1)[position]
    return total


def class_attention(setting):
    def seen(maps, module):
        weight, bias = module.head.weight.double(), module.head.bias.double()
        maps = torch.einsum("bkxy,ck->bcxy", maps, weight) + bias[:, None, None]
        return unit(F.avg_pool2d(maps, maps.shape[-1] // 2).flatten(2))

    ours, theirs = layers(setting, 0)
    ours, theirs = seen(ours, setting.student_module), seen(theirs, setting.teacher_module)
    return (ours - theirs).square().mean()


def one_for_all(setting):
    loss, total = setting.loss, 0.0
    seen = [setting.student.features[name] for name in loss.student_layers]
    given = [head(feature) for head, feature in zip(loss.heads, seen, strict=True)]
    for logits, power in zip([*given, setting.student.logits], loss.powers, strict=True):
        for s, t, y in zip(
            logits.tolist(), setting.teacher.logits.tolist(), setting.batch.labels, strict=True
        ):
            p, q = softmax(t), softmax(s)
            for c, (a, b) in enumerate(zip(p, q, strict=True)):
                target = (a + 1) ** power - 1 if c == y else a**power
                total -= target * math.log(b) / len(logits)
    return total


def factor_transfer(setting):
    loss = setting.loss
    ours, theirs = layers(setting, 0)
    code = loss.encoder(theirs)
    factors = [
        unit((maps**2).sum(dim=1).flatten(1)).nan_to_num()
        for maps in shrink(loss.translator(ours), code)
    ]
    return (factors[0] - factors[1]).abs().sum() / factors[0].numel()


def paraphraser(setting):
    loss, (_, theirs) = setting.loss, layers(setting, 0)
    return ((loss.decoder(loss.encoder(theirs)) - theirs) ** 2).sum() / theirs.numel()


def plain_difference(setting):
    ours, theirs = layers(setting, 0)
    return ((setting.loss.regressor(ours) - theirs) ** 2).sum() / theirs.numel()


def activation_boundaries(setting):
    total = 0
    for position, (connect, (ours, theirs)) in enumerate(
        zip(setting.loss.connectors, layers(setting), strict=True)
    ):
        mapped = connect(ours)
        wrong = torch.zeros_like(mapped)
        low, high = (theirs <= 0) & (mapped > -1), (theirs > 0) & (mapped <= 1)
        wrong[low] = (mapped[low] + 1) ** 2
        wrong[high] = (mapped[high] - 1) ** 2
        total += 3 / 1000 * wrong.sum() / len(ours) * 2 ** (position - 1)
    return total


def prime_aware(setting):
    ours, theirs = layers(setting, 0)
    log_variance = setting.loss.variance(ours)
    squares = (setting.loss.regressor(ours) - theirs) ** 2
    return (squares / (torch.exp(log_variance) + 1e-6) + log_variance).mean()


def reviewkd(setting):
    (s0, t0), (s1, t1) = layers(setting)
    shallow, deep = setting.loss.fusions

    def pyramid(a, b):
        parts, weight = [(1.0, a, b)], 1.0
        for side in (4, 2, 1):
            if side < a.shape[-1]:
                weight /= 2
                block = a.shape[-1] // side
                parts.append((weight, F.avg_pool2d(a, block), F.avg_pool2d(b, block)))
        return sum(w * (x - y).square().mean() for w, x, y in parts) / sum(w for w, _, _ in parts)

    residual = deep.squeeze(s1)
    own = shallow.squeeze(s0)
    factor = own.shape[-1] // residual.shape[-1]
    lifted = residual.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    share = torch.sigmoid(shallow.attention(torch.cat((own, lifted), dim=1)))
    mixed = own * share[:, 0:1] + lifted * share[:, 1:2]
    return pyramid(deep.expand(residual), t1) + pyramid(shallow.expand(mixed), t0)


def sp(setting):
    ours, theirs = (f.flatten(1) for f in layers(setting, 0))
    grams = [unit(f @ f.T) for f in (ours, theirs)]
    return (grams[0] - grams[1]).square().sum() / len(ours) ** 2


def smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def rkd(setting):
    ours, theirs = (vector(f) for f in layers(setting, 0))
    n = len(ours)

    def distances(rows):
        d = [[math.dist(a, b) for b in rows.tolist()] for a in rows.tolist()]
        mean = sum(map(sum, d)) / (n * (n - 1))
        return [value / mean for row in d for value in row]

    def angle(rows, i, j, k):
        a, b = rows[i] - rows[j], rows[k] - rows[j]
        norms = a.norm() * b.norm()
        return 0.0 if norms == 0 else float(a @ b / norms)

    distance = [smooth_l1(a - b) for a, b in zip(distances(ours), distances(theirs), strict=True)]
    angles = [
        smooth_l1(angle(ours, i, j, k) - angle(theirs, i, j, k))
        for i in range(n)
        for j in range(n)
        for k in range(n)
    ]
    return 25 * sum(distance) / len(distance) + 50 * sum(angles) / len(angles)


def pkt(setting):
    def conditional(rows):
        cosines = [[float((a @ b / (a.norm() * b.norm()) + 1) / 2) for b in rows] for a in rows]
        return [[value / sum(row) for value in row] for row in cosines]

    ours, theirs = (conditional(vector(f)) for f in layers(setting, 0))
    return sum(kl(t, s) for s, t in zip(ours, theirs, strict=True)) / len(ours) ** 2


def cc(setting):
    ours, theirs = (unit(vector(f)) for f in layers(setting, 0))

    def gram(rows):
        x = rows @ rows.T
        return math.exp(-0.8) * (1 + 0.8 * x + 0.32 * x * x)

    return (gram(ours) - gram(theirs)).square().mean()


def itrd(setting):
    ours, theirs = (vector(f) for f in layers(setting, 0))
    ours = setting.loss.embedding(ours)
    eps = 1e-5

    def scores(rows):
        return (rows - rows.mean(dim=0)) / (rows.var(dim=0, unbiased=False) + eps).sqrt()

    correlation = (scores(ours) * scores(theirs)).mean(dim=0)
    first = math.log2(float(((1 - correlation).abs() ** 3).sum()) + 1e-5)
    student, teacher = (unit(rows) @ unit(rows).T for rows in (ours, theirs))
    joint = student * teacher
    second = ((student / student.trace()) ** 2).sum() - ((joint / joint.trace()) ** 2).sum()
    return 2 * first + second


def srd(setting):
    ours, theirs = (vector(f) for f in layers(setting, 0))
    ours = setting.loss.projector(ours)

    def scores(rows):
        return (rows - rows.mean(dim=0)) / (rows.var(dim=0, unbiased=False) + 1e-5).sqrt()

    distance = math.log(float(((scores(ours) - scores(theirs)) ** 4).sum()) + 1e-5)
    return 2 * distance + soft_targets(setting)


@per_example
def soft_targets(s, t, y, loss):
    return kl(softmax(t), softmax(s))


def crd(setting):
    """The first batch: its mean score makes the constants, and no label is known yet."""
    loss, batch = setting.loss, setting.batch
    ours, theirs = (vector(f) for f in layers(setting, 0))
    ours, theirs = unit(loss.embed_student(ours)), unit(loss.embed_teacher(theirs))
    n, k = len(loss.student_memory), loss.num_negatives
    negatives = draw_others(batch.index, k, n, torch.tensor(0)).tolist()
    total = 0.0
    for anchors, memory in ((ours, loss.teacher_memory), (theirs, loss.student_memory)):
        scores = [
            [math.exp(float(a @ memory[j]) / loss.temperature) for j in (int(i), *row)]
            for a, i, row in zip(anchors, batch.index, negatives, strict=True)
        ]
        z = n * sum(map(sum, scores)) / (len(scores) * (k + 1))
        for row in scores:
            h = [value / z / (value / z + k / n) for value in row]
            total -= math.log(h[0]) + sum(math.log(1 - value) for value in h[1:])
    return total / len(batch.labels)


def dml(setting):
    peer = setting.loss.peer(setting.batch.inputs.double()).tolist()
    rows = zip(setting.student.logits.tolist(), peer, setting.batch.labels.tolist(), strict=True)
    values = [
        kl(softmax(p), softmax(s)) + kl(softmax(s), softmax(p)) - math.log(softmax(p)[y])
        for s, p, y in rows
    ]
    return sum(values) / len(values)


def embeddings(setting, who):
    """Of images and of their views: head, features of each; the logits of the views beside."""
    net, head, own = {
        "student": (setting.student_module, setting.loss.student_head, setting.student),
        "teacher": (setting.teacher_module, setting.loss.teacher_head, setting.teacher),
    }[who]
    views = [
        torch.from_numpy(np.rot90(image.numpy(), turns, (1, 2)).copy())
        for image in setting.batch.inputs
        for turns in (1, 2, 3)
    ]
    kept = []
    handle = net.pool.register_forward_hook(lambda *given: kept.append(given[2].double()))
    logits = net(torch.stack(views)).double()
    handle.remove()
    return head(own.features["pool"]), head(kept[0]), logits


def cosines(images, views):
    return [[float(a @ b / (a.norm() * b.norm())) for b in images] for a in views]


def view_of_an_image(setting):
    images, views, _ = embeddings(setting, "teacher")
    rows = cosines(images, views)
    return -sum(math.log(softmax(row, 1)[k // 3]) for k, row in enumerate(rows)) / len(rows)


def of_the_best(student, teacher, right, temperature, share):
    """T^2 KL over the rows that are right, and the best of the others, ranked as in section 3.3."""
    ranks = [sorted(row, reverse=True).index(row[y]) for row, y in zip(teacher, right, strict=True)]
    order = sorted(range(len(ranks)), key=lambda k: (ranks[k], -softmax(teacher[k], 1)[right[k]]))
    wrong = sum(rank > 0 for rank in ranks)
    chosen = order[: len(ranks) - wrong + int(share * wrong)]
    parts = [kl(softmax(teacher[k], temperature), softmax(student[k], temperature)) for k in chosen]
    return temperature**2 * sum(parts) / len(parts)


def self_supervised(setting):
    labels = setting.batch.labels.tolist()
    ours, theirs = embeddings(setting, "student"), embeddings(setting, "teacher")
    per_view = [y for y in labels for _ in range(3)]
    right = [k // 3 for k in range(len(per_view))]
    images = of_the_best(
        setting.student.logits.tolist(), setting.teacher.logits.tolist(), labels, 4, 1
    )
    views = of_the_best(ours[2].tolist(), theirs[2].tolist(), per_view, 4, 1)
    similar = of_the_best(cosines(*ours[:2]), cosines(*theirs[:2]), right, 0.5, 0.75)
    return 0.9 * images + 2.7 * views + 10 * similar
