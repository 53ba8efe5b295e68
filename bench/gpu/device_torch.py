"""A GPU, with PyTorch as the owner of memory, streams, events and graphs.

device_standin.py has the same methods; cases use no others, except for their baselines."""

import contextlib
import gc
import math

import torch


class TorchDevice:
    is_standin = False
    compile_seconds = 30  # how long a baseline may take to compile

    def __init__(self, seed=1):
        torch.cuda.init()
        self._device = torch.device("cuda", torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(self._device)
        self.name = properties.name
        self.l2_bytes = getattr(properties, "L2_cache_size", 0) or 64 << 20
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._flushed = torch.empty(2 * self.l2_bytes, dtype=torch.uint8, device=self._device)

    # ---- memory ----

    def normal(self, count, dtype="float32"):
        """count random elements of the standard normal distribution."""
        wide = torch.randn(count, generator=self._generator, device=self._device, dtype=torch.float32)
        return wide if dtype == "float32" else wide.to(getattr(torch, dtype))

    def integers(self, values):
        """int32 in device memory."""
        return torch.tensor(values, dtype=torch.int32, device=self._device)

    def randomize(self, tensor):
        tensor.normal_(generator=self._generator)

    def zero(self, tensor):
        tensor.zero_()

    def address(self, tensor):
        return tensor.data_ptr()

    def copy(self, target, source):
        """target <- source, asynchronously."""
        target.copy_(source)

    def triad(self, target, source):
        """target <- target + 1e-6 source, asynchronously."""
        target.add_(source, alpha=1e-6)

    def raw(self, tensor, begin, end):
        """Some of the tensor's bytes."""
        return tensor.view(torch.uint8)[begin:end].cpu().numpy().tobytes()

    # ---- arithmetic in float64, for checks ----

    def float64(self, tensors):
        """The tensors' elements one after the other, in what can be added, subtracted and multiplied."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors]).double()

    def larger_magnitude(self, a, b):
        return torch.maximum(a.abs(), b.abs())

    def ulps(self, actual, expected, scale):
        """The largest |actual - expected| in float32 units in the last place of scale; infinite where one is NaN or infinite."""
        narrow = scale.float()
        unit = (torch.nextafter(narrow, torch.full_like(narrow, math.inf)) - narrow).double()
        worst = ((actual - expected).abs() / unit).max().item()
        return worst if math.isfinite(worst) else math.inf

    # ---- streams and time ----

    def stream(self):
        return torch.cuda.current_stream().cuda_stream

    @contextlib.contextmanager
    def another_stream(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def delay(self):
        """Keeps the current stream busy for some milliseconds."""
        torch.cuda._sleep(10_000_000)

    def synchronize(self):
        torch.cuda.synchronize()

    def flush(self):
        """Writes twice the L2 cache, so that it holds nothing of any arm's."""
        self._flushed.zero_()

    def timer(self):
        return EventTimer()

    def capture(self, call):
        """A function that replays call, which ran at least once before, as a CUDA graph."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def release(self):
        """Gives back what nobody refers to any more."""
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()

    # ---- what results.json says of it ----

    def versions(self):
        try:
            import triton

            version = triton.__version__
        except ImportError:
            version = None
        return {"pytorch": torch.__version__, "cuda": torch.version.cuda, "triton": version}


class EventTimer:
    """The time between two points of the current stream."""

    def __init__(self):
        self._begin, self._end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def start(self):
        self._begin.record()

    def stop(self):
        self._end.record()

    def microseconds(self):
        self._end.synchronize()
        return 1e3 * self._begin.elapsed_time(self._end)
