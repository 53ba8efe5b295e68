"""libauxcore from Python, by ctypes: the functions of native/cuda/include/auxcore.h, with exceptions in place of status codes.

Whoever owns memory and stream (PyTorch, say) hands over addresses; nothing here copies, and nothing keeps foreign memory alive."""

import ctypes as c

import auxcore_tokens

ABI_VERSION = 1

STATUS = {
    "AUXCORE_OK": 0,
    "AUXCORE_E_ARGUMENT": -1,
    "AUXCORE_E_HANDLE": -2,
    "AUXCORE_E_ABI": -3,
    "AUXCORE_E_NO_DRIVER": -4,
    "AUXCORE_E_NO_DEVICE": -5,
    "AUXCORE_E_NO_IMAGE": -6,
    "AUXCORE_E_MEMORY": -7,
    "AUXCORE_E_INTERNAL": -8,
}

DTYPES = {"float32": 0, "float16": 2, "bfloat16": 3}
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4}


class Device(c.Structure):
    """auxcore_device."""

    _fields_ = [
        ("struct_size", c.c_uint32),
        ("ordinal", c.c_int32),
        ("compute_major", c.c_int32),
        ("compute_minor", c.c_int32),
        ("multiprocessors", c.c_int32),
        ("driver_version", c.c_int32),
        ("memory_bytes", c.c_int64),
        ("name", c.c_char * 128),
    ]


class EmaTensorsStruct(c.Structure):
    """auxcore_ema_tensors."""

    _fields_ = [
        ("struct_size", c.c_uint32),
        ("average_type", c.c_int32),
        ("tensor_count", c.c_int64),
        ("addresses", c.POINTER(c.c_uint64)),
        ("element_counts", c.POINTER(c.c_int64)),
        ("source_types", c.POINTER(c.c_int32)),
    ]


class AdamWSettings(c.Structure):
    """auxcore_adamw_settings."""

    _fields_ = [
        ("gradient_scale", c.c_double),
        ("penalty", c.c_float),
        ("weight1", c.c_float),
        ("weight2", c.c_float),
        ("epsilon", c.c_float),
        ("step_size", c.c_float),
        ("shrinkage", c.c_float),
    ]


class AdamWTensorsStruct(c.Structure):
    """auxcore_adamw_tensors."""

    _fields_ = [
        ("struct_size", c.c_uint32),
        ("reserved", c.c_uint32),
        ("tensor_count", c.c_int64),
        ("addresses", c.POINTER(c.c_uint64)),
        ("element_counts", c.POINTER(c.c_int64)),
        ("parameter_types", c.POINTER(c.c_int32)),
        ("gradient_types", c.POINTER(c.c_int32)),
        ("settings_of", c.POINTER(c.c_int32)),
    ]


class KvElements(c.Structure):
    """auxcore_kv_elements."""

    _fields_ = [
        ("struct_size", c.c_uint32),
        ("format", c.c_int32),
        ("count", c.c_int64),
        ("scale", c.c_float),
        ("reserved", c.c_uint32),
        ("elements", c.c_uint64),
        ("stored", c.c_uint64),
    ]


class KvPlane(c.Structure):
    """auxcore_kv_plane."""

    _fields_ = [
        ("format", c.c_int32),
        ("scale_count", c.c_int32),
        ("first", c.c_uint64),
        ("outer_count", c.c_int64),
        ("outer_step", c.c_int64),
        ("head_step", c.c_int64),
        ("scales", c.c_uint64),
    ]


class KvCache(c.Structure):
    """auxcore_kv_cache."""

    _fields_ = [
        ("struct_size", c.c_uint32),
        ("batch", c.c_int32),
        ("kv_heads", c.c_int32),
        ("head_dim", c.c_int32),
        ("positions", c.c_int32),
        ("pages_are_of_heads", c.c_uint32),
        ("page_offsets", c.c_uint64),
        ("pages", c.c_uint64),
        ("page_count", c.c_int64),
        ("keys", KvPlane),
        ("values", KvPlane),
    ]


class KvAttention(c.Structure):
    """auxcore_kv_attention."""

    _fields_ = [
        ("struct_size", c.c_uint32),
        ("query_heads", c.c_int32),
        ("lengths_are_of_heads", c.c_uint32),
        ("sum_positions", c.c_int32),
        ("scale", c.c_double),
        ("query", c.c_uint64),
        ("lengths", c.c_uint64),
        ("host_lengths", c.POINTER(c.c_int32)),
        ("output", c.c_uint64),
        ("position_sums", c.c_uint64),
        ("workspace", c.c_uint64),
        ("workspace_bytes", c.c_int64),
    ]


_handle, _address, _stream, _out = c.c_uint64, c.c_uint64, c.c_void_p, c.POINTER

