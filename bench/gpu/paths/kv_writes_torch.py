"""What PyTorch offers for keys and values on their way into a cache: the operations that people write, eager, compiled, and as graphs."""

import torch
from torch.nn.functional import linear

from cases import Arm, one_line
from paths import ema, kv_writes
from paths.ema_torch import time_limit


def after_products(copy, call):
    """AuxCore's call behind the products of matrices, which are PyTorch's in all arms."""
    pairs = [
        (source.view(-1, group.depth), weights.view(-1, group.depth).T, products.view(-1, group.columns))
        for group in copy.groups
        for source, weights, products in zip(group.sources, group.weights, group.products, strict=True)]

    def both():
        for source, weights, products in pairs:
            torch.mm(source, weights, out=products)
        call()

    return both


def refreshed(device, copy):
    """Products belong to the arms."""


def baselines(case, device, data):
    """(candidates for the best baseline, the published expression, why others are left out)"""
    if isinstance(case, kv_writes.AppendCase):
        prepare = prepare_append
        named, published = [("heads together", append)], ("as Hugging Face's models, index_copy_", append_published)
    else:
        prepare = prepare_predict
        named = [("linear of shared layers, in float32", predict), ("linear of shared layers, in bfloat16", predict_narrow)]
        published = ("as corenet's code", predict_published)
    for copy in data:
        prepare(copy)
    arms, left_out = [], []
    torch._dynamo.reset()
    for name, function in [*named, (f"torch.compile of {named[0][0]}", torch.compile(named[0][1], dynamic=False))]:
        try:
            arm = Arm(name, lambda i, function=function: function(data[i]))
            with time_limit(device.compile_seconds):
                arm.call(0)
                device.synchronize()
            arms += [arm, ema.captured(device, f"{name}, in a graph", arm, data)]
        except Exception as error:  # noqa: BLE001: an arm less, and the reason
            left_out.append(f"{name} left out: {one_line(error)}")
    return arms, Arm(published[0], lambda i: published[1](data[i])), left_out


def turns(d, positions, device):
    """(cosines, sines) of positions; the sines of the first half are negated."""
    angles = positions.double()[:, None] * torch.tensor(list(kv_writes.frequencies_of(d)), dtype=torch.float64, device=device)
    return [torch.cat(pair, 1).float() for pair in ((angles.cos(), angles.cos()), (-angles.sin(), angles.sin()))]


def norm(x):
    return x * (x.square().mean(-1, keepdim=True) + kv_writes.EPSILON).rsqrt()


# ---- one token ----

def prepare_append(copy):
    device, d = copy.rows.device, copy.d
    copy.cosines, copy.sines = turns(d, torch.tensor([copy.slot], device=device), device)
    copy.weights = torch.cat([copy.norms[:d].expand(copy.queries, d), copy.norms[d:].expand(copy.kv_heads, d)])
    copy.place = torch.tensor([copy.slot], device=device)


def append(copy):
    rows, keys_end = copy.rows.view(-1, copy.d), copy.queries + copy.kv_heads
    x = norm(rows[:keys_end]) * copy.weights
    turned = x * copy.cosines + x.roll(copy.d // 2, 1) * copy.sines
    copy.rotated.view(-1, copy.d).copy_(turned[:copy.queries])
    for cache, stored in ((copy.keys, turned[copy.queries:]), (copy.values, rows[keys_end:])):
        cache.view(copy.kv_heads, copy.positions, copy.d)[:, copy.slot].copy_(stored)


def append_published(copy):
    rows, keys_end = copy.rows.view(-1, copy.d), copy.queries + copy.kv_heads

    def rotated(x):
        first, second = x.chunk(2, -1)
        return x * copy.cosines + torch.cat((second, first), -1) * copy.sines

    query = rotated(norm(rows[:copy.queries]) * copy.weights[:copy.queries])
    keys = rotated(norm(rows[copy.queries:keys_end]) * copy.weights[copy.queries:])
    copy.rotated.copy_(query.view(-1))
    for cache, stored in ((copy.keys, keys), (copy.values, rows[keys_end:])):
        planes = cache.view(1, copy.kv_heads, copy.positions, copy.d)
        planes.index_copy_(2, copy.place, stored.to(planes.dtype).view(1, copy.kv_heads, 1, copy.d))


# ---- all layers of a prompt ----

def prepare_predict(copy):
    device, d = copy.groups[0].norms.device, copy.d
    cosines, sines = turns(d, torch.arange(copy.tokens, device=device), device)
    copy.cosines, copy.sines = cosines[:, None], sines[:, None]
    for group in copy.groups:
        group.narrow_biases = [bias.bfloat16() for bias in group.biases]
        of_heads = torch.tensor(group.heads, device=device)
        group.of_heads = group.norms.view(-1, d).repeat_interleave(of_heads, 0)
        group.narrow_of_heads = group.of_heads.bfloat16()


def products(group):
    return [
        linear(source.view(-1, group.depth), weights.view(-1, group.depth), bias)
        for source, weights, bias in zip(group.sources, group.weights, group.narrow_biases, strict=True)]


def predict(copy):
    together(copy, lambda keys, group: norm(keys.float()) * group.of_heads)


def predict_narrow(copy):
    together(copy, lambda keys, group: norm(keys) * group.narrow_of_heads)


def together(copy, normed):
    for group in copy.groups:
        keys, values = [rows.view(copy.tokens, -1, copy.d) for rows in products(group)]
        keys = normed(keys, group)
        keys = keys * copy.cosines + keys.roll(copy.d // 2, 2) * copy.sines
        first = 0
        for heads, planes in zip(group.heads, group.caches, strict=True):
            for rows, plane in zip((keys, values), planes, strict=True):
                plane.view(heads, copy.tokens, copy.d).copy_(rows[:, first:first + heads].transpose(0, 1))
            first += heads


def predict_published(copy):
    """Layer by layer; normed keys are stored, and rotated when they are read."""
    cosines, sines = copy.cosines.squeeze(1), copy.sines.squeeze(1)
    for group in copy.groups:
        column = 0
        for i, (heads, planes) in enumerate(zip(group.heads, group.caches, strict=True)):
            width = heads * copy.d
            keys, values = [
                linear(source.view(-1, group.depth), weights.view(-1, group.depth)[column:column + width], bias[column:column + width])
                .view(1, copy.tokens, heads, copy.d).transpose(1, 2)
                for source, weights, bias in zip(group.sources, group.weights, group.narrow_biases, strict=True)]
            stored = (norm(keys.float()) * group.norms.view(-1, copy.d)[i]).bfloat16().contiguous()
            first, second = stored.float().chunk(2, -1)
            turned = stored.float() * cosines + torch.cat((second, first), -1) * sines
            planes[0].view(1, heads, copy.tokens, copy.d).copy_(turned)
            planes[1].view(1, heads, copy.tokens, copy.d).copy_(values.contiguous())
            column += width
