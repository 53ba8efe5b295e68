"""AdamWUpdate: a step of AdamW for lists of tensors, with an average in the same pass. Errors in ulps of what is added up.

The corrections of the moments' bias are left at 1, as they are after some thousand steps: the coefficients are the same for all arms."""

import math

from auxcore import AdamWSettings, AdamWTensors
from cases import Arm, Case, Workload
from paths.ema import SMALL, captured, float32, vit_s16
from timing import copies_beyond

RATE, DECAY, BETA1, BETA2, EPSILON = 1e-3, 0.05, 0.9, 0.999, 1e-8
STATES = 4  # parameter, gradient, two moments


class AdamWCase(Case):
    path, dtype = "ema", "f32"
    tolerance = 8.0  # tests/Tolerances.cs
    baseline_tolerance = 32.0  # their weights are rounded apart, and they divide in another order

    def __init__(self, name, description, sizes, averages=(), many=False):
        """averages: their decays. many: so many tensors that comparing their addresses and calling for each of them counts."""
        self.name, self.description, self.sizes, self.decays, self.many = name, description, sizes, averages, many
        self.clocks = ("device", "wall") if many else ("device",)

    def build(self, device, context, small, baselines):
        sizes = SMALL if small else self.sizes
        elements = sum(sizes)
        copies = copies_beyond(elements * 4 * (STATES + len(self.decays)), device.l2_bytes)
        data = [Copy(device, context, sizes, len(self.decays)) for _ in range(copies)]
        ours = {"": self._ours(device, data)}
        if self.many:
            ours["-frozen"] = self._ours(device, data, frozen=True)
        ours["-graph"] = captured(device, "AuxCore, in a graph", ours[""], data)
        candidates, published, left_out = baselines_of(self, device, data) if baselines else ([], None, [])
        return Workload(
            copies=copies, cache_bytes=device.l2_bytes, bytes=elements * (4 * STATES + 12 + 8 * len(self.decays)), ours=ours,
            candidates=candidates, published=published, error=lambda arm, i: self._error(device, arm, data[i], i), left_out=left_out,
            close=lambda: [copy.close() for copy in data])

    def _ours(self, device, data, frozen=False):
        for copy in data:
            copy.table.caller(device.stream, settings(), self.decays, copy.tensors)()  # builds the table
        calls = [copy.table.caller(device.stream, settings(), self.decays, None if frozen else copy.tensors) for copy in data]
        return Arm("AuxCore, frozen" if frozen else "AuxCore", lambda i: calls[i]())

    def _error(self, device, arm, copy, i):
        """Of the second of two steps, so that both moments are there."""
        for moment in (*copy.first, *copy.second):
            device.zero(moment)
        for _ in range(2):
            for tensor in (*copy.parameters, *copy.gradients):
                device.randomize(tensor)
            p, g, m, v, *averages = [device.float64(row) for row in copy.rows()]
            arm.call(i)
            device.synchronize()
        m_next = m + float32(1 - BETA1) * (g - m)
        v_next = v + float32(1 - BETA2) * (g * g - v)
        step = float32(RATE) * (m_next / (v_next.sqrt() + float32(EPSILON)))
        p_next = p - float32(RATE * DECAY) * p - step
        actual = [device.float64(row) for row in copy.rows()]
        larger = device.larger_magnitude
        checks = [(actual[0], p_next, larger(p, step)), (actual[2], m_next, larger(m, g)), (actual[3], v_next, larger(v, g * g))]
        for decay, e, now in zip(self.decays, averages, actual[STATES:], strict=True):
            checks.append((now, e + float32(1 - decay) * (actual[0] - e), larger(e, actual[0])))
        return max(device.ulps(*check) for check in checks)


class Copy:
    """Parameters, gradients, moments, averages (a row a decay) and AuxCore's table of them."""

    def __init__(self, device, context, sizes, average_count):
        self.parameters, self.gradients, self.first, self.second, *self.averages = [
            [device.normal(size) for size in sizes] for _ in range(STATES + average_count)]
        for moment in (*self.first, *self.second):
            device.zero(moment)
        self.table = context.adamw(average_count)
        self.tensors = AdamWTensors([
            (size, *[device.address(row[i]) for row in self.rows()]) for i, size in enumerate(sizes)])

    def rows(self):
        return [self.parameters, self.gradients, self.first, self.second, *self.averages]

    def close(self):
        self.table.destroy()


def settings():
    return AdamWSettings(1.0, 0.0, 1 - BETA1, 1 - BETA2, EPSILON, RATE, RATE * DECAY)


def baselines_of(case, device, data):
    """(candidates for the best baseline, the published expression, why others are left out)"""
    if device.is_standin:
        loop = Arm("a loop on the host", lambda i: step_on_host(case, device, data[i]))
        published = Arm("the loop once more", lambda i: step_on_host(case, device, data[i]))
        return [loop], published, ["the stand-in has no PyTorch"]
    from paths import adamw_torch

    return adamw_torch.baselines(case, device, data)


def step_on_host(case, device, copy):
    def step(p, m, v, *rest):
        *averages, g = rest
        m, v = m + (1 - BETA1) * (g - m), v + (1 - BETA2) * (g * g - v)
        p -= RATE * DECAY * p + RATE * m / (math.sqrt(v) + EPSILON)
        return [p, m, v, *[e + (1 - decay) * (p - e) for decay, e in zip(case.decays, averages, strict=True)]]

    for p, m, v, g, *averages in zip(copy.parameters, copy.first, copy.second, copy.gradients, *copy.averages, strict=True):
        device.host_map([p, m, v, *averages], [g], step)


CASES = [
    AdamWCase("adamw-vit-s", "AdamW on a ViT-S/16: 152 tensors, 22 million elements", vit_s16()),
    AdamWCase("adamw-ema-vit-s", "AdamW on a ViT-S/16 with one average", vit_s16(), averages=(0.999,)),
    AdamWCase(
        "adamw-ema-many-small-2000x256", "AdamW on 2,000 tensors of 256 with one average", [256] * 2000, averages=(0.999,), many=True),
]