# What each function takes; those that are not in RESULTS give a status.
FUNCTIONS = {
    "auxcore_abi_version": [],
    "auxcore_last_error": [],
    "auxcore_device_image": [],
    "auxcore_device_count": [_out(c.c_int32)],
    "auxcore_open": [c.c_uint32, c.c_int32, c.c_uint32, _out(_handle)],
    "auxcore_close": [_handle],
    "auxcore_describe_device": [_handle, _out(Device)],
    "auxcore_allocate": [_handle, c.c_int64, _out(_address)],
    "auxcore_free": [_handle, _address],
    "auxcore_copy_to_device": [_handle, _stream, _address, c.c_void_p, c.c_int64],
    "auxcore_copy_to_host": [_handle, _stream, c.c_void_p, _address, c.c_int64],
    "auxcore_copy_on_device": [_handle, _stream, _address, _address, c.c_int64],
    "auxcore_fill": [_handle, _stream, _address, c.c_uint8, c.c_int64],
    "auxcore_stream_create": [_handle, _out(c.c_void_p)],
    "auxcore_stream_destroy": [_handle, _stream],
    "auxcore_stream_synchronize": [_handle, _stream],
    "auxcore_stream_wait": [_handle, _stream, _stream],
    "auxcore_ema_create": [_handle, c.c_int32, _out(_handle)],
    "auxcore_ema_destroy": [_handle],
    "auxcore_ema_set_decays": [_handle, _stream, _out(c.c_double), c.c_int32],
    "auxcore_ema_update": [_handle, _stream, _out(EmaTensorsStruct)],
    "auxcore_adamw_create": [_handle, c.c_int32, _out(_handle)],
    "auxcore_adamw_destroy": [_handle],
    "auxcore_adamw_set": [_handle, _stream, _out(AdamWSettings), c.c_int32, _out(c.c_double)],
    "auxcore_adamw_update": [_handle, _stream, _out(AdamWTensorsStruct), c.c_uint32],
    "auxcore_kv_quantise": [_handle, _stream, _out(KvElements)],
    "auxcore_kv_dequantise": [_handle, _stream, _out(KvElements)],
    "auxcore_kv_attention_workspace": [_out(KvCache), _out(KvAttention), _out(c.c_int64)],
    "auxcore_kv_decode_attention": [_handle, _stream, _out(KvCache), _out(KvAttention)],
    **auxcore_tokens.FUNCTIONS,
}

RESULTS = {"auxcore_abi_version": c.c_uint32, "auxcore_last_error": c.c_char_p, "auxcore_device_image": c.c_char_p}


class AuxCoreError(RuntimeError):
    """A function gave a status other than 0."""

    def __init__(self, function, status, message):
        super().__init__(f"{function}: {message} (status {status})")
        self.status = status


class Library:
    """One libauxcore.so. A second one may be loaded beside it: each has contexts of its own."""

    def __init__(self, path):
        self._library = c.CDLL(str(path))
        for name, arguments in FUNCTIONS.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, RESULTS.get(name, c.c_int32)
        version = self._library.auxcore_abi_version()
        if version != ABI_VERSION:
            raise AuxCoreError("auxcore_abi_version", STATUS["AUXCORE_E_ABI"], f"{path} has ABI {version}, not {ABI_VERSION}")

    def call(self, name, *arguments):
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise AuxCoreError(name, status, self._library.auxcore_last_error().decode())

    def function(self, name):
        """The bare function, for what is timed; the caller looks at its status."""
        return getattr(self._library, name)

    @property
    def device_image(self):
        return self._library.auxcore_device_image().decode()

    def device_count(self):
        count = c.c_int32()
        self.call("auxcore_device_count", c.byref(count))
        return count.value

    def open(self, ordinal=0):
        handle = c.c_uint64()
        self.call("auxcore_open", ABI_VERSION, ordinal, 0, c.byref(handle))
        return Context(self, handle.value)


class Context:
    """The device's primary context, which PyTorch uses too. Close it, or use it in a with statement."""

    def __init__(self, library, handle):
        self.library, self.handle = library, handle

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.handle:
            handle, self.handle = self.handle, 0
            self.library.call("auxcore_close", handle)

    def call(self, name, *arguments):
        self.library.call(name, self.handle, *arguments)

    def describe(self):
        device = Device(struct_size=c.sizeof(Device))
        self.call("auxcore_describe_device", c.byref(device))
        return device

    def allocate(self, size):
        address = c.c_uint64()
        self.call("auxcore_allocate", size, c.byref(address))
        return address.value

    def free(self, address):
        self.call("auxcore_free", address)

    def create_stream(self):
        stream = c.c_void_p()
        self.call("auxcore_stream_create", c.byref(stream))
        return stream.value

    def synchronize(self, stream):
        self.call("auxcore_stream_synchronize", stream)

    def caller(self, stream_of, *calls):
        """A function that makes calls (name, arguments behind the stream …) in their order; all but the stream is made beforehand."""
        bound = [(self.library.function(name), name, arguments) for name, *arguments in calls]
        handle = self.handle

        def call():
            stream = stream_of()
            for function, name, arguments in bound:
                status = function(handle, stream, *arguments)
                if status:
                    raise AuxCoreError(name, status, self.library.function("auxcore_last_error")().decode())

        return call

    def ema(self, average_count):
        handle = c.c_uint64()
        self.call("auxcore_ema_create", average_count, c.byref(handle))
        return EmaTable(self.library, handle.value, average_count)

    def adamw(self, average_count):
        handle = c.c_uint64()
        self.call("auxcore_adamw_create", average_count, c.byref(handle))
        return AdamWTable(self.library, handle.value)


