"""KvAppend and KvPredictWrite. Errors are in roundings of what is stored: 2^-8 of a head's greatest element for bfloat16, 1e-6 for float32.

What is checked is a formula in plain Python, on rows that are read back, so it is the same on a device and on the stand-in."""

import ctypes as c
import math
import random

from auxcore import DTYPES, SIZES
from auxcore_kv import KvAppend, KvPredict, KvPredictLayer, KvRows, contiguous_cache
from cases import Arm, Case, Workload
from device_standin import unpack
from paths.ema import captured
from timing import copies_beyond

EPSILON = 1e-6
NARROW = SIZES["bfloat16"]


class WriteCase(Case):
    path, in_place = "kv-approximation", False
    tolerance, baseline_tolerance = 3.0, 8.0  # products are rounded, turned in pairs, rounded; baselines may compute in bfloat16

    def build(self, device, context, small, baselines):
        moved = self.bytes(small)
        copies = copies_beyond(moved, device.l2_bytes)
        data = [self.copy(device, context, small) for _ in range(copies)]
        ours = {"": Arm(self.ours, lambda i: data[i].call())}
        ours["-graph"] = captured(device, f"{self.ours}, in a graph", ours[""], data)
        candidates, published, left_out = formulas_of(device).baselines(self, device, data) if baselines else ([], None, [])

        def error(arm, i):
            data[i].refresh(device)
            arm.call(i)
            device.synchronize()
            return data[i].error(device, random.Random(i))

        return Workload(
            copies=copies, cache_bytes=device.l2_bytes, bytes=moved, ours=ours, candidates=candidates, published=published, error=error,
            left_out=left_out)


def formulas_of(device):
    """Baselines, and the products of matrices, where the data are: PyTorch's, or plain Python's."""
    if device.is_standin:
        from paths import kv_writes_host

        return kv_writes_host
    from paths import kv_writes_torch

    return kv_writes_torch


class AppendCase(WriteCase):
    name, dtype, ours = "append-n1", "f32 to bf16", "AuxCore"
    description = "one token of one layer: 32 query heads, 8 of keys and values of 64, normed, rotated, into a cache of 8,192 positions"
    sizes, small_sizes = (32, 8, 64, 8192, 4096), (4, 2, 16, 9, 5)

    def bytes(self, small):
        queries, kv_heads, d, *_ = self.small_sizes if small else self.sizes
        return (2 * queries + 2 * kv_heads) * d * 4 + 2 * kv_heads * d * NARROW

    def copy(self, device, context, small):
        return Appended(device, context, *(self.small_sizes if small else self.sizes))


class Appended:
    """Queries, keys and values of a token side by side, as one projection leaves them, and a cache."""

    def __init__(self, device, context, queries, kv_heads, d, positions, slot):
        self.queries, self.kv_heads, self.d, self.positions, self.slot = queries, kv_heads, d, positions, slot
        self.rows, self.rotated = device.normal((queries + 2 * kv_heads) * d), device.normal(queries * d)
        self.norms = device.normal(2 * d)  # of queries, of keys
        self.keys, self.values = [device.normal(kv_heads * positions * d, "bfloat16") for _ in range(2)]
        self._slots = device.integers([slot])
        at, norms, slots = device.address(self.rows), device.address(self.norms), device.address(self._slots)
        step = (queries + 2 * kv_heads) * d * 4
        cache = contiguous_cache(
            "bf16", d * NARROW, device.address(self.keys), device.address(self.values), 1, kv_heads, d, positions)
        append = KvAppend(
            c.sizeof(KvAppend), 1, DTYPES["float32"], 0, KvRows(at, step, 0, norms, queries, 0),
            KvRows(at + queries * d * 4, step, 0, norms + d * 4, kv_heads, 0),
            KvRows(at + (queries + kv_heads) * d * 4, step, 0, 0, kv_heads, 0), device.address(self.rotated), queries * d * 4, 0, slots,
            slots, EPSILON, d, 0, frequencies_of(d))
        self.call = context.caller(device.stream, ("auxcore_kv_append_tokens", c.pointer(cache), c.pointer(append)))

    def refresh(self, device):
        device.randomize(self.rows)
        for tensor in (self.rotated, self.keys, self.values):
            device.zero(tensor)

    def error(self, device, _):
        d, worst = self.d, 0.0
        rows, norms, rotated = [read(device, tensor, 0, count) for tensor, count in (
            (self.rows, (self.queries + 2 * self.kv_heads) * d), (self.norms, 2 * d), (self.rotated, self.queries * d))]
        heads = [rows[i:i + d] for i in range(0, len(rows), d)]
        for head in range(self.queries):
            expected = rotated_head(normed(heads[head], norms[:d]), self.slot)
            worst = max(worst, apart(rotated[head * d:head * d + d], expected) / 1e-6)
        for head in range(self.kv_heads):
            at = (head * self.positions + self.slot) * d
            key = rotated_head(normed(heads[self.queries + head], norms[d:]), self.slot)
            for cache, expected in ((self.keys, key), (self.values, heads[self.queries + self.kv_heads + head])):
                worst = max(worst, apart(read(device, cache, at, d, "bfloat16"), expected) * 2**8)
        return worst


