#include "context.h"

#include <cstdio>

namespace auxcore {
namespace {

// CUdevice_attribute
constexpr int kMultiprocessorCount = 16;
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;

// CUpointer_attribute
constexpr int kMemoryType = 2;
constexpr int kDeviceOrdinal = 9;
constexpr int kRangeStart = 11;
constexpr int kRangeSize = 12;
constexpr unsigned kMemoryTypeDevice = 2;

// CUjit_option
constexpr int kErrorLog = 5;
constexpr int kErrorLogBytes = 6;

constexpr unsigned kStreamNonBlocking = 1;

// CU_STREAM_LEGACY and CU_STREAM_PER_THREAD are no pointers.
bool is_reserved(CUstream stream) { return reinterpret_cast<uintptr_t>(stream) <= 2; }

int attribute(CUdevice device, int which) {
  int value = 0;
  AUXCORE_CUDA(cuDeviceGetAttribute, &value, which, device);
  return value;
}

}  // namespace

Context::Context(int ordinal, bool synchronous) : ordinal_(ordinal), synchronous_(synchronous) {
  int count = 0;
  AUXCORE_CUDA(cuDeviceGetCount, &count);
  if (ordinal < 0 || ordinal >= count)
    fail(AUXCORE_E_NO_DEVICE, "there is no CUDA device %d; the driver has %d", ordinal, count);
  AUXCORE_CUDA(cuDeviceGet, &device_, ordinal);
  AUXCORE_CUDA(cuDevicePrimaryCtxRetain, &context_, device_);
}

Context::Scope::Scope(Context& context) : open_(context.open_) {
  if (context.closed_)
    fail(AUXCORE_E_HANDLE, "the context was closed");
  AUXCORE_CUDA(cuCtxPushCurrent_v2, context.context_);
}

Context::Scope::~Scope() {
  CUcontext ours = nullptr;
  driver().cuCtxPopCurrent_v2(&ours);  // a destructor has nobody to tell
}

void Context::close() {
  const std::unique_lock lock(open_);
  if (closed_)
    fail(AUXCORE_E_HANDLE, "the context was closed");
  closed_ = true;

  FirstFailure failure;
  bool current = false;
  failure.attempt([&] {
    AUXCORE_CUDA(cuCtxPushCurrent_v2, context_);
    current = true;
  });
  if (current) {
    failure.attempt([] { AUXCORE_CUDA(cuCtxSynchronize); });
    for (CUstream stream : streams_)
      failure.attempt([&] { AUXCORE_CUDA(cuStreamDestroy_v2, stream); });
    for (const auto& [address, owner] : allocations_)
      failure.attempt([&, freed = address] { AUXCORE_CUDA(cuMemFree_v2, freed); });
    for (const auto& [image, loaded] : modules_)
      failure.attempt([&, module = loaded] { AUXCORE_CUDA(cuModuleUnload, module); });
    CUcontext ours = nullptr;
    failure.attempt([&] { AUXCORE_CUDA(cuCtxPopCurrent_v2, &ours); });
  }
  failure.attempt([&] { AUXCORE_CUDA(cuDevicePrimaryCtxRelease_v2, device_); });
  failure.rethrow();
}

void Context::describe(auxcore_device& device) const {
  auxcore_device described = {};
  described.struct_size = sizeof described;
  described.ordinal = ordinal_;
  described.compute_major = attribute(device_, kComputeCapabilityMajor);
  described.compute_minor = attribute(device_, kComputeCapabilityMinor);
  described.multiprocessors = attribute(device_, kMultiprocessorCount);
  AUXCORE_CUDA(cuDriverGetVersion, &described.driver_version);
  std::size_t bytes = 0;
  AUXCORE_CUDA(cuDeviceTotalMem_v2, &bytes, device_);
  described.memory_bytes = static_cast<int64_t>(bytes);
  AUXCORE_CUDA(cuDeviceGetName, described.name, sizeof described.name - 1, device_);
  device = described;
}

CUdeviceptr Context::allocate(std::size_t bytes, Owner owner) {
  CUdeviceptr address = 0;
  AUXCORE_CUDA(cuMemAlloc_v2, &address, bytes);
  try {
    const std::lock_guard lock(mutex_);
    allocations_[address] = owner;
  } catch (...) {
    driver().cuMemFree_v2(address);
    throw;
  }
  return address;
}

void Context::free(CUdeviceptr address, Owner owner) {
  if (address == 0)
    return;
  {
    const std::lock_guard lock(mutex_);
    const auto found = allocations_.find(address);
    if (found == allocations_.end() || found->second != owner)
      fail(AUXCORE_E_ARGUMENT, "address 0x%llx was not allocated through this context, or was freed", address);
    allocations_.erase(found);
  }
  AUXCORE_CUDA(cuMemFree_v2, address);
}

CUstream Context::create_stream() {
  CUstream stream = nullptr;
  AUXCORE_CUDA(cuStreamCreate, &stream, kStreamNonBlocking);
  try {
    const std::lock_guard lock(mutex_);
    streams_.insert(stream);
  } catch (...) {
    driver().cuStreamDestroy_v2(stream);
    throw;
  }
  return stream;
}

void Context::destroy_stream(CUstream stream) {
  {
    const std::lock_guard lock(mutex_);
    if (streams_.erase(stream) == 0)
      fail(AUXCORE_E_ARGUMENT, "stream %p was not created through this context, or was destroyed", static_cast<void*>(stream));
  }
  AUXCORE_CUDA(cuStreamDestroy_v2, stream);
}

void Context::check_stream(CUstream stream) const {
  if (is_reserved(stream))
    return;
  CUcontext theirs = nullptr;
  AUXCORE_CUDA(cuStreamGetCtx, stream, &theirs);
  if (theirs != context_)
    fail(AUXCORE_E_ARGUMENT, "stream %p is of another context than device %d's primary one", static_cast<void*>(stream), ordinal_);
}

void Context::check_device_memory(const char* what, uint64_t address, std::size_t bytes) const {
  if (bytes == 0)
    return;
  const uint64_t last = address + (bytes - 1);
  if (last < address)
    fail(AUXCORE_E_ARGUMENT, "%s: %zu bytes at 0x%llx exceed the address space", what, bytes, static_cast<unsigned long long>(address));

  // Memory that was mapped piece by piece has a range a piece. The ends stand for what is between them.
  for (uint64_t byte = address;; byte = last) {
    unsigned type = 0;
    int ordinal = -1;
    CUdeviceptr start = 0;
    std::size_t size = 0;
    int attributes[] = {kMemoryType, kDeviceOrdinal, kRangeStart, kRangeSize};
    void* values[] = {&type, &ordinal, &start, &size};
    AUXCORE_CUDA(cuPointerGetAttributes, 4, attributes, values, byte);
    if (type != kMemoryTypeDevice)
      fail(AUXCORE_E_ARGUMENT, "%s: 0x%llx, %s of %zu bytes, is not device memory", what, static_cast<unsigned long long>(byte),
          byte == address ? "the beginning" : "the end", bytes);
    if (ordinal != ordinal_)
      fail(AUXCORE_E_ARGUMENT, "%s: 0x%llx is memory of device %d, not of device %d", what, static_cast<unsigned long long>(byte), ordinal,
          ordinal_);
    if (byte == last || last - start < size)
      return;
  }
}

bool Context::is_capturing(CUstream stream) const {
  int status = 0;
  AUXCORE_CUDA(cuStreamIsCapturing, stream, &status);
  return status != 0;
}

CUfunction Context::function(const Kernel& kernel) {
  const std::lock_guard lock(mutex_);
  if (const auto found = functions_.find(&kernel); found != functions_.end())
    return found->second;
  CUfunction loaded = nullptr;
  AUXCORE_CUDA(cuModuleGetFunction, &loaded, module(*kernel.image), kernel.name);
  return functions_[&kernel] = loaded;
}

CUmodule Context::module(const Image& image) {
  CUmodule& loaded = modules_[&image];
  if (loaded != nullptr)
    return loaded;
  try {
    if (image.begin == image.end)
      fail(AUXCORE_E_NO_IMAGE,
          "this libauxcore was built without device code; install clang-19 or CUDA's nvcc and build it again");
    char log[512] = "";
    int options[] = {kErrorLog, kErrorLogBytes};
    void* values[] = {log, reinterpret_cast<void*>(sizeof log - 1)};
    const CUresult result = driver().cuModuleLoadDataEx(&loaded, image.begin, 2, options, values);
    if (result != kCudaSuccess) {
      char what[600];
      std::snprintf(what, sizeof what, "loading the device code of %s%s%s", image.path, log[0] ? ": " : "", log);
      check(result, what);
    }
  } catch (...) {
    modules_.erase(&image);
    throw;
  }
  return loaded;
}

void Context::launch_with(const Kernel& kernel, Grid grid, CUstream stream, void** parameters) {
  const bool wait = synchronous_ && !is_capturing(stream);
  const CUresult result =
      driver().cuLaunchKernel(function(kernel), grid.blocks, 1, 1, grid.threads, 1, 1, grid.shared_bytes, stream, parameters, nullptr);
  char what[160];
  if (result != kCudaSuccess) {
    std::snprintf(what, sizeof what, "%s: launching %s", kernel.op, kernel.name);
    check(result, what);
  }
  if (wait) {
    std::snprintf(what, sizeof what, "%s: %s faulted, or work before it", kernel.op, kernel.name);
    check(driver().cuStreamSynchronize(stream), what);
  }
}

}  // namespace auxcore