class EmaTensors:
    """What one update works on. rows: (address of the source, addresses of its averages, elements, dtype of the source)."""

    def __init__(self, rows):
        columns = [[source, *averages] for source, averages, _, _ in rows]
        if any(len(column) != len(columns[0]) for column in columns):
            raise ValueError("all sources have equally many averages")
        flat = [address for column in columns for address in column]
        self._addresses = (c.c_uint64 * len(flat))(*flat)
        self._counts = (c.c_int64 * len(rows))(*[count for _, _, count, _ in rows])
        self._types = (c.c_int32 * len(rows))(*[DTYPES[dtype] for _, _, _, dtype in rows])
        self.struct = EmaTensorsStruct(c.sizeof(EmaTensorsStruct), 0, len(rows), self._addresses, self._counts, self._types)


class EmaTable:
    """auxcore_ema_table; belongs to its context, which frees it at the latest."""

    def __init__(self, library, handle, average_count):
        self.library, self.handle, self.average_count = library, handle, average_count

    def destroy(self):
        if self.handle:
            handle, self.handle = self.handle, 0
            self.library.call("auxcore_ema_destroy", handle)

    def set_decays(self, stream, decays):
        self.library.call("auxcore_ema_set_decays", self.handle, stream, (c.c_double * len(decays))(*decays), len(decays))

    def update(self, stream, tensors):
        """tensors: EmaTensors; None stands for those of the last call."""
        self.library.call("auxcore_ema_update", self.handle, stream, None if tensors is None else c.byref(tensors.struct))

    def caller(self, stream_of, decays, tensors):
        """set_decays and update in one call without arguments, for timing: all that does not change is made beforehand."""
        set_decays, update = self.library.function("auxcore_ema_set_decays"), self.library.function("auxcore_ema_update")
        values, count = (c.c_double * len(decays))(*decays), len(decays)
        handle, pointer = self.handle, None if tensors is None else c.pointer(tensors.struct)

        def call():
            stream = stream_of()
            status = set_decays(handle, stream, values, count) or update(handle, stream, pointer)
            if status:
                raise AuxCoreError("EmaUpdate", status, self.library.function("auxcore_last_error")().decode())

        return call


class AdamWTensors:
    """What one step works on, all float32. rows: (elements, addresses of parameter, gradient, first moment, second moment, averages)."""

    def __init__(self, rows):
        flat = [address for _, parameter, gradient, *rest in rows for address in (parameter, 0, gradient, *rest)]
        count = len(rows)
        self._addresses = (c.c_uint64 * len(flat))(*flat)
        self._counts = (c.c_int64 * count)(*[row[0] for row in rows])
        self._zeros = (c.c_int32 * count)()  # float32 everywhere, and the first settings
        self.struct = AdamWTensorsStruct(
            c.sizeof(AdamWTensorsStruct), 0, count, self._addresses, self._counts, self._zeros, self._zeros, self._zeros)


class AdamWTable:
    """auxcore_adamw_table; belongs to its context, which frees it at the latest."""

    def __init__(self, library, handle):
        self.library, self.handle = library, handle

    def destroy(self):
        if self.handle:
            handle, self.handle = self.handle, 0
            self.library.call("auxcore_adamw_destroy", handle)

    def caller(self, stream_of, settings, decays, tensors):
        """A function that sets settings and decays and takes a step of the tensors, or, for None, of those of the last call."""
        set_all, update = self.library.function("auxcore_adamw_set"), self.library.function("auxcore_adamw_update")
        handle, values, given = self.handle, (c.c_double * max(1, len(decays)))(*decays), c.pointer(settings)
        pointer = None if tensors is None else c.pointer(tensors.struct)

        def call():
            stream = stream_of()
            status = set_all(handle, stream, given, 1, values) or update(handle, stream, pointer, 0)
            if status:
                raise AuxCoreError("AdamWUpdate", status, self.library.function("auxcore_last_error")().decode())

        return call