class PredictCase(WriteCase):
    name, dtype, ours = "predict-write-1b-from-450m-n1024", "bf16", "cuBLAS, AuxCore"
    description = "KV Prediction, 1,024 tokens: OpenELM-450M's keys and values become those of 1.1B's 28 layers, normed and rotated"
    small_heads = [3] * 3 + [4] * 7 + [5] * 6 + [6] * 4
    base_heads = [4] * 3 + [5] * 7 + [6] * 8 + [7] * 6 + [8] * 4

    def sizes(self, small):
        """(tokens, elements of a head, heads of the small model's layers, of the large one's)"""
        return (5, 16, [1, 2], [2, 1, 3]) if small else (1024, 64, self.small_heads, self.base_heads)

    def bytes(self, small):
        tokens, d, given, predicted = self.sizes(small)
        weights = sum(heads * sum(layers) for heads, layers in groups_of(given, predicted)) * d
        return 2 * d * NARROW * (tokens * (sum(given) + sum(predicted)) + weights)

    def copy(self, device, context, small):
        return Predicted(device, context, *self.sizes(small))


def groups_of(given, predicted):
    """[(heads of a layer of the small model, those of the layers of the large one that are predicted from it)]"""
    each, more = divmod(len(predicted), len(given))
    layers = iter(predicted)
    return [(heads, [next(layers) for _ in range(each + (j < more))]) for j, heads in enumerate(given)]


class Group:
    """A layer of the small model, and those that are predicted from it, whose weights are one matrix. Pairs are of keys and values."""

    def __init__(self, device, tokens, d, given, heads):
        self.heads, self.depth, self.columns = heads, given * d, sum(heads) * d
        self.sources, self.weights, self.products = [
            [device.normal(count, "bfloat16") for _ in range(2)]
            for count in (tokens * self.depth, self.columns * self.depth, tokens * self.columns)]
        self.biases, self.norms = [device.normal(self.columns) for _ in range(2)], device.normal(len(heads) * d)
        self.caches = [[device.normal(count * tokens * d, "bfloat16") for _ in range(2)] for count in heads]


class Predicted:
    def __init__(self, device, context, tokens, d, given, predicted):
        self.tokens, self.d = tokens, d
        self.groups = [Group(device, tokens, d, heads, layers) for heads, layers in groups_of(given, predicted)]
        self._slots = device.integers(range(tokens))
        layers = [layer for group in self.groups for layer in self._layers(device, group)]
        slots = device.address(self._slots)
        predict = KvPredict(
            c.sizeof(KvPredict), tokens, DTYPES["bfloat16"], len(layers), (KvPredictLayer * len(layers))(*layers), 0, slots, slots, EPSILON,
            d, 0, frequencies_of(d))
        write = context.caller(device.stream, ("auxcore_kv_predict_write", c.pointer(predict)))
        self._formulas = formulas_of(device)
        self.call = self._formulas.after_products(self, write)

    def _layers(self, device, group):
        column = 0
        for i, heads in enumerate(group.heads):
            keys, values = [
                KvRows(device.address(group.products[side]) + column * NARROW, group.columns * NARROW,
                       device.address(group.biases[side]) + column * 4, device.address(group.norms) + i * self.d * 4 if side == 0 else 0,
                       heads, 0) for side in range(2)]
            cache = contiguous_cache(
                "bf16", self.d * NARROW, *[device.address(plane) for plane in group.caches[i]], 1, heads, self.d, self.tokens)
            yield KvPredictLayer(cache, keys, values)
            column += heads * self.d

    def refresh(self, device):
        for group in self.groups:
            for tensor in group.sources:
                device.randomize(tensor)
            for tensor in (plane for planes in group.caches for plane in planes):
                device.zero(tensor)
        self._formulas.refreshed(device, self)

    def error(self, device, some):
        """Of some heads of one token."""
        d, token, worst = self.d, some.randrange(self.tokens), 0.0
        for group in some.sample(self.groups, min(4, len(self.groups))):
            i = some.randrange(len(group.heads))
            head = some.randrange(group.heads[i])
            column = (sum(group.heads[:i]) + head) * d
            norm = read(device, group.norms, i * d, d)
            for side in range(2):
                source = read(device, group.sources[side], token * group.depth, group.depth, "bfloat16")
                weights = read(device, group.weights[side], column * group.depth, d * group.depth, "bfloat16")
                bias = read(device, group.biases[side], column, d)
                row = [sum(a * b for a, b in zip(source, weights[k * group.depth:])) + bias[k] for k in range(d)]
                expected = rotated_head(normed(row, norm), token) if side == 0 else row
                actual = read(device, group.caches[i][side], (head * self.tokens + token) * d, d, "bfloat16")
                worst = max(worst, apart(actual, expected) * 2**8)
        return worst


def frequencies_of(d):
    return (c.c_double * (d // 2))(*[10_000.0**(-2 * pair / d) for pair in range(d // 2)])


def read(device, tensor, first, count, dtype="float32"):
    return unpack(device.raw(tensor, first * SIZES[dtype], (first + count) * SIZES[dtype]), dtype)


def normed(row, weights):
    inverse = 1 / math.sqrt(sum(x * x for x in row) / len(row) + EPSILON)
    return [w * x * inverse for x, w in zip(row, weights, strict=True)]


def rotated_head(row, position):
    half, turned = len(row) // 2, list(row)
    for pair, frequency in enumerate(frequencies_of(len(row))):
        cosine, sine = math.cos(position * frequency), math.sin(position * frequency)
        turned[pair] = row[pair] * cosine - row[half + pair] * sine
        turned[half + pair] = row[half + pair] * cosine + row[pair] * sine
    return turned


def apart(actual, expected):
    """The greatest difference, in parts of the greatest element."""
    worst = max(abs(a - e) for a, e in zip(actual, expected, strict=True)) / max(map(abs, expected))
    return worst if math.isfinite(worst) else math.inf


CASES = [AppendCase(), PredictCase()]
