// The driver's types, numbers and functions, as far as the stand-in knows them. Written from its documentation; no header of NVIDIA's is
// needed.
#pragma once

#include <cstddef>
#include <cstdint>

#define CUDA_EXPORT extern "C" __attribute__((visibility("default")))

using CUresult = int;

enum : CUresult {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_INVALID_PTX = 218,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_NOT_READY = 600,
  CUDA_ERROR_ILLEGAL_ADDRESS = 700,
  CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED = 704,
  CUDA_ERROR_PEER_ACCESS_NOT_ENABLED = 705,
  CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
  CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712,
  CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED = 713,
  CUDA_ERROR_NOT_SUPPORTED = 801,
  CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
  CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
  CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905,
  CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906,
  CUDA_ERROR_CAPTURED_EVENT = 907,
  CUDA_ERROR_UNKNOWN = 999
};

using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphExec = struct CUgraphExec_st*;

enum CUdevice_attribute : int {
  CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X = 2,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y = 3,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z = 4,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X = 5,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y = 6,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z = 7,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 8,
  CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY = 9,
  CU_DEVICE_ATTRIBUTE_WARP_SIZE = 10,
  CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK = 12,
  CU_DEVICE_ATTRIBUTE_CLOCK_RATE = 13,
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 19,
  CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS = 31,
  CU_DEVICE_ATTRIBUTE_PCI_BUS_ID = 33,
  CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE = 36,
  CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH = 37,
  CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR = 39,
  CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING = 41,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 81,
  CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR = 82,
  CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM = 91
};

enum CUdevice_P2PAttribute : int { CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK = 1, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED = 2 };

enum CUpointer_attribute : int {
  CU_POINTER_ATTRIBUTE_CONTEXT = 1,
  CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
  CU_POINTER_ATTRIBUTE_DEVICE_POINTER = 3,
  CU_POINTER_ATTRIBUTE_IS_MANAGED = 8,
  CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9,
  CU_POINTER_ATTRIBUTE_RANGE_START_ADDR = 11,
  CU_POINTER_ATTRIBUTE_RANGE_SIZE = 12
};

constexpr unsigned CU_MEMORYTYPE_HOST = 1;
constexpr unsigned CU_MEMORYTYPE_DEVICE = 2;
constexpr unsigned CU_MEMHOSTREGISTER_DEVICEMAP = 2;

enum CUjit_option : int { CU_JIT_ERROR_LOG_BUFFER = 5, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6 };

enum CUfunction_attribute : int { CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0, CU_FUNC_ATTRIBUTE_NUM_REGS = 4 };

constexpr unsigned CU_STREAM_NON_BLOCKING = 1;
constexpr unsigned CU_EVENT_DISABLE_TIMING = 2;

enum CUstreamCaptureMode : int {
  CU_STREAM_CAPTURE_MODE_GLOBAL = 0,
  CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1,
  CU_STREAM_CAPTURE_MODE_RELAXED = 2
};

enum CUstreamCaptureStatus : int {
  CU_STREAM_CAPTURE_STATUS_NONE = 0,
  CU_STREAM_CAPTURE_STATUS_ACTIVE = 1,
  CU_STREAM_CAPTURE_STATUS_INVALIDATED = 2
};

CUDA_EXPORT CUresult cuInit(unsigned flags);
CUDA_EXPORT CUresult cuDriverGetVersion(int* version);
CUDA_EXPORT CUresult cuGetErrorName(CUresult error, const char** name);
CUDA_EXPORT CUresult cuGetErrorString(CUresult error, const char** text);

CUDA_EXPORT CUresult cuDeviceGetCount(int* count);
CUDA_EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal);
CUDA_EXPORT CUresult cuDeviceGetName(char* name, int bytes, CUdevice device);
CUDA_EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device);
CUDA_EXPORT CUresult cuDeviceGetAttribute(int* value, int which, CUdevice device);
CUDA_EXPORT CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer);
CUDA_EXPORT CUresult cuDeviceGetP2PAttribute(int* value, int which, CUdevice device, CUdevice peer);

