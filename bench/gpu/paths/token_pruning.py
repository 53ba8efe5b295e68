"""Token pruning: scores, selection, compaction and pooling, and the three of FastV in a row.

Errors: entries that differ, for what selects and moves; relative to the largest result, for what computes. Inputs are those of bench/Cases,
but hidden states, keys and values are bfloat16, as models have them on a device."""

import ctypes as c
import math

from auxcore import SIZES
from auxcore_tokens import COUNT, DTYPES, TokenPoolBatch, TokenScoresBatch, TokenSelectBatch, TokenSelection, rows_of
from cases import Arm, Case, Workload
from paths.ema import captured
from timing import copies_beyond

MOST = 2**31 - 1


class TokenCase(Case):
    """A case makes copies of its data, which have the attributes that arms and baselines read, and `call`, AuxCore's work on them."""

    path, in_place = "token-pruning", False
    tolerance = baseline_tolerance = 0.0

    def __init__(self, name, description, dtype="f32", **sizes):
        self.name, self.description, self.dtype, self.sizes = name, description, dtype, sizes

    @property
    def element(self):
        return {"f32": "float32", "bf16": "bfloat16"}[self.dtype]

    def build(self, device, context, small, baselines):
        shape = Shape(self.sizes | (self.small if small else {}))
        moved = self.bytes(shape)
        copies = copies_beyond(moved, device.l2_bytes)
        data = [self.copy(device, context, shape) for _ in range(copies)]
        ours = {"": Arm("AuxCore", lambda i: data[i].call())}
        ours["-graph"] = captured(device, "AuxCore, in a graph", ours[""], data)
        formulas = formulas_of(device)
        candidates, published, left_out = formulas.baselines(self, device, data) if baselines else ([], None, [])

        def error(arm, i):
            self.refresh(device, data[i])
            arm.call(i)
            device.synchronize()
            return formulas.error(self, device, data[i])

        return Workload(
            copies=copies, cache_bytes=device.l2_bytes, bytes=moved, ours=ours, candidates=candidates, published=published, error=error,
            left_out=left_out)


class Shape:
    def __init__(self, sizes):
        self.__dict__.update(sizes)


class Copy:
    """One copy of a case's data."""


def formulas_of(device):
    """Baselines and checks where the data are: PyTorch's, or plain Python's."""
    if device.is_standin:
        from paths import token_pruning_host

        return token_pruning_host
    from paths import token_pruning_torch

    return token_pruning_torch


class SelectCase(TokenCase):
    small = {"tokens": 70, "kept": 9}

    def bytes(self, shape):
        return shape.tokens * 8 + shape.kept * 4

    def copy(self, device, context, shape):
        copy = Copy()
        copy.shape, copy.scores = shape, device.normal(shape.tokens)
        add_selection(device, copy, shape.tokens, shape.kept)
        copy.call = context.caller(device.stream, ("auxcore_token_select", c.pointer(select_batch(device, copy))))
        return copy

    def refresh(self, device, copy):
        device.randomize(copy.scores)


