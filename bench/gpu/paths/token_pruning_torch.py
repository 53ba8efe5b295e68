"""What PyTorch offers for token pruning: the chains of operations that people write, eager and compiled, and as CUDA graphs."""

import math

import torch

from cases import Arm, one_line
from paths import ema


def baselines(case, device, data):
    """(candidates for the best baseline, the published expression, why others are left out)"""
    name, best, published = {
        "SelectCase": ("topk, sort, scatter_", select, None),
        "CompactCase": ("index_select", compact, gather),
        "ScoresCase": ("matmul, softmax, mean", scores, None),
        "PoolCase": ("avg_pool2d, channels last", pool, None),
        "PipelineCase": ("matmul, softmax, mean, topk, cat, sort, index_select", pipeline, None),
    }[type(case).__name__]
    arms, left_out = [], []
    for title, function in ((name, best), (f"torch.compile of {name}", torch.compile(best, dynamic=False))):
        try:
            arm = Arm(title, lambda i, function=function: function(data[i]))
            arm.call(0)
            device.synchronize()
            arms += [arm, ema.captured(device, f"{title}, in a graph", arm, data)]
        except Exception as error:  # noqa: BLE001: an arm less, and the reason
            left_out.append(f"{title} left out: {one_line(error)}")
    plain = published and Arm("expanded gather", lambda i: published(data[i]))
    return arms, plain, left_out


def select(copy):
    best = copy.scores.topk(copy.count, sorted=False).indices.sort().values
    copy.indices.copy_(best)
    places = torch.arange(copy.count, dtype=torch.int32, device=best.device)
    copy.slots.fill_(-1)
    copy.slots.scatter_(0, best, places)


def shaped(copy, tensor, tokens):
    return tensor.view(getattr(copy.shape, "heads", 1) if hasattr(copy, "kept") else 1, tokens, copy.shape.width)


def compact(copy):
    for source, output in zip(copy.sources, copy.outputs):
        torch.index_select(shaped(copy, source, copy.shape.tokens), 1, copy.indices, out=shaped(copy, output, copy.count))


def gather(copy):
    places = copy.indices.long().view(1, -1, 1)
    for source, output in zip(copy.sources, copy.outputs):
        rows = shaped(copy, source, copy.shape.tokens)
        shaped(copy, output, copy.count).copy_(rows.gather(1, places.expand(rows.shape[0], -1, rows.shape[2])))


def attention(copy, queries, keys):
    shape = copy.shape
    logits = queries.view(shape.heads, 1, shape.depth) @ keys.view(shape.heads, shape.tokens, shape.depth).transpose(1, 2)
    return (logits / math.sqrt(shape.depth)).softmax(-1).mean((0, 1))


def scores(copy):
    copy.scores.copy_(attention(copy, copy.queries, copy.keys))


def grid(copy, tokens):
    side = copy.shape.side
    return tokens.view(1, side, side, copy.shape.channels).permute(0, 3, 1, 2)


def pool(copy):
    pooled = torch.nn.functional.avg_pool2d(grid(copy, copy.tokens), 4, ceil_mode=True, count_include_pad=False)
    copy.pooled.copy_(pooled.permute(0, 2, 3, 1).reshape(-1))


def pruned(copy, mean):
    shape = copy.shape
    best = mean[shape.first:shape.first + shape.visual].topk(shape.visual // 2, sorted=False).indices + shape.first
    text = [torch.arange(0, shape.first, device=mean.device), torch.arange(shape.first + shape.visual, shape.tokens, device=mean.device)]
    return torch.cat([text[0], best, text[1]]).sort().values


def pipeline(copy):
    keep = pruned(copy, attention(copy, copy.queries, copy.keys))
    torch.index_select(shaped(copy, copy.sources[0], copy.shape.tokens), 1, keep, out=shaped(copy, copy.outputs[0], copy.count))


def error(case, device, copy):
    """Entries that differ, or the largest error relative to the largest result, against float64."""
    name = type(case).__name__
    if name == "SelectCase":
        order = torch.sort(copy.scores.double(), descending=True, stable=True).indices[:copy.count].sort().values
        slots = torch.full_like(copy.slots, -1)
        slots[order] = torch.arange(copy.count, dtype=torch.int32, device=slots.device)
        return float((copy.indices != order).sum() + (copy.slots != slots).sum())
    if name in ("CompactCase", "PipelineCase"):
        keep = copy.indices.long() if name == "CompactCase" else pruned(copy, attention(copy, copy.queries.double(), copy.keys.double()))
        return float(sum((shaped(copy, source, copy.shape.tokens)[:, keep] != shaped(copy, output, copy.count)).sum()
                         for source, output in zip(copy.sources, copy.outputs)))
    if name == "ScoresCase":
        actual, expected = copy.scores.double(), attention(copy, copy.queries.double(), copy.keys.double())
    else:
        mean = torch.nn.functional.avg_pool2d(grid(copy, copy.tokens.double()), 4, ceil_mode=True, count_include_pad=False)
        actual, expected = copy.pooled.double(), mean.permute(0, 2, 3, 1).reshape(-1)
    return ((actual - expected).abs().max() / expected.abs().max()).item()
