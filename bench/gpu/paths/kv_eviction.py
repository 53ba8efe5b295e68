"""SnapKV of one layer: KvWindowScores, behind a product of others or from queries and keys, and KvEvict in place. The baselines gather
into new tensors.

Errors are shares of what is kept that float64 does not keep: scores that are nearly equal may change places."""

import ctypes as c
import math

from auxcore_kv import KvEviction, KvWindow, KvWindowProduct, contiguous_cache
from auxcore_tokens import COUNT
from cases import Arm, Case, Workload
from paths.ema import captured
from timing import copies_beyond

MOST = 2**31 - 1


class EvictCase(Case):
    path, name, dtype, ours = "kv-approximation", "evict-snapkv-n8192", "f32", "cuBLAS, AuxCore"
    description = "SnapKV of one layer: 8,192 positions become 1,024, 32 query heads over 8 of keys and values of 64"
    in_place = False
    tolerance = baseline_tolerance = 0.01

    def build(self, device, context, small, baselines):
        shape = Shape(4, 2, 8, 40, 4, 12, 3) if small else Shape(32, 8, 64, 8192, 64, 1024, 5)
        moved = 4 * shape.d * (shape.query_heads * shape.window + shape.kv_heads * (shape.positions + 4 * shape.kept))
        copies = copies_beyond(moved, device.l2_bytes)
        formulas = formulas_of(device)
        data = [Evicted(device, context, shape, formulas) for _ in range(copies)]
        ours = {"": Arm(self.ours, lambda i: data[i].call())}
        ours["-graph"] = captured(device, f"{self.ours}, in a graph", ours[""], data)
        ours["-product"] = Arm("AuxCore's own product", lambda i: data[i].call_from_keys())
        candidates, published, left_out = formulas.baselines(device, data) if baselines else ([], None, [])

        def error(arm, i):
            data[i].refresh(device)
            arm.call(i)
            device.synchronize()
            return formulas.error(device, data[i], arm in ours.values())

        return Workload(
            copies=copies, cache_bytes=device.l2_bytes, bytes=moved, ours=ours, candidates=candidates, published=published, error=error,
            left_out=left_out)


def formulas_of(device):
    """Baselines, checks and the product where the data are: PyTorch's, or plain Python's."""
    if device.is_standin:
        from paths import kv_eviction_host

        return kv_eviction_host
    from paths import kv_eviction_torch

    return kv_eviction_torch


class Shape:
    def __init__(self, query_heads, kv_heads, d, positions, window, kept, pool):
        self.query_heads, self.kv_heads, self.d, self.positions = query_heads, kv_heads, d, positions
        self.window, self.kept, self.pool, self.group = window, kept, pool, query_heads // kv_heads


class Evicted:
    """The last queries of a prompt, its keys and values, and AuxCore's work on them."""

    def __init__(self, device, context, shape, formulas):
        self.shape, self._formulas = shape, formulas
        rows = shape.group * shape.window
        self.queries = device.normal(shape.kv_heads * rows * shape.d)
        self.keys, self.values = [device.normal(shape.kv_heads * shape.positions * shape.d) for _ in range(2)]
        self.kept_keys, self.kept_values = [device.normal(shape.kv_heads * shape.kept * shape.d) for _ in range(2)]  # the baselines'
        self.logits, self.scores = [device.normal(shape.kv_heads * shape.positions * count) for count in (rows, 1)]
        self.lengths, self.full = [device.integers([shape.positions] * shape.kv_heads) for _ in range(2)]
        self.expected = None
        window = KvWindow(
            c.sizeof(KvWindow), shape.kv_heads, shape.group, shape.window, shape.positions, 1, 1 / math.sqrt(shape.d),
            device.address(self.logits), device.address(self.scores), 0, 0)
        cache = contiguous_cache(
            "f32", 4 * shape.d, device.address(self.keys), device.address(self.values), 1, shape.kv_heads, shape.d, shape.positions)
        eviction = KvEviction(
            c.sizeof(KvEviction), COUNT, shape.kept, 0, MOST, shape.pool, 0.0, 0, shape.window, 0.0, 0, 0, shape.positions, 0,
            device.address(self.scores), device.address(self.lengths), 0, 0, 0, 0)
        product = KvWindowProduct(
            c.sizeof(KvWindowProduct), shape.kv_heads, shape.group, shape.window, shape.positions, 1, shape.d, 0, 1 / math.sqrt(shape.d),
            device.address(self.queries), device.address(self.keys), shape.d, shape.positions * shape.d, device.address(self.scores), 0, 0)
        sizes = [c.c_int64(), c.c_int64(), c.c_int64()]
        context.library.call("auxcore_kv_window_workspace", c.byref(window), c.byref(sizes[0]))
        context.library.call("auxcore_kv_window_product_workspace", c.byref(product), c.byref(sizes[1]))
        context.library.call("auxcore_kv_evict_workspace", 1, shape.kv_heads, shape.positions, c.byref(sizes[2]))
        self._workspaces = [device.normal(-(-size.value // 4)) for size in sizes]
        for struct, workspace, size in zip((window, product, eviction), self._workspaces, sizes, strict=True):
            struct.workspace, struct.workspace_bytes = device.address(workspace), size.value
        evict = ("auxcore_kv_evict", c.pointer(cache), c.pointer(eviction))
        self.call = formulas.after_product(
            device, self, context.caller(device.stream, ("auxcore_kv_window_scores", c.pointer(window)), evict))
        self.call_from_keys = formulas.with_full_lengths(
            device, self, context.caller(device.stream, ("auxcore_kv_window_scores_of_product", c.pointer(product)), evict))

    def refresh(self, device):
        for tensor in (self.queries, self.keys, self.values):
            device.randomize(tensor)
        self._formulas.refreshed(device, self)


CASES = [EvictCase()]