class CompactCase(TokenCase):
    small = {"tokens": 20, "kept": 7, "width": 6, "tensors": 2}

    def bytes(self, shape):
        return 2 * shape.kept * shape.width * shape.heads * shape.tensors * SIZES[self.element]

    def copy(self, device, context, shape):
        copy = Copy()
        copy.shape = shape
        add_selection(device, copy, shape.tokens, shape.kept)
        copy.kept = [place * shape.tokens // shape.kept for place in range(shape.kept)]
        copy.indices = device.integers(copy.kept)
        copy.offsets = device.integers([0, shape.kept])
        row = shape.width * shape.heads
        copy.sources = [device.normal(shape.tokens * row, self.element) for _ in range(shape.tensors)]
        copy.outputs = [device.normal(shape.kept * row, self.element) for _ in range(shape.tensors)]
        tensors = [
            rows_of(device.address(source), device.address(output), shape.width * SIZES[self.element], shape.tokens, shape.kept,
                    shape.heads)
            for source, output in zip(copy.sources, copy.outputs, strict=True)]
        copy.call = context.caller(device.stream, compact_call(device, copy, tensors))
        return copy

    def refresh(self, device, copy):
        for tensor in copy.outputs:
            device.zero(tensor)


class ScoresCase(TokenCase):
    tolerance, baseline_tolerance = 8e-6, 8e-6
    small = {"heads": 2, "tokens": 40, "depth": 8}

    def bytes(self, shape):
        return (shape.heads * (1 + shape.tokens) * shape.depth + shape.tokens) * 4

    def copy(self, device, context, shape):
        copy = Copy()
        copy.shape = shape
        copy.queries, copy.keys = device.normal(shape.heads * shape.depth), device.normal(shape.heads * shape.tokens * shape.depth)
        copy.scores = device.normal(shape.tokens)
        copy.call = context.caller(device.stream, scores_call(device, context, copy))
        return copy

    def refresh(self, device, copy):
        device.randomize(copy.queries)
        device.zero(copy.scores)


class PoolCase(TokenCase):
    tolerance, baseline_tolerance = 2.0**-8, 2.0**-7  # one rounding to bfloat16; PyTorch may round its sums as well
    small = {"side": 6, "channels": 8}

    def bytes(self, shape):
        return (shape.side**2 + (shape.side // 4 + (shape.side % 4 > 0))**2) * shape.channels * SIZES[self.element]

    def copy(self, device, context, shape):
        copy = Copy()
        copy.shape, copy.cells = shape, -(-shape.side // 4)
        copy.tokens = device.normal(shape.side**2 * shape.channels, self.element)
        copy.pooled = device.normal(copy.cells**2 * shape.channels, self.element)
        batch = TokenPoolBatch(
            c.sizeof(TokenPoolBatch), DTYPES[self.element], 1, shape.side, shape.side, shape.channels, copy.cells, copy.cells, 4, 4,
            device.address(copy.tokens), device.address(copy.pooled))
        copy.call = context.caller(device.stream, ("auxcore_token_pool", c.pointer(batch)))
        return copy

    def refresh(self, device, copy):
        device.zero(copy.pooled)


class PipelineCase(TokenCase):
    """FastV: scores of the last row, the better half of the visual tokens and all others, hidden states compacted. Four launches."""

    small = {"heads": 2, "tokens": 40, "depth": 8, "first": 3, "visual": 30, "width": 6}

    def bytes(self, shape):
        return (shape.heads * shape.tokens * shape.depth + 2 * kept_of(shape) * shape.width) * 4

    def copy(self, device, context, shape):
        copy = Copy()
        copy.shape, kept = shape, kept_of(shape)
        copy.queries, copy.keys = device.normal(shape.heads * shape.depth), device.normal(shape.heads * shape.tokens * shape.depth)
        copy.scores = device.normal(shape.tokens)
        add_selection(device, copy, shape.tokens, kept)
        text = [int(not shape.first <= token < shape.first + shape.visual) for token in range(shape.tokens)]
        copy.text = device.integers([int.from_bytes(bytes(text[i:i + 4]), "little") for i in range(0, shape.tokens, 4)])  # bytes
        copy.sources, copy.outputs = [device.normal(shape.tokens * shape.width)], [device.normal(kept * shape.width)]
        select = select_batch(device, copy)
        select.always = device.address(copy.text)
        tensors = [rows_of(device.address(copy.sources[0]), device.address(copy.outputs[0]), shape.width * 4, shape.tokens, kept)]
        copy.call = context.caller(
            device.stream, scores_call(device, context, copy), ("auxcore_token_select", c.pointer(select)),
            compact_call(device, copy, tensors))
        return copy

    def refresh(self, device, copy):
        device.randomize(copy.queries)
        device.zero(copy.outputs[0])


def kept_of(shape):
    return shape.tokens - shape.visual + shape.visual // 2


def add_selection(device, copy, tokens, kept):
    copy.count = kept
    copy.bounds, copy.offsets = device.integers([0, tokens]), device.integers([0, 0])
    copy.indices, copy.slots = device.integers([0] * kept), device.integers([0] * tokens)


def select_batch(device, copy):
    return TokenSelectBatch(
        c.sizeof(TokenSelectBatch), 0, copy.shape.tokens, 1, COUNT, copy.count, 0, MOST, 0.0, copy.count, 0, device.address(copy.scores),
        device.address(copy.bounds), 0, device.address(copy.indices), device.address(copy.offsets), device.address(copy.slots), 0, 0, 0)


def compact_call(device, copy, tensors):
    selection = TokenSelection(
        c.sizeof(TokenSelection), 1, device.address(copy.bounds), device.address(copy.offsets), device.address(copy.indices), copy.count, 0)
    return "auxcore_token_compact", c.pointer(selection), (type(tensors[0]) * len(tensors))(*tensors), len(tensors)


def scores_call(device, context, copy):
    shape, steps = copy.shape, c.c_int64 * 3
    batch = TokenScoresBatch(
        c.sizeof(TokenScoresBatch), 0, 1, shape.heads, shape.heads, 1, shape.tokens, shape.depth, 1 / math.sqrt(shape.depth), 0,
        steps(shape.heads * shape.depth, shape.depth, shape.depth),
        steps(shape.heads * shape.tokens * shape.depth, shape.tokens * shape.depth, shape.depth), device.address(copy.queries),
        device.address(copy.keys), 0, 0, device.address(copy.scores), 0, 0)
    size = c.c_int64()
    context.library.call("auxcore_token_scores_workspace", c.byref(batch), c.byref(size))
    copy.workspace = device.normal(size.value // 4)  # on a boundary of 256 bytes, as PyTorch's and the driver's own allocations are
    batch.workspace, batch.workspace_bytes = device.address(copy.workspace), size.value
    return "auxcore_token_scores", c.pointer(batch)


CASES = [
    SelectCase("select-16384", "the 1,820 best of 16,384 tokens, in order, and each token's place", tokens=16384, kept=1820),
    CompactCase(
        "compact-hidden-16384x3584", "hidden states of the 1,820 kept of 16,384 tokens, as in Qwen2-VL-7B", "bf16", tokens=16384, kept=1820,
        width=3584, heads=1, tensors=1),
    CompactCase(
        "compact-kv-28x16384", "keys and values of 28 layers, 4 heads of 128, 1,820 kept of 16,384 tokens", "bf16", tokens=16384, kept=1820,
        width=128, heads=4, tensors=56),
    ScoresCase("scores-last-row-32x640", "FastV's score: mean attention of the last of 640 rows, 32 heads of 128", heads=32, tokens=640,
               depth=128),
    PoolCase("pool-128x128x3584", "windows of 4 x 4 over 128 x 128 tokens of 3584 channels", "bf16", side=128, channels=3584),
    PipelineCase(
        "pipeline-576x4096", "FastV: last-row scores of 32 heads, half of 576 visual tokens among 640, hidden states of 4,096 compacted",
        heads=32, tokens=640, depth=128, first=35, visual=576, width=4096),
]
