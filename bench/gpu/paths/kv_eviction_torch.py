"""What PyTorch offers for SnapKV: products, softmax, topk and gather, eager, compiled, and as graphs."""

import math

import torch
from torch.nn.functional import avg_pool1d

from cases import Arm, one_line
from paths import ema
from paths.ema_torch import time_limit


def with_full_lengths(device, copy, call):
    """A call that evicts, of caches that are full."""
    def both():
        copy.lengths.copy_(copy.full)
        call()

    return both


def after_product(device, copy, call):
    """AuxCore's calls behind the product of matrices, which is PyTorch's in all arms but AuxCore's own product."""
    queries, keys = by_head(copy)
    logits = copy.logits.view(copy.shape.kv_heads, -1, copy.shape.positions)
    evict = with_full_lengths(device, copy, call)

    def both():
        torch.bmm(queries, keys.mT, out=logits)
        evict()

    return both


def by_head(copy):
    shape = copy.shape
    return copy.queries.view(shape.kv_heads, -1, shape.d), copy.keys.view(shape.kv_heads, shape.positions, shape.d)


def refreshed(device, copy):
    shape = copy.shape
    best = chosen(copy, smoothed(copy, *[tensor.double() for tensor in by_head(copy)]))
    copy.expected = pairs(*[gathered(copy, tensor, best) for tensor in (copy.keys, copy.values)], shape)


def masked(copy, logits):
    """A window's queries do not see what is behind them."""
    shape = copy.shape
    own = torch.full((shape.window, shape.window), -math.inf, dtype=logits.dtype, device=logits.device).triu(1)
    logits = logits.view(shape.kv_heads, shape.group, shape.window, shape.positions)
    return torch.cat([logits[..., :-shape.window], logits[..., -shape.window:] + own], -1)


def smoothed(copy, queries, keys):
    shape = copy.shape
    weights = masked(copy, queries @ keys.mT / math.sqrt(shape.d)).softmax(-1)
    means = weights.mean((1, 2))[:, None, :-shape.window]
    return avg_pool1d(means, shape.pool, stride=1, padding=shape.pool // 2).squeeze(1)


def chosen(copy, scores):
    shape = copy.shape
    best = scores.topk(shape.kept - shape.window, sorted=False).indices
    recent = torch.arange(shape.positions - shape.window, shape.positions, device=best.device)
    return torch.cat([best, recent.expand(shape.kv_heads, -1)], 1)


def gathered(copy, tensor, places):
    shape = copy.shape
    return tensor.view(shape.kv_heads, shape.positions, shape.d).gather(1, places[..., None].expand(-1, -1, shape.d))


def keep(copy, places):
    for target, source in ((copy.kept_keys, copy.keys), (copy.kept_values, copy.values)):
        target.view(copy.shape.kv_heads, copy.shape.kept, copy.shape.d).copy_(gathered(copy, source, places))


def evict(copy):
    keep(copy, chosen(copy, smoothed(copy, *by_head(copy))))


def evict_published(copy):
    """As kvpress' SnapKV: keys are repeated for each query head, and a group's mean is taken after the pooling."""
    shape = copy.shape
    queries, keys = by_head(copy)
    queries = queries.view(shape.query_heads, shape.window, shape.d)
    weights = masked(copy, queries @ keys.repeat_interleave(shape.group, 0).mT / math.sqrt(shape.d)).softmax(-1)
    means = weights.mean(2)[..., :-shape.window].flatten(0, 1)
    pooled = avg_pool1d(means[:, None], shape.pool, stride=1, padding=shape.pool // 2)
    keep(copy, chosen(copy, pooled.view(shape.kv_heads, shape.group, -1).mean(1)))


def baselines(device, data):
    """(candidates for the best baseline, the published expression, why others are left out)"""
    name = "matmul, softmax, avg_pool1d, topk, gather"
    arms, left_out = [], []
    torch._dynamo.reset()
    for title, function in ((name, evict), (f"torch.compile of {name}", torch.compile(evict, dynamic=False))):
        try:
            arm = Arm(title, lambda i, function=function: function(data[i]))
            with time_limit(device.compile_seconds):
                arm.call(0)
                device.synchronize()
            arms += [arm, ema.captured(device, f"{title}, in a graph", arm, data)]
        except Exception as error:  # noqa: BLE001: an arm less, and the reason
            left_out.append(f"{title} left out: {one_line(error)}")
    return arms, Arm("as kvpress' SnapKV", lambda i: evict_published(data[i])), left_out


def pairs(keys, values, shape):
    """A number for each row of each head, by the bits of its first key and value."""
    bits = [rows.reshape(shape.kv_heads, -1, shape.d)[..., 0].contiguous().view(torch.int32).long() for rows in (keys, values)]
    return bits[0] << 32 | bits[1] & 0xFFFFFFFF


def error(device, copy, is_ours):
    shape, wrong = copy.shape, 0
    if is_ours:
        kept = [tensor.view(shape.kv_heads, shape.positions, shape.d)[:, :shape.kept] for tensor in (copy.keys, copy.values)]
        found = pairs(*kept, shape)
    else:
        found = pairs(copy.kept_keys, copy.kept_values, shape)
    for expected, actual in zip(copy.expected, found, strict=True):
        wrong += int((~torch.isin(expected, actual)).sum())
    return wrong / shape.kept / shape.kv_heads
