// The driver functions about the driver itself, devices and contexts.
#include "standin_state.h"

#include <cstdio>

using standin::call;
using standin::context_stack;
using standin::Driver;
using standin::fail;
using standin::Kind;
using standin::require;

namespace standin {
namespace {

constexpr int kDriverVersion = 12040;

struct Error {
  CUresult result;
  const char* name;
  const char* text;
};

constexpr Error kErrors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const Error& describe(CUresult result) {
  for (const Error& error : kErrors)
    if (error.result == result)
      return error;
  fail(CUDA_ERROR_INVALID_VALUE);
}

struct Attribute {
  int which;
  int value;
};

/// The same on all devices.
constexpr Attribute kAttributes[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fffffff},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 << 10},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
    {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1000000},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 4},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 0},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1000000},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 256},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 96 << 10},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
};

int attribute(int which, CUdevice device) {
  if (which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
    return device == 0 ? 8 : 9;
  for (const Attribute& attribute : kAttributes)
    if (attribute.which == which)
      return attribute.value;
  return 0;
}

}  // namespace
}  // namespace standin

CUDA_EXPORT CUresult cuInit(unsigned flags) {
  return call(__func__, Kind::kAtAnyTime, [&](Driver& driver) {
    require(flags == 0, CUDA_ERROR_INVALID_VALUE);
    driver.initialized = true;
  });
}

CUDA_EXPORT CUresult cuDriverGetVersion(int* version) {
  return call(__func__, Kind::kAtAnyTime, [&](Driver&) {
    require(version != nullptr, CUDA_ERROR_INVALID_VALUE);
    *version = standin::kDriverVersion;
  });
}

CUDA_EXPORT CUresult cuGetErrorName(CUresult error, const char** name) {
  return call(__func__, Kind::kAtAnyTime, [&](Driver&) {
    require(name != nullptr, CUDA_ERROR_INVALID_VALUE);
    *name = nullptr;
    *name = standin::describe(error).name;
  });
}

CUDA_EXPORT CUresult cuGetErrorString(CUresult error, const char** text) {
  return call(__func__, Kind::kAtAnyTime, [&](Driver&) {
    require(text != nullptr, CUDA_ERROR_INVALID_VALUE);
    *text = nullptr;
    *text = standin::describe(error).text;
  });
}

CUDA_EXPORT CUresult cuDeviceGetCount(int* count) {
  return call(__func__, [&](Driver&) {
    require(count != nullptr, CUDA_ERROR_INVALID_VALUE);
    *count = standin::kDevices;
  });
}

CUDA_EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return call(__func__, [&](Driver& driver) {
    require(device != nullptr, CUDA_ERROR_INVALID_VALUE);
    *device = driver.primary(ordinal).device;
  });
}

CUDA_EXPORT CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
  return call(__func__, [&](Driver& driver) {
    require(name != nullptr && bytes > 0, CUDA_ERROR_INVALID_VALUE);
    std::snprintf(name, size_t(bytes), "AuxCore stand-in %d", driver.primary(device).device);
  });
}

CUDA_EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  return call(__func__, [&](Driver& driver) {
    require(bytes != nullptr, CUDA_ERROR_INVALID_VALUE);
    driver.primary(device);
    *bytes = standin::kDeviceMemory;
  });
}

CUDA_EXPORT CUresult cuDeviceGetAttribute(int* value, int which, CUdevice device) {
  return call(__func__, [&](Driver& driver) {
    require(value != nullptr && which > 0, CUDA_ERROR_INVALID_VALUE);
    *value = standin::attribute(which, driver.primary(device).device);
  });
}

CUDA_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return call(__func__, [&](Driver& driver) {
    require(context != nullptr, CUDA_ERROR_INVALID_VALUE);
    standin::Context& primary = driver.primary(device);
    ++primary.retained;
    *context = primary.handle;
  });
}

CUDA_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    standin::Context& primary = driver.primary(device);
    require(primary.retained > 0, CUDA_ERROR_INVALID_CONTEXT);
    if (--primary.retained == 0)
      driver.release_all_of(primary);
  });
}

CUDA_EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
  return call(__func__, [&](Driver& driver) { context_stack().push_back(&driver.context(context)); });
}

CUDA_EXPORT CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  return call(__func__, Kind::kFrees, [&](Driver&) {
    require(!context_stack().empty(), CUDA_ERROR_INVALID_CONTEXT);
    if (context != nullptr)
      *context = context_stack().back()->handle;
    context_stack().pop_back();
  });
}

CUDA_EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
  return call(__func__, [&](Driver&) {
    require(context != nullptr, CUDA_ERROR_INVALID_VALUE);
    *context = context_stack().empty() ? nullptr : context_stack().back()->handle;
  });
}

CUDA_EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  return call(__func__, [&](Driver& driver) {
    standin::Context* next = context == nullptr ? nullptr : &driver.context(context);
    if (!context_stack().empty())
      context_stack().pop_back();
    if (next != nullptr)
      context_stack().push_back(next);
  });
}

CUDA_EXPORT CUresult cuCtxSynchronize() {
  return call(__func__, [](Driver& driver) { driver.synchronize(driver.current()); });
}
