"""KvQuantise and KvDecodeAttention. Errors of ours: bytes that differ from the formula; parts of the greatest element of the output.

Baselines of attention read what they were made for, float32 or bfloat16, and are held against float64 on just that."""

import ctypes as c
import math
import random
import struct

from auxcore_kv import FORMATS, KvAttention, KvElements, contiguous_cache
from cases import Arm, Case, Workload
from paths.ema import captured
from paths.token_pruning_host import write
from timing import copies_beyond

GROUP = 32
GROUP_BYTES = {"f32": 4 * GROUP, "bf16": 2 * GROUP, "q8_0": 34, "q4_0": 18, "kivi4": 20}
CHECKED_GROUPS = 2000


class QuantiseCase(Case):
    path, name, dtype = "kv-approximation", "quantise-q8_0-64m", "f32 to q8_0"
    description = "64 Mi elements from float32 to q8_0"
    in_place = False
    tolerance = 0.0  # bytes
    baseline_tolerance = 0.6  # steps of a group: halves, and the rounding of the scale

    def build(self, device, context, small, baselines):
        count = 8192 + 128 if small else 1 << 26
        moved = count * 4 + count // GROUP * 34
        copies = copies_beyond(moved, device.l2_bytes)
        data = [Elements(device, context, count, "q8_0") for _ in range(copies)]
        calls = [context.caller(device.stream, ("auxcore_kv_quantise", c.pointer(copy.struct))) for copy in data]
        candidates, published, left_out = quantisers_of(device, data) if baselines else ([], None, [])
        return Workload(
            copies=copies, cache_bytes=device.l2_bytes, bytes=moved, ours={"": Arm("AuxCore", lambda i: calls[i]())},
            candidates=candidates, published=published, error=lambda arm, i: self._error(device, arm, data[i], i), left_out=left_out)

    def _error(self, device, arm, copy, i):
        device.randomize(copy.elements)
        arm.call(i)
        device.synchronize()
        if arm.name in copy.others:
            return copy.others[arm.name]()
        groups = copy.count // GROUP
        begin = random.Random(i).randrange(max(1, groups - CHECKED_GROUPS))
        end = min(groups, begin + CHECKED_GROUPS)
        x = struct.unpack(f"<{(end - begin) * GROUP}f", device.raw(copy.elements, begin * GROUP * 4, end * GROUP * 4))
        actual = device.raw(copy.stored, begin * 34, end * 34)
        expected = b"".join(q8_0(x[k:k + GROUP]) for k in range(0, len(x), GROUP))
        return float(sum(a != b for a, b in zip(actual, expected, strict=True)))


