"""The stand-in driver in a GPU's place, without PyTorch: memory from auxcore_allocate, arithmetic in plain Python, times that mean nothing.

It is here so that what a GPU run does in Python can be run, and tested, on any machine. The stand-in's libcuda.so.1 is to be found before
the machine's own (LD_LIBRARY_PATH)."""

import contextlib
import ctypes as c
import math
import random
import struct
import time

from auxcore import SIZES

MAGNITUDE = 0x7FFFFFFF


class StandinDevice:
    is_standin = True

    def __init__(self, context, seed=1):
        self._driver = Driver()
        self._context = context
        self.name = context.describe().name.decode()
        self.l2_bytes = 1 << 12  # so little that two copies of a case's data exceed it
        self._random = random.Random(seed)
        self._stream = context.create_stream()
        self._flushed = self.normal(64)

    # ---- memory ----

    def normal(self, count, dtype="float32"):
        tensor = Tensor(self._context.allocate(max(1, count) * SIZES[dtype]), count, dtype)
        self.randomize(tensor)
        return tensor

    def integers(self, values):
        """int32 in device memory."""
        tensor = Tensor(self._context.allocate(max(1, len(values)) * SIZES["int32"]), len(values), "int32")
        self._write(tensor, values)
        return tensor

    def randomize(self, tensor):
        self._write(tensor, [self._random.gauss(0, 1) for _ in range(tensor.count)])

    def address(self, tensor):
        return tensor.address

    def copy(self, target, source):
        self._context.call("auxcore_copy_on_device", self._stream, target.address, source.address, source.bytes)

    def triad(self, target, source):
        self.host_loop(target, source, lambda y, x: y + 1e-6 * x)

    def zero(self, tensor):
        self._context.call("auxcore_fill", self._stream, tensor.address, 0, tensor.bytes)

    def host_loop(self, target, source, function):
        """target[i] <- function(target[i], source[i]), by the host."""
        self.host_map([target], [source], lambda y, x: [function(y, x)])

    def host_map(self, targets, sources, function):
        """The i-th elements of the targets <- function(theirs, the i-th elements of the sources), by the host."""
        rows = zip(*[self._read(tensor) for tensor in (*targets, *sources)], strict=True)
        for target, values in zip(targets, zip(*[function(*row) for row in rows]), strict=True):
            self._write(target, values)

    def _write(self, tensor, values):
        data = pack(values, tensor.dtype)
        self._context.call("auxcore_copy_to_device", self._stream, tensor.address, data, len(data))

    def _read(self, tensor):
        data = (c.c_char * tensor.bytes)()
        self._context.call("auxcore_copy_to_host", self._stream, data, tensor.address, tensor.bytes)
        return unpack(bytes(data), tensor.dtype)

    def raw(self, tensor, begin, end):
        """Some of the tensor's bytes."""
        data = (c.c_char * (end - begin))()
        self._context.call("auxcore_copy_to_host", self._stream, data, tensor.address + begin, end - begin)
        return bytes(data)

    # ---- arithmetic in float64, for checks ----

    def float64(self, tensors):
        return Vector(value for tensor in tensors for value in self._read(tensor))

    def larger_magnitude(self, a, b):
        return Vector(max(abs(x), abs(y)) for x, y in zip(a, b))

    def ulps(self, actual, expected, scale):
        distances = [abs(a - e) / ulp32(s) for a, e, s in zip(actual, expected, scale, strict=True)]
        return max(distances, default=0.0) if all(map(math.isfinite, distances)) else math.inf

    # ---- streams and time ----

    def stream(self):
        return self._stream

    @contextlib.contextmanager
    def another_stream(self):
        before, self._stream = self._stream, self._context.create_stream()
        self._context.call("auxcore_stream_wait", self._stream, before)
        try:
            yield
        finally:
            self._context.call("auxcore_stream_wait", before, self._stream)
            self._context.call("auxcore_stream_destroy", self._stream)
            self._stream = before

    def delay(self):
        """The stand-in's streams do nothing before somebody waits for them."""

    def synchronize(self):
        self._context.synchronize(self._stream)

    def flush(self):
        self._context.call("auxcore_fill", self._stream, self._flushed.address, 0, self._flushed.bytes)

    def timer(self):
        return HostTimer(self)

    def capture(self, call):
        graph = self._driver.capture(self._stream, call)
        return lambda: self._driver.launch(graph, self._stream)

    def release(self):
        """Memory is freed with the context."""
        self.synchronize()

    def versions(self):
        return {"pytorch": None, "cuda": None, "triton": None}


