"""What a soft tree minimises, node by node and leaf by leaf, from the tree's own parameters.

The inner nodes are walked from the root by Frosst and Hinton's equations in float64: nothing is
taken from the tree's forward pass, nor from how the loss reads a tree.
"""

import math

import torch


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def softmax(row):
    e = [math.exp(v - max(row)) for v in row]
    return [v / sum(e) for v in e]


def nodes_of(tree, example):
    """(depth, P^i(x), p_i(x)) of every inner node, level by level, and P^l(x) of every leaf."""
    weights, biases = (parameter.double().tolist() for parameter in tree.pool.filters.parameters())
    x = example.double().flatten().tolist()
    inner, level, depth = [], [1.0], 0
    while len(inner) < len(weights):
        below = []
        for path in level:
            w, b = weights[len(inner)], biases[len(inner)]
            activation = sum(a * c for a, c in zip(x, w, strict=True)) + b
            right = sigmoid(tree.pool.inverse_temperature * activation)
            inner.append((depth, path, right))
            below += [path * (1 - right), path * right]
        level, depth = below, depth + 1
    return inner, level


def cross_entropy(tree, example, target):
    _, paths = nodes_of(tree, example)
    leaves = [softmax(row) for row in tree.head.leaf_logits.double().tolist()]
    return -sum(
        path * sum(t * math.log(q) for t, q in zip(target, leaf, strict=True))
        for path, leaf in zip(paths, leaves, strict=True)
    )


def labels(setting):
    classes, tree = setting.student.logits.shape[1], setting.student_module
    values = [
        cross_entropy(tree, example, [float(k == y) for k in range(classes)])
        for example, y in zip(setting.batch.inputs, setting.batch.labels.tolist(), strict=True)
    ]
    return sum(values) / len(values)


def soft_targets(setting):
    tree, t = setting.student_module, setting.loss.temperature
    values = [
        cross_entropy(tree, example, softmax([z / t for z in logits]))
        for example, logits in zip(
            setting.batch.inputs, setting.teacher.logits.tolist(), strict=True
        )
    ]
    return sum(values) / len(values)


def shares(tree, inputs):
    """(depth, share that goes right) of every inner node, over a batch."""
    walks = [nodes_of(tree, example)[0] for example in inputs]
    found = []
    for visits in zip(*walks, strict=True):
        total = sum(path for _, path, _ in visits)
        found.append((visits[0][0], sum(path * right for _, path, right in visits) / total))
    return found


def penalty(depths_and_shares):
    return sum(
        2.0**-depth * -(0.5 * math.log(a) + 0.5 * math.log(1 - a)) for depth, a in depths_and_shares
    )


def balance(setting):
    """Of a loss that has seen no batch."""
    assert not setting.loss.shares.any()
    return torch.tensor(penalty(shares(setting.student_module, setting.batch.inputs)))
