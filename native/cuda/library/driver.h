// The CUDA driver, opened when first needed: no toolkit to build against, and a library that loads where there is no GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "status.h"

// The driver's own types, as far as we use them. Handles are opaque; results and attributes are the numbers of its ABI. They are global, as
// the driver's are: UndefinedBehaviorSanitizer compares the type of a function with that of the pointer it is called through, namespaces
// included, and so checks our declarations against the stand-in's.
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;

namespace auxcore {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;

constexpr CUresult kCudaSuccess = 0;
constexpr CUresult kCudaErrorNoDevice = 100;

// Names carry the version that the driver exports them under.
#define AUXCORE_DRIVER_FUNCTIONS(X)                                                                                            \
  X(cuInit, (unsigned flags))                                                                                                  \
  X(cuDriverGetVersion, (int* version))                                                                                        \
  X(cuGetErrorName, (CUresult error, const char** name))                                                                       \
  X(cuGetErrorString, (CUresult error, const char** text))                                                                     \
  X(cuDeviceGetCount, (int* count))                                                                                            \
  X(cuDeviceGet, (CUdevice * device, int ordinal))                                                                             \
  X(cuDeviceGetName, (char* name, int bytes, CUdevice device))                                                                 \
  X(cuDeviceTotalMem_v2, (std::size_t * bytes, CUdevice device))                                                               \
  X(cuDeviceGetAttribute, (int* value, int attribute, CUdevice device))                                                        \
  X(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device))                                                          \
  X(cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                                                           \
  X(cuCtxPushCurrent_v2, (CUcontext context))                                                                                  \
  X(cuCtxPopCurrent_v2, (CUcontext * context))                                                                                 \
  X(cuCtxSynchronize, ())                                                                                                      \
  X(cuModuleLoadDataEx, (CUmodule * module, const void* image, unsigned count, int* options, void** values))                   \
  X(cuModuleUnload, (CUmodule module))                                                                                         \
  X(cuModuleGetFunction, (CUfunction * function, CUmodule module, const char* name))                                           \
  X(cuMemAlloc_v2, (CUdeviceptr * address, std::size_t bytes))                                                                 \
  X(cuMemFree_v2, (CUdeviceptr address))                                                                                       \
  X(cuMemcpyHtoDAsync_v2, (CUdeviceptr destination, const void* source, std::size_t bytes, CUstream stream))                   \
  X(cuMemcpyDtoHAsync_v2, (void* destination, CUdeviceptr source, std::size_t bytes, CUstream stream))                         \
  X(cuMemcpyDtoDAsync_v2, (CUdeviceptr destination, CUdeviceptr source, std::size_t bytes, CUstream stream))                   \
  X(cuMemsetD8Async, (CUdeviceptr destination, unsigned char value, std::size_t bytes, CUstream stream))                       \
  X(cuPointerGetAttributes, (unsigned count, int* attributes, void** values, CUdeviceptr address))                             \
  X(cuStreamCreate, (CUstream * stream, unsigned flags))                                                                       \
  X(cuStreamDestroy_v2, (CUstream stream))                                                                                     \
  X(cuStreamSynchronize, (CUstream stream))                                                                                    \
  X(cuStreamGetCtx, (CUstream stream, CUcontext * context))                                                                    \
  X(cuStreamIsCapturing, (CUstream stream, int* status))                                                                       \
  X(cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned flags))                                                       \
  X(cuEventCreate, (CUevent * event, unsigned flags))                                                                          \
  X(cuEventRecord, (CUevent event, CUstream stream))                                                                           \
  X(cuEventDestroy_v2, (CUevent event))                                                                                        \
  X(cuLaunchKernel, (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, \
                     unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters, void** extra))

struct Driver {
#define AUXCORE_DECLARE(name, parameters) CUresult(*name) parameters = nullptr;
  AUXCORE_DRIVER_FUNCTIONS(AUXCORE_DECLARE)
#undef AUXCORE_DECLARE
};

/// The driver, loaded and initialised. A failure is not remembered: a driver that appears later is found.
const Driver& driver();

/// Throws a failure with the driver's name and text for a result other than success.
void check(CUresult result, const char* what);

/// Calls a driver function and throws if it fails; the message names the function.
#define AUXCORE_CUDA(function, ...) ::auxcore::check(::auxcore::driver().function(__VA_ARGS__), #function)

}  // namespace auxcore
