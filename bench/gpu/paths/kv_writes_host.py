"""What kv_writes_torch.py has, in plain Python, for the stand-in."""

from cases import Arm
from paths import kv_writes
from paths.token_pruning_host import write


def after_products(copy, call):
    """The host cannot be captured in a graph, so products are made where data are."""
    return call


def refreshed(device, copy):
    for group in copy.groups:
        for source, weights, products in zip(group.sources, group.weights, group.products, strict=True):
            x, w = device.float64([source]), device.float64([weights])
            rows = [x[t:t + group.depth] for t in range(0, len(x), group.depth)]
            columns = [w[k:k + group.depth] for k in range(0, len(w), group.depth)]
            write(device, [products], [[sum(a * b for a, b in zip(row, column)) for row in rows for column in columns]])


def baselines(case, device, data):
    """(candidates for the best baseline, the published expression, why others are left out)"""
    work = append if isinstance(case, kv_writes.AppendCase) else predict
    return [Arm("the host", lambda i: work(device, data[i]))], Arm("the host once more", lambda i: work(device, data[i])), [
        "the stand-in has no PyTorch"]


def append(device, copy):
    d, rows, norms = copy.d, device.float64([copy.rows]), device.float64([copy.norms])
    heads = [rows[i:i + d] for i in range(0, len(rows), d)]
    keys_from, values_from = copy.queries, copy.queries + copy.kv_heads
    turned = [kv_writes.rotated_head(kv_writes.normed(head, norms[:d] if i < keys_from else norms[d:]), copy.slot)
              for i, head in enumerate(heads[:values_from])]
    write(device, [copy.rotated], [[x for head in turned[:keys_from] for x in head]])
    for cache, stored in ((copy.keys, turned[keys_from:]), (copy.values, heads[values_from:])):
        elements = list(device.float64([cache]))
        for head, row in enumerate(stored):
            at = (head * copy.positions + copy.slot) * d
            elements[at:at + d] = row
        write(device, [cache], [elements])


def predict(device, copy):
    d = copy.d
    for group in copy.groups:
        norms, first = device.float64([group.norms]), 0
        products, biases = [[device.float64([tensor]) for tensor in pair] for pair in (group.products, group.biases)]
        for i, heads in enumerate(group.heads):
            for side in range(2):
                rows = []
                for head in range(heads):
                    column = (first + head) * d
                    for token in range(copy.tokens):
                        at = token * group.columns + column
                        row = [x + b for x, b in zip(products[side][at:at + d], biases[side][column:column + d], strict=True)]
                        rows += row if side else kv_writes.rotated_head(kv_writes.normed(row, norms[i * d:i * d + d]), token)
                write(device, [group.caches[i][side]], [rows])
            first += heads
