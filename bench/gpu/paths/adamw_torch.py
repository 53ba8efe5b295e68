"""What PyTorch offers for AdamWUpdate: its optimiser fused, as _foreach and per tensor, and then the average; as CUDA graphs too."""

import torch

from cases import Arm, one_line
from paths import adamw, ema

LATE = 1e6  # steps so far: the corrections of the moments' bias are 1


def baselines(case, device, data):
    arms, left_out = [], []
    for name, options, average in (
            ("AdamW(fused=True), _foreach_lerp_", {"fused": True, "capturable": True}, foreach_lerp),
            ("AdamW(foreach=True), _foreach_lerp_", {"foreach": True, "capturable": True}, foreach_lerp)):
        try:
            arms.append(Arm(name if case.decays else name.split(",")[0], stepping(case, data, options, average)))
            arms[-1].call(0)
            torch.cuda.synchronize()
            arms.append(ema.captured(device, f"{arms[-1].name}, in a graph", arms[-1], data))
        except Exception as error:  # noqa: BLE001: an arm less, and the reason
            left_out.append(f"{name} left out: {one_line(error)}")
    plain = stepping(case, data, {"foreach": False, "fused": False}, lerp_loop)
    return arms, Arm("AdamW per tensor, lerp_ per tensor" if case.decays else "AdamW per tensor", plain), left_out


def stepping(case, data, options, average):
    optimizers = [optimizer_of(copy, options) for copy in data]

    def step(i):
        optimizers[i].step()
        for decay, row in zip(case.decays, data[i].averages):
            average(row, data[i].parameters, 1 - decay)

    return step


def optimizer_of(copy, options):
    """An optimiser over the case's own memory: parameters, gradients and moments are the tensors that all arms work on."""
    parameters = [torch.nn.Parameter(tensor) for tensor in copy.parameters]
    optimizer = torch.optim.AdamW(
        parameters, lr=adamw.RATE, betas=(adamw.BETA1, adamw.BETA2), eps=adamw.EPSILON, weight_decay=adamw.DECAY, **options)
    on_device = options.get("fused") or options.get("capturable")
    for parameter, gradient, first, second in zip(parameters, copy.gradients, copy.first, copy.second):
        parameter.grad = gradient
        step = torch.tensor(LATE, device=gradient.device if on_device else "cpu")
        optimizer.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
    return optimizer


def foreach_lerp(averages, parameters, weight):
    torch._foreach_lerp_(averages, parameters, weight)


def lerp_loop(averages, parameters, weight):
    for average, parameter in zip(averages, parameters):
        average.lerp_(parameter, weight)
