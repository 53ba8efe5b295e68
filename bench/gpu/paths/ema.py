"""EmaUpdate: average <- fma(1 - decay, source - average, average) over lists of tensors. Errors in ulps of max(|average|, |source|)."""

import math
import struct

from auxcore import SIZES, EmaTensors
from cases import Arm, Case, Workload
from timing import copies_beyond


def vit_s16():
    """The parameters of a ViT-S/16 (Touvron et al. 2021) with 1,000 classes, as bench/Workloads/VisionTransformer.cs builds it."""
    width, tokens, hidden, classes = 384, (224 // 16) ** 2 + 1, 4 * 384, 1000
    block = [
        width, width, 3 * width * width, 3 * width, width * width, width,  # norm, queries with keys and values, projection
        width, width, hidden * width, hidden, width * hidden, width,  # norm, perceptron
    ]
    return [width * 3 * 16 * 16, width, width, tokens * width, *block * 12, width, width, classes * width, classes]


# Element counts for the stand-in, which needs microseconds an element: below a vector, odd, several pieces of the kernel.
SMALL = [1, 3, 257, 256, 5000]


class EmaCase(Case):
    path = "ema"
    tolerance = 1.0  # tests/Tolerances.cs
    baseline_tolerance = 4.0  # lerp_ and mul_().add_() round the weights and the products apart

    def __init__(self, name, description, sizes, decays=(0.999,), source="float32", launch_bound=False, many=False):
        """launch_bound: launching costs as much as the work, so graphs are timed too. many: so many tensors that comparing their addresses
        and calling for each of them counts, so frozen tables and wall time are timed too."""
        if not all(0.5 < decay < 1 for decay in decays):
            raise ValueError("the check takes the weight to be (float)(1 - decay), which is so between 1/2 and 1")
        self.name, self.description, self.sizes, self.decays, self.source = name, description, sizes, decays, source
        self.dtype = {"float32": "f32", "bfloat16": "bf16 to f32", "float16": "f16 to f32"}[source]
        self.launch_bound, self.many = launch_bound, many
        self.clocks = ("device", "wall") if many else ("device",)

    def build(self, device, context, small, baselines):
        sizes = SMALL if small else self.sizes
        elements = sum(sizes)
        copies = copies_beyond(elements * (SIZES[self.source] + 4 * len(self.decays)), device.l2_bytes)
        data = [Copy(device, context, sizes, self.decays, self.source) for _ in range(copies)]
        ours = {"": self._ours(device, data)}
        if self.many:
            ours["-frozen"] = self._ours(device, data, frozen=True)
        if self.launch_bound:
            ours["-graph"] = captured(device, "AuxCore, in a graph", ours[""], data)
        candidates, published, left_out = baselines_of(self, device, data) if baselines else ([], None, [])
        return Workload(
            copies=copies, cache_bytes=device.l2_bytes, bytes=elements * (SIZES[self.source] + 8 * len(self.decays)), ours=ours,
            candidates=candidates, published=published, error=lambda arm, i: self._error(device, arm, data[i], i), left_out=left_out,
            close=lambda: [copy.close() for copy in data])

    def _ours(self, device, data, frozen=False):
        """frozen: no addresses are handed over, so none are compared."""
        for copy in data:
            copy.table.set_decays(device.stream(), self.decays)
            copy.table.update(device.stream(), copy.tensors)  # builds the table
        calls = [copy.table.caller(device.stream, self.decays, None if frozen else copy.tensors) for copy in data]
        return Arm("AuxCore, frozen" if frozen else "AuxCore", lambda i: calls[i]())

    def _error(self, device, arm, copy, i):
        for average in (average for row in copy.averages for average in row):
            device.randomize(average)
        sources, before = device.float64(copy.sources), [device.float64(row) for row in copy.averages]
        arm.call(i)
        device.synchronize()
        return max(
            device.ulps(device.float64(row), e + float32(1 - decay) * (sources - e), device.larger_magnitude(e, sources))
            for decay, e, row in zip(self.decays, before, copy.averages, strict=True))


class Copy:
    """Sources, their averages (a row a decay) and AuxCore's table of them."""

    def __init__(self, device, context, sizes, decays, source):
        self.sources = [device.normal(size, source) for size in sizes]
        self.averages = [[device.normal(size) for size in sizes] for _ in decays]
        self.table = context.ema(len(decays))
        self.tensors = EmaTensors([
            (device.address(p), [device.address(row[i]) for row in self.averages], size, source)
            for i, (p, size) in enumerate(zip(self.sources, sizes, strict=True))])

    def close(self):
        self.table.destroy()


def captured(device, name, arm, data):
    """The arm as one graph for each copy; it ran before, so that nothing is compiled or built while it is captured."""
    replays = []
    for i in range(len(data)):
        arm.call(i)
        replays.append(device.capture(lambda i=i: arm.call(i)))
    return Arm(name, lambda i: replays[i]())


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def baselines_of(case, device, data):
    """(candidates for the best baseline, the published expression, why others are left out)"""
    if device.is_standin:
        loop = Arm("lerp on the host", lambda i: lerp_on_host(case, device, data[i]))
        published = Arm("mul and add on the host", lambda i: lerp_on_host(case, device, data[i], published=True))
        return [loop], published, ["the stand-in has no PyTorch"]
    from paths import ema_torch

    return ema_torch.baselines(case, device, data)


def lerp_on_host(case, device, copy, published=False):
    for decay, row in zip(case.decays, copy.averages, strict=True):
        weight = float32(1 - decay)
        for average, source in zip(row, copy.sources, strict=True):
            if published:
                device.host_loop(average, source, lambda e, p: math.fsum((decay * e, (1 - decay) * p)))  # noqa: B023: called at once
            else:
                device.host_loop(average, source, lambda e, p: e + weight * (p - e))  # noqa: B023


CASES = [
    EmaCase("many-small-2000x256", "2,000 tensors of 256 elements", [256] * 2000, launch_bound=True, many=True),
    EmaCase("one-100m", "one tensor of 100 million elements", [100_000_000]),
    EmaCase("vit-s-22m", "the parameters of a ViT-S/16: 152 tensors, 22 million elements", vit_s16(), launch_bound=True),
    EmaCase("bf16-source-100m", "the same tensor, its source in bfloat16", [100_000_000], source="bfloat16"),
    EmaCase("three-decays-vit-s", "a ViT-S/16 with averages of three widths", vit_s16(), decays=(0.99, 0.999, 0.9999), launch_bound=True),
    EmaCase("bf16-source-vit-s", "a ViT-S/16 in bfloat16", vit_s16(), source="bfloat16", launch_bound=True),
]
