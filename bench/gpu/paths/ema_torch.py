"""What PyTorch offers for EmaUpdate: eager loops, _foreach, torch.compile, Triton; as CUDA graphs too where launches are the cost."""

import contextlib
import signal

import torch

from cases import Arm, one_line
from paths import ema


def baselines(case, device, data):
    weights = [1 - decay for decay in case.decays]
    narrow = case.source != "float32"
    arms, left_out = [], []

    def lerp_loop(i):
        for weight, row in zip(weights, data[i].averages):
            for average, source in zip(row, data[i].sources):
                average.lerp_(source.float() if narrow else source, weight)

    def foreach(i):
        sources = data[i].sources
        if narrow:
            torch._foreach_copy_(wide, sources)
            sources = wide
        for weight, row in zip(weights, data[i].averages):
            torch._foreach_lerp_(row, sources, weight)

    def mul_add_loop(i):
        for decay, weight, row in zip(case.decays, weights, data[i].averages):
            for average, source in zip(row, data[i].sources):
                average.mul_(decay).add_(source, alpha=weight)

    wide = [torch.empty_like(source, dtype=torch.float32) for source in data[0].sources] if narrow else None
    arms.append(Arm("lerp_ per tensor", lerp_loop))
    arms.append(Arm("_foreach_copy_, _foreach_lerp_" if narrow else "_foreach_lerp_", foreach))
    for name, make in (("torch.compile", compiled), ("Triton, a table of tensors", triton_table)):
        try:
            with time_limit(device.compile_seconds):
                arm = Arm(name, make(case, data, weights))
                arm.call(0)
                torch.cuda.synchronize()
            arms.append(arm)
        except Exception as error:  # noqa: BLE001: an arm less, and the reason
            left_out.append(f"{name} left out: {one_line(error)}")
    if case.launch_bound:
        for arm in arms[1:]:
            try:
                arms.append(ema.captured(device, f"{arm.name}, in a graph", arm, data))
            except Exception as error:  # noqa: BLE001: an arm less, and the reason
                left_out.append(f"{arm.name}, in a graph, left out: {one_line(error)}")
    return arms, Arm("mul_().add_() per tensor", mul_add_loop), left_out


def compiled(case, data, weights):
    """_foreach_lerp_ of all averages, which the compiler joins into few kernels that read each source once."""
    torch._dynamo.reset()

    @torch.compile(dynamic=False)
    def update(rows, sources):
        wide = [source.float() for source in sources]
        for weight, row in zip(weights, rows):
            torch._foreach_lerp_(row, wide, weight)

    return lambda i: update(data[i].averages, data[i].sources)


def triton_table(case, data, weights):
    """One launch over a table of pieces, made beforehand: what somebody would write who trusts that no tensor moves."""
    from paths import ema_triton

    tables = [ema_triton.Table(copy.sources, copy.averages, weights) for copy in data]
    return lambda i: tables[i].update()


@contextlib.contextmanager
def time_limit(seconds):
    """TimeoutError where the block takes longer; repeated, because compilers swallow exceptions."""
    def expired(*_):
        raise TimeoutError(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