class AttentionCase(Case):
    path = "kv-approximation"
    in_place = False
    tolerance = 1e-5  # tests/Tolerances.cs
    baseline_tolerance = 2e-2  # bfloat16

    def __init__(self, name, positions, format, batch):
        self.name, self.format, self.dtype = name, format, format
        is_kivi = format == "kivi4"
        self.shape = Shape(batch, 32, 8, 128, positions, 160 if is_kivi else 0)
        self.small = Shape(1, 4, 2, 32, 64, 37) if is_kivi else Shape(1, 4, 2, 32, 40)
        self.description = f"one token of {batch} sequences, 32 query heads over 8 of 128 elements, {positions:,} positions in {format}"

    def build(self, device, context, small, baselines):
        shape = self.small if small else self.shape
        stored = shape.cache_elements * shape.stored // shape.positions
        moved = 2 * (stored // GROUP * GROUP_BYTES[self.format] + 4 * (shape.cache_elements - stored)) + 8 * shape.tokens
        copies = copies_beyond(moved, device.l2_bytes)
        data = [Attended(device, context, shape, self.format) for _ in range(copies)]
        ours = {"": Arm("AuxCore", lambda i: data[i].call())}
        ours["-graph"] = captured(device, "AuxCore, in a graph", ours[""], data)
        candidates, published, left_out = attention_of(device, self.format, data) if baselines else ([], None, [])
        return Workload(
            copies=copies, cache_bytes=device.l2_bytes, bytes=moved, ours=ours, candidates=candidates, published=published,
            error=lambda arm, i: self._error(device, arm, data[i], i), left_out=left_out)

    def _error(self, device, arm, copy, i):
        device.zero(copy.output)
        arm.call(i)
        device.synchronize()
        if arm.name in copy.others:
            return copy.others[arm.name]()
        keys, values = copy.restored()
        return reference_of(device).difference(copy.shape, copy.query, keys, values, copy.output)


class Shape:
    """ring: positions of KIVI-4's ring of the latest in float32, or 0."""

    def __init__(self, batch, query_heads, kv_heads, head_dim, positions, ring=0):
        self.batch, self.query_heads, self.kv_heads, self.head_dim, self.positions = batch, query_heads, kv_heads, head_dim, positions
        self.ring, self.stored = ring, positions - (ring - GROUP if ring else 0)
        self.tokens, self.cache_elements = batch * query_heads * head_dim, batch * kv_heads * positions * head_dim


class Elements:
    """float32 elements, and room for what they become."""

    def __init__(self, device, context, count, format, elements=None):
        self.count = count
        self.elements = device.normal(count) if elements is None else elements
        self.stored = device.normal(count // GROUP * GROUP_BYTES[format] // 4)  # bytes, whatever the type
        self.struct = KvElements(
            c.sizeof(KvElements), FORMATS[format], count, 1.0, 0, device.address(self.elements), device.address(self.stored))
        self.others = {}  # by the name of a baseline: how far its last result is off, in steps


class Attended:
    """A query, a cache in a format, and AuxCore's call."""

    def __init__(self, device, context, shape, format):
        self._device, self._context, self.shape = device, context, shape
        self.query, self.output = device.normal(shape.tokens), device.normal(shape.tokens)
        self.keys, self.values = [device.normal(shape.cache_elements) for _ in range(2)]
        self._planes = [Elements(device, context, shape.cache_elements, format, wide) for wide in (self.keys, self.values)]
        for plane in self._planes:
            context.caller(device.stream, ("auxcore_kv_quantise", c.pointer(plane.struct)))()
        self._lengths = device.integers([shape.positions] * shape.batch)
        cache = contiguous_cache(
            format, shape.head_dim // GROUP * GROUP_BYTES[format], *[device.address(plane.stored) for plane in self._planes],
            shape.batch, shape.kv_heads, shape.head_dim, shape.positions)
        self._rings = [device.normal(shape.batch * shape.kv_heads * shape.ring * shape.head_dim) for _ in range(2 if shape.ring else 0)]
        for plane, ring in zip((cache.keys, cache.values), self._rings):
            plane.residual, plane.residual_positions = device.address(ring), shape.ring
        attention = KvAttention(
            c.sizeof(KvAttention), shape.query_heads, 0, 0, 1 / math.sqrt(shape.head_dim), device.address(self.query),
            device.address(self._lengths), None, device.address(self.output), 0, 0, 0)
        needed = c.c_int64()
        context.library.call("auxcore_kv_attention_workspace", c.byref(cache), c.byref(attention), c.byref(needed))
        self._workspace = device.normal(max(64, needed.value // 4))
        attention.workspace, attention.workspace_bytes = device.address(self._workspace), needed.value
        self.call = context.caller(device.stream, ("auxcore_kv_decode_attention", c.pointer(cache), c.pointer(attention)))
        self.others = {}  # by the name of a baseline: how far its last result is off

    def restored(self):
        """Keys and values as the cache has them, in float32."""
        restored = []
        for plane in self._planes:
            wide = self._device.normal(plane.count)
            given = KvElements.from_buffer_copy(plane.struct)
            given.elements = self._device.address(wide)
            self._context.caller(self._device.stream, ("auxcore_kv_dequantise", c.pointer(given)))()
            restored.append(wide)
        for wide, ring, is_keys in zip(restored, self._rings, (True, False)):
            reference_of(self._device).latest(self.shape, wide, ring, is_keys)
        return restored


def q8_0(x):
    """llama.cpp's bytes of 32 float32."""
    d = float32(max(map(abs, x)) / 127)
    inverse = float32(1 / d) if d else 0.0
    return struct.pack("<e32b", d, *[int(math.copysign(math.floor(abs(float32(v * inverse)) + 0.5), v)) for v in x])


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def reference_of(device):
    if device.is_standin:
        return HostReference(device)
    from paths import kv_approximation_torch

    return kv_approximation_torch.Reference


class HostReference:
    """Attention in plain Python, for the stand-in."""

    def __init__(self, device):
        self._device = device

    def latest(self, shape, rows, ring, is_keys):
        """Of what KIVI-4 stores, the rows in their order, the last of them from the ring."""
        stored, latest, d = self._device.float64([rows]), self._device.float64([ring]), shape.head_dim

        def element(i):
            head, at = divmod(i, shape.positions * d)
            t, channel = divmod(at, d)
            if t >= (shape.stored // GROUP * GROUP if is_keys else shape.stored):
                return latest[(head * shape.ring + t % shape.ring) * d + channel]
            return stored[i - at + t // GROUP * GROUP * d + channel * GROUP + t % GROUP] if is_keys else stored[i]

        write(self._device, [rows], [[element(i) for i in range(shape.cache_elements)]])

    def attention(self, shape, query, keys, values):
        q, k, v = [self._device.float64([tensor]) for tensor in (query, keys, values)]
        d, group, output = shape.head_dim, shape.query_heads // shape.kv_heads, []
        for row in range(shape.batch * shape.query_heads):
            b, head = divmod(row, shape.query_heads)
            first = (b * shape.kv_heads + head // group) * shape.positions * d
            own = q[row * d:row * d + d]
            rows = range(first, first + shape.positions * d, d)
            scores = [sum(a * e for a, e in zip(own, k[t:t + d])) / math.sqrt(d) for t in rows]
            weights = [math.exp(score - max(scores)) for score in scores]
            output += [sum(w * v[t + i] for w, t in zip(weights, rows)) / sum(weights) for i in range(d)]
        return output

    def difference(self, shape, query, keys, values, output):
        expected, actual = self.attention(shape, query, keys, values), self._device.float64([output])
        error = max(abs(a - e) for a, e in zip(actual, expected)) / max(map(abs, expected))
        return error if math.isfinite(error) else math.inf


def quantisers_of(device, data):
    """(candidates for the best baseline, the published expression, why others are left out)"""
    if not device.is_standin:
        from paths import kv_approximation_torch

        return kv_approximation_torch.quantisers(device, data)
    loop = Arm("groups on the host", lambda i: device.float64([data[i].elements]))
    published = Arm("groups on the host once more", loop.call)
    for copy in data:
        copy.others = {arm.name: lambda: 0.5 for arm in (loop, published)}
    return [loop], published, ["the stand-in has no PyTorch"]


def attention_of(device, format, data):
    """(candidates for the best baseline, the published expression, why others are left out)"""
    if not device.is_standin:
        from paths import kv_approximation_torch

        return kv_approximation_torch.attention(device, format, data)
    reference = HostReference(device)
    loop = Arm("attention on the host", lambda i: reference.attention(data[i].shape, data[i].query, data[i].keys, data[i].values))
    published = Arm("attention on the host once more", loop.call)
    for copy in data:
        copy.others = {arm.name: lambda: 0.0 for arm in (loop, published)}
    return [loop], published, ["the stand-in has no PyTorch"]


CASES = [
    AttentionCase("decode-attn-n8192-f32", 8192, "f32", batch=16),
    AttentionCase("decode-attn-n8192-bf16", 8192, "bf16", batch=16),
    AttentionCase("decode-attn-n8192-q8_0", 8192, "q8_0", batch=16),
    AttentionCase("decode-attn-n8192-q4_0", 8192, "q4_0", batch=16),
    AttentionCase("decode-attn-n8192-kivi4", 8192, "kivi4", batch=16),
    AttentionCase("decode-attn-n1024-q8_0", 1024, "q8_0", batch=16),
    QuantiseCase(),
]