CUDA_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device);
CUDA_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device);
CUDA_EXPORT CUresult cuCtxCreate_v2(CUcontext* context, unsigned flags, CUdevice device);
CUDA_EXPORT CUresult cuCtxDestroy_v2(CUcontext context);
CUDA_EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context);
CUDA_EXPORT CUresult cuCtxPopCurrent_v2(CUcontext* context);
CUDA_EXPORT CUresult cuCtxGetCurrent(CUcontext* context);
CUDA_EXPORT CUresult cuCtxSetCurrent(CUcontext context);
CUDA_EXPORT CUresult cuCtxGetDevice(CUdevice* device);
CUDA_EXPORT CUresult cuCtxSynchronize();
CUDA_EXPORT CUresult cuCtxGetCacheConfig(int* config);
CUDA_EXPORT CUresult cuCtxSetCacheConfig(int config);
CUDA_EXPORT CUresult cuCtxGetSharedMemConfig(int* config);
CUDA_EXPORT CUresult cuCtxSetSharedMemConfig(int config);
CUDA_EXPORT CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags);
CUDA_EXPORT CUresult cuCtxDisablePeerAccess(CUcontext peer);

CUDA_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes);
CUDA_EXPORT CUresult cuMemFree_v2(CUdeviceptr address);
CUDA_EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total);
CUDA_EXPORT CUresult cuMemcpyAsync(CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream);
CUDA_EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr destination, const void* source, size_t bytes, CUstream stream);
CUDA_EXPORT CUresult cuMemcpyDtoHAsync_v2(void* destination, CUdeviceptr source, size_t bytes, CUstream stream);
CUDA_EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream);
CUDA_EXPORT CUresult cuMemsetD8Async(CUdeviceptr destination, unsigned char value, size_t bytes, CUstream stream);
CUDA_EXPORT CUresult cuPointerGetAttribute(void* value, int attribute, CUdeviceptr address);
CUDA_EXPORT CUresult cuPointerGetAttributes(unsigned count, int* attributes, void** values, CUdeviceptr address);
CUDA_EXPORT CUresult cuMemAllocHost_v2(void** address, size_t bytes);
CUDA_EXPORT CUresult cuMemFreeHost(void* address);
CUDA_EXPORT CUresult cuMemHostRegister_v2(void* address, size_t bytes, unsigned flags);
CUDA_EXPORT CUresult cuMemHostUnregister(void* address);
CUDA_EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* on_device, void* address, unsigned flags);

CUDA_EXPORT CUresult cuModuleLoadData(CUmodule* module, const void* image);
CUDA_EXPORT CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned count, int* options, void** values);
CUDA_EXPORT CUresult cuModuleUnload(CUmodule module);
CUDA_EXPORT CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name);
CUDA_EXPORT CUresult cuFuncGetAttribute(int* value, int which, CUfunction function);
CUDA_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads, size_t shared_bytes);
CUDA_EXPORT CUresult cuOccupancyMaxPotentialBlockSize(int* least_grid, int* threads, CUfunction function,
    size_t (*shared_bytes_of)(int threads), size_t shared_bytes, int most_threads);
CUDA_EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
    unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters, void** extra);

CUDA_EXPORT CUresult cuStreamCreate(CUstream* stream, unsigned flags);
CUDA_EXPORT CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority);
CUDA_EXPORT CUresult cuStreamDestroy_v2(CUstream stream);
CUDA_EXPORT CUresult cuStreamSynchronize(CUstream stream);
CUDA_EXPORT CUresult cuStreamGetCtx(CUstream stream, CUcontext* context);
CUDA_EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags);
CUDA_EXPORT CUresult cuEventCreate(CUevent* event, unsigned flags);
CUDA_EXPORT CUresult cuEventDestroy_v2(CUevent event);
CUDA_EXPORT CUresult cuEventRecord(CUevent event, CUstream stream);
CUDA_EXPORT CUresult cuEventQuery(CUevent event);
CUDA_EXPORT CUresult cuEventSynchronize(CUevent event);
CUDA_EXPORT CUresult cuEventElapsedTime(float* milliseconds, CUevent begin, CUevent end);

CUDA_EXPORT CUresult cuStreamIsCapturing(CUstream stream, int* status);
CUDA_EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, int mode);
CUDA_EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph);
CUDA_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long flags);
CUDA_EXPORT CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream);
CUDA_EXPORT CUresult cuGraphExecDestroy(CUgraphExec executable);
CUDA_EXPORT CUresult cuGraphDestroy(CUgraph graph);