class Tensor:
    def __init__(self, address, count, dtype):
        self.address, self.count, self.dtype = address, count, dtype
        self.bytes = count * SIZES[dtype]


class Vector(list):
    """Numbers, with the arithmetic of a float64 tensor."""

    def __add__(self, other):
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other):
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other):
        return self._with(other, lambda a, b: a * b)

    def __truediv__(self, other):
        return self._with(other, lambda a, b: a / b)

    def __rmul__(self, factor):
        return self * factor

    def sqrt(self):
        return Vector(math.sqrt(a) for a in self)

    def _with(self, other, function):
        others = other if isinstance(other, list) else [other] * len(self)
        return Vector(function(a, b) for a, b in zip(self, others, strict=True))


class HostTimer:
    def __init__(self, device):
        self._device = device

    def start(self):
        self._device.synchronize()
        self._begin = time.perf_counter_ns()

    def stop(self):
        self._device.synchronize()
        self._end = time.perf_counter_ns()

    def microseconds(self):
        return max(self._end - self._begin, 1) / 1e3


class Driver:
    """Graphs, by the driver's own functions."""

    def __init__(self):
        self._library = c.CDLL("libcuda.so.1")
        if not hasattr(self._library, "auxcore_standin"):
            raise RuntimeError("the libcuda.so.1 that is found first is not the stand-in; see LD_LIBRARY_PATH")
        context = c.c_void_p()
        self._check("cuInit", c.c_uint(0))
        self._check("cuDevicePrimaryCtxRetain", c.byref(context), c.c_int(0))
        self._check("cuCtxSetCurrent", context)  # as PyTorch leaves it

    def _check(self, name, *arguments):
        result = getattr(self._library, name)(*arguments)
        if result != 0:
            raise RuntimeError(f"{name} gave {result}")

    def capture(self, stream, call):
        graph, executable = c.c_void_p(), c.c_void_p()
        self._check("cuStreamBeginCapture_v2", c.c_void_p(stream), c.c_int(0))
        try:
            call()
        finally:
            self._check("cuStreamEndCapture", c.c_void_p(stream), c.byref(graph))
        self._check("cuGraphInstantiateWithFlags", c.byref(executable), graph, c.c_ulonglong(0))
        self._check("cuGraphDestroy", graph)
        return executable

    def launch(self, executable, stream):
        self._check("cuGraphLaunch", executable, c.c_void_p(stream))


def pack(values, dtype):
    if dtype == "int32":
        return struct.pack(f"<{len(values)}i", *map(int, values))
    if dtype == "float32":
        return struct.pack(f"<{len(values)}f", *values)
    if dtype == "float16":
        return struct.pack(f"<{len(values)}e", *values)
    bits = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
    return struct.pack(f"<{len(values)}H", *[narrowed(b) for b in bits])


def unpack(data, dtype):
    if dtype == "int32":
        return struct.unpack(f"<{len(data) // 4}i", data)
    if dtype == "float32":
        return struct.unpack(f"<{len(data) // 4}f", data)
    if dtype == "float16":
        return struct.unpack(f"<{len(data) // 2}e", data)
    bits = struct.unpack(f"<{len(data) // 2}H", data)
    return struct.unpack(f"<{len(bits)}f", struct.pack(f"<{len(bits)}I", *[b << 16 for b in bits]))


def narrowed(bits):
    """The bfloat16 nearest to a float32, ties to even; NaN stays NaN."""
    if bits & MAGNITUDE > 0x7F800000:
        return (bits >> 16) | 0x40
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def ulp32(value):
    """The distance from |value| to the next float32."""
    return math.ldexp(1.0, max(math.frexp(abs(value))[1] - 1, -126) - 23) if value else math.ldexp(1.0, -149)
