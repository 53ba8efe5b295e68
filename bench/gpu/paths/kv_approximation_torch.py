"""What PyTorch offers for KV caches: scaled_dot_product_attention over groups of query heads, and quantisation by tensor operations."""

import math

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from cases import Arm, one_line
from paths.ema_torch import time_limit


class Reference:
    """Attention in float64, a sequence at a time."""

    @staticmethod
    def latest(shape, rows, ring, is_keys):
        """Of what KIVI-4 stores, the rows in their order, the last of them from the ring."""
        heads, d = shape.batch * shape.kv_heads, shape.head_dim
        own, first = rows.view(heads, shape.positions, d), shape.stored
        if is_keys:
            own.copy_(rows.view(heads, -1, d, 32).mT.reshape(own.shape))
            first = first // 32 * 32
        places = torch.arange(first, shape.positions, device=rows.device) % shape.ring
        own[:, first:] = ring.view(heads, shape.ring, d)[:, places]

    @staticmethod
    def difference(shape, query, keys, values, output):
        worst = greatest = 0.0
        q = query.view(shape.batch, shape.kv_heads, -1, shape.head_dim)
        k, v = [tensor.view(shape.batch, shape.kv_heads, shape.positions, shape.head_dim) for tensor in (keys, values)]
        actual = output.reshape(q.shape)
        for b in range(shape.batch):
            scores = q[b].double() @ k[b].double().mT / math.sqrt(shape.head_dim)
            expected = scores.softmax(-1) @ v[b].double()
            worst = max(worst, (actual[b].double() - expected).abs().max().item())
            greatest = max(greatest, expected.abs().max().item())
        return worst / greatest if math.isfinite(worst) else math.inf


def attention(device, format, data):
    shape = data[0].shape
    sizes = (shape.batch, shape.kv_heads, shape.positions, shape.head_dim)
    grouped, single = (shape.batch, shape.kv_heads, -1, shape.head_dim), (shape.batch, shape.query_heads, 1, shape.head_dim)
    wide = [[copy.keys.view(sizes), copy.values.view(sizes)] for copy in data]
    narrow = [] if format == "f32" else [[tensor.bfloat16() for tensor in pair] for pair in wide]
    narrow_query = [copy.query.bfloat16() for copy in data]
    results, read = {}, {}

    def arm(name, dtype, function):
        """function(query, keys, values) -> output"""
        def call(i):
            query, pair = (narrow_query[i], narrow[i]) if dtype == "bf16" else (data[i].query, wide[i])
            results[name], read[name] = function(query, *pair), (query, *pair)

        for copy in data:
            copy.others[name] = lambda: Reference.difference(shape, *read[name], results[name])
        return Arm(name, call)

    def over_groups(query, keys, values):
        return sdpa(query.view(grouped), keys, values)

    def by_gqa(query, keys, values):
        return sdpa(query.view(single), keys, values, enable_gqa=True)

    def repeated(query, keys, values):
        group = shape.query_heads // shape.kv_heads
        return sdpa(query.view(single), keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1))

    def by_products(query, keys, values):
        scores = query.view(grouped) @ keys.mT * (1 / math.sqrt(shape.head_dim))
        return scores.float().softmax(-1).to(values.dtype) @ values

    wanted = [("f32", "float32")] if format == "f32" else [("bf16", "bfloat16"), ("f32", "float32")]
    arms, left_out = [], []
    torch._dynamo.reset()
    for dtype, spelt in wanted:
        makers = [("SDPA, grouped query", over_groups), ("SDPA, enable_gqa", by_gqa), ("products, softmax", by_products)]
        if dtype == wanted[0][0]:
            makers.append(("torch.compile of products, softmax", torch.compile(by_products, dynamic=False)))
        for name, function in makers:
            one = arm(f"{name}, {spelt}", dtype, function)
            try:
                with time_limit(device.compile_seconds):
                    one.call(0)
                    torch.cuda.synchronize()
                arms.append(one)
            except Exception as error:  # noqa: BLE001: an arm less, and the reason
                left_out.append(f"{one.name} left out: {one_line(error)}")
    return arms, arm("repeat_interleave, SDPA, float32", "f32", repeated), left_out


def quantisers(device, data):
    """Scales and quants in tensors of their own, which spares them the interleaving."""
    last = {}

    def eager(x):
        d = x.abs().amax(1, keepdim=True) / 127
        return d.half(), (x * d.reciprocal()).round().to(torch.int8)

    def published(x):
        d = x.abs().amax(1, keepdim=True) / 127
        return d.half(), (x / d).round().to(torch.int8)

    def arm(name, function):
        def call(i):
            last["scales"], last["quants"] = function(data[i].elements.view(-1, 32))

        for copy in data:
            copy.others[name] = lambda copy=copy: off(copy)
        return Arm(name, call)

    def off(copy):
        x = copy.elements.view(-1, 32)[:1 << 20].double()
        error = (last["scales"][:1 << 20].double() * last["quants"][:1 << 20].double() - x).abs()
        return (error / (x.abs().amax(1, keepdim=True) / 127)).max().item()

    arms, left_out = [arm("amax a group, reciprocal, round, to(int8)", eager)], []
    try:
        torch._dynamo.reset()
        one = arm("torch.compile of it", torch.compile(eager, dynamic=False))
        with time_limit(device.compile_seconds):
            one.call(0)
            torch.cuda.synchronize()
        arms.append(one)
    except Exception as error:  # noqa: BLE001: an arm less, and the reason
        left_out.append(f"torch.compile left out: {one_line(error)}")
    return arms, arm("abs().amax(), div, round, to(int8)", published), left_out
