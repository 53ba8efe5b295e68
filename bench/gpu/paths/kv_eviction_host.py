"""What kv_eviction_torch.py has, in plain Python, for the stand-in."""

import math

from cases import Arm
from paths.token_pruning_host import write


def with_full_lengths(device, copy, call):
    """A call that evicts, of caches that are full."""
    def both():
        device.copy(copy.lengths, copy.full)
        call()

    return both


def after_product(device, copy, call):
    """The host cannot be captured in a graph, so the product is made where data are."""
    return with_full_lengths(device, copy, call)


def refreshed(device, copy):
    write(device, [copy.logits], [logits(device, copy)])
    keys, values = rows_of(device, copy)
    copy.expected = [{(keys[head][t][0], values[head][t][0]) for t in kept}
                     for head, kept in enumerate(chosen(device, copy))]


def logits(device, copy):
    shape, queries = copy.shape, device.float64([copy.queries])
    keys, _ = rows_of(device, copy)
    rows = shape.group * shape.window
    return [sum(a * b for a, b in zip(queries[row * shape.d:(row + 1) * shape.d], key, strict=True))
            for row in range(shape.kv_heads * rows) for key in keys[row // rows]]


def rows_of(device, copy):
    """keys and values [head][position]"""
    shape = copy.shape
    planes = [device.float64([tensor]) for tensor in (copy.keys, copy.values)]
    return [[[plane[(head * shape.positions + t) * shape.d:][:shape.d] for t in range(shape.positions)] for head in range(shape.kv_heads)]
            for plane in planes]


def chosen(device, copy):
    """The positions that each head keeps, ascending."""
    shape, all_logits, kept = copy.shape, device.float64([copy.logits]), []
    rows, before, half = shape.group * shape.window, shape.positions - shape.window, shape.pool // 2
    for head in range(shape.kv_heads):
        means = [0.0] * shape.positions
        for row in range(rows):
            at = (head * rows + row) * shape.positions
            seen = [x / math.sqrt(shape.d) for x in all_logits[at:at + before + row % shape.window + 1]]
            weights = [math.exp(x - max(seen)) for x in seen]
            means = [m + (weights[t] / sum(weights) / rows if t < len(weights) else 0) for t, m in enumerate(means)]
        pooled = [sum(means[max(0, t - half):min(before, t + half + 1)]) for t in range(before)]
        best = sorted(range(before), key=lambda t: (-pooled[t], t))[:shape.kept - shape.window]
        kept.append(sorted(best) + list(range(before, shape.positions)))
    return kept


def baselines(device, data):
    """(candidates for the best baseline, the published expression, why others are left out)"""
    return [Arm("the host", lambda i: evict(device, data[i]))], Arm("the host once more", lambda i: evict(device, data[i])), [
        "the stand-in has no PyTorch"]


def evict(device, copy):
    for target, rows in zip((copy.kept_keys, copy.kept_values), rows_of(device, copy), strict=True):
        write(device, [target], [[x for head, kept in enumerate(chosen(device, copy)) for t in kept for x in rows[head][t]]])


def error(device, copy, is_ours):
    shape, wrong = copy.shape, 0
    tensors, stride = ((copy.keys, copy.values), shape.positions) if is_ours else ((copy.kept_keys, copy.kept_values), shape.kept)
    keys, values = [device.float64([tensor]) for tensor in tensors]
    for head, expected in enumerate(copy.expected):
        places = [(head * stride + t) * shape.d for t in range(shape.kept)]
        wrong += len(expected - {(keys[at], values[at]) for at in places})
    return wrong / shape.kept / shape.kv_heads
