"""Token pruning in plain Python, for the stand-in: what each case should give, and arms that do its work on the host."""

import math

from cases import Arm


def baselines(case, device, data):
    write = {
        "SelectCase": select, "CompactCase": compact, "ScoresCase": scores, "PoolCase": pool, "PipelineCase": pipeline}[type(case).__name__]
    return [Arm("the host", lambda i: write(device, data[i]))], Arm("the host once more", lambda i: write(device, data[i])), [
        "the stand-in has no PyTorch"]


def error(case, device, copy):
    name = type(case).__name__
    if name == "SelectCase":
        indices, slots = selected(device, copy)
        return differing(device, [copy.indices, copy.slots], [indices, slots])
    if name == "CompactCase":
        return differing(device, copy.outputs, compacted(device, copy, copy.kept))
    if name == "PipelineCase":
        return differing(device, copy.outputs, compacted(device, copy, pruned(device, copy)))
    actual, expected = (copy.scores, attention(device, copy)) if name == "ScoresCase" else (copy.pooled, means(device, copy))
    values = device.float64([actual])
    return max(abs(a - e) for a, e in zip(values, expected, strict=True)) / max(map(abs, expected))


def differing(device, actual, expected):
    return float(sum(a != e for tensor, values in zip(actual, expected, strict=True)
                     for a, e in zip(device.float64([tensor]), values, strict=True)))


def write(device, tensors, values):
    for tensor, row in zip(tensors, values, strict=True):
        given = iter(row)
        device.host_map([tensor], [], lambda _: [next(given)])  # noqa: B023: called at once


def select(device, copy):
    write(device, [copy.indices, copy.slots], selected(device, copy))


def compact(device, copy):
    write(device, copy.outputs, compacted(device, copy, copy.kept))


def scores(device, copy):
    write(device, [copy.scores], [attention(device, copy)])


def pool(device, copy):
    write(device, [copy.pooled], [means(device, copy)])


def pipeline(device, copy):
    write(device, copy.outputs, compacted(device, copy, pruned(device, copy)))


def selected(device, copy):
    values = device.float64([copy.scores])
    kept = sorted(sorted(range(len(values)), key=lambda token: (-values[token], token))[:copy.count])
    slots = [-1] * len(values)
    for place, token in enumerate(kept):
        slots[token] = place
    return kept, slots


def compacted(device, copy, kept):
    heads, width = getattr(copy.shape, "heads", 1) if hasattr(copy, "kept") else 1, copy.shape.width
    rows = []
    for source in copy.sources:
        values = device.float64([source])
        rows.append([values[(head * copy.shape.tokens + token) * width + k]
                     for head in range(heads) for token in kept for k in range(width)])
    return rows


def attention(device, copy):
    shape = copy.shape
    queries, keys = device.float64([copy.queries]), device.float64([copy.keys])
    mean = [0.0] * shape.tokens
    for head in range(shape.heads):
        logits = [sum(queries[head * shape.depth + k] * keys[(head * shape.tokens + j) * shape.depth + k] for k in range(shape.depth))
                  / math.sqrt(shape.depth) for j in range(shape.tokens)]
        shares = [math.exp(logit - max(logits)) for logit in logits]
        mean = [m + share / sum(shares) / shape.heads for m, share in zip(mean, shares, strict=True)]
    return mean


def pruned(device, copy):
    shape, mean = copy.shape, attention(device, copy)
    visual = range(shape.first, shape.first + shape.visual)
    best = set(sorted(visual, key=lambda token: (-mean[token], token))[:shape.visual // 2])
    return [token for token in range(shape.tokens) if token not in visual or token in best]


def means(device, copy):
    side, channels, tokens = copy.shape.side, copy.shape.channels, device.float64([copy.tokens])
    pooled = []
    for i in range(copy.cells):
        for j in range(copy.cells):
            cell = [(y, x) for y in range(4 * i, min(side, 4 * i + 4)) for x in range(4 * j, min(side, 4 * j + 4))]
            pooled += [sum(tokens[(y * side + x) * channels + k] for y, x in cell) / len(cell) for k in range(channels)]
    return pooled
