// The driver functions about the driver itself and its devices.
#include "standin_state.h"

#include <cstdio>

using standin::call;
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
    {CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"},
    {CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", "peer access has not been enabled"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CUDA_ERROR_CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
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
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, kMultiprocessors},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1000000},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 256},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 96 << 10},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
};

int attribute(int which, CUdevice device) {
  if (which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
    return device == 0 ? 8 : 9;
  if (which == CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)  // ILGPU takes devices of one place for one device
    return device + 1;
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

CUDA_EXPORT CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  return call(__func__, [&](Driver& driver) {
    require(can != nullptr, CUDA_ERROR_INVALID_VALUE);
    *can = &driver.primary(device) != &driver.primary(peer);
  });
}

CUDA_EXPORT CUresult cuDeviceGetP2PAttribute(int* value, int which, CUdevice device, CUdevice peer) {
  return call(__func__, [&](Driver& driver) {
    require(value != nullptr && which >= CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK, CUDA_ERROR_INVALID_VALUE);
    require(&driver.primary(device) != &driver.primary(peer), CUDA_ERROR_INVALID_DEVICE);
    *value = which == CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED;
  });
}
