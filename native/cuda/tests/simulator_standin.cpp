// The stand-in driver: that handles, addresses and states are checked as a driver checks them, and that what standin.h promises is so.
#include "simulator_standin.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>
#include <thread>

using namespace auxcore::test;

namespace {

void nothing_works_before_initialisation() {
  int count = 0;
  GIVES(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&count));
  OK(cuInit(0));
  OK(cuDeviceGetCount(&count));
  CHECK(count == 2);
}

void devices_differ() {
  for (CUdevice device = 0; device < 2; ++device) {
    int major = 0, minor = -1;
    char name[64];
    size_t bytes = 0;
    OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    OK(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device));
    OK(cuDeviceGetName(name, sizeof name, device));
    OK(cuDeviceTotalMem_v2(&bytes, device));
    CHECK(major == 8 + device && minor == 0 && bytes > 0 && std::strlen(name) > 0);
  }
  CUdevice device = 0;
  GIVES(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, 2));
  GIVES(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, -1));
}

void contexts_are_counted_and_stacked() {
  CUdeviceptr address = 0;
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc_v2(&address, 16));
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxPushCurrent_v2(garbage<CUcontext>()));
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxPopCurrent_v2(nullptr));
  CUcontext gone = nullptr;
  {
    const Context first(0), again(0), second(1);
    CHECK(first.handle == again.handle && first.handle != second.handle);
    CHECK(state().retained_contexts == 3 && state().pushed_contexts == 3);
    std::thread([] { CHECK(state().pushed_contexts == 0); }).join();
    CUcontext current = nullptr;
    OK(cuCtxGetCurrent(&current));
    CHECK(current == second.handle);
    OK(cuCtxSetCurrent(first.handle));
    OK(cuCtxGetCurrent(&current));
    CHECK(current == first.handle && state().pushed_contexts == 3);
    OK(cuCtxSetCurrent(second.handle));
    allocate(16);
    create_stream();
    load();
    gone = first.handle;
  }
  const auxcore_standin_state after = state();
  CHECK(after.retained_contexts == 0 && after.allocations == 0 && after.streams == 0 && after.modules == 0);
  GIVES(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxPushCurrent_v2(gone));
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(0));
}

// As ILGPU makes one for each accelerator.
void created_contexts_are_apart_from_the_primary_one() {
  const Context primary(1);
  CUcontext created = nullptr, current = nullptr;
  OK(cuCtxCreate_v2(&created, 0, 1));
  CHECK(created != primary.handle && auxcore_standin_created_contexts() == 1 && state().retained_contexts == 1);
  OK(cuCtxGetCurrent(&current));
  CHECK(current == created && state().pushed_contexts == 2);
  CUdevice device = -1;
  OK(cuCtxGetDevice(&device));
  CHECK(device == 1);
  const CUdeviceptr address = allocate(16);
  const CUstream stream = create_stream();
  load();
  OK(cuMemsetD8Async(address, 1, 16, stream));
  CHECK(attribute<CUcontext>(CU_POINTER_ATTRIBUTE_CONTEXT, address) == created);
  OK(cuCtxSetCurrent(primary.handle));
  const CUdeviceptr other = allocate(16);
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(stream));

  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy_v2(primary.handle));
  GIVES(CUDA_ERROR_INVALID_DEVICE, cuCtxCreate_v2(&created, 0, 2));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuCtxCreate_v2(nullptr, 0, 1));
  OK(cuCtxSetCurrent(created));
  OK(cuCtxDestroy_v2(created));
  CHECK(auxcore_standin_created_contexts() == 0 && state().pushed_contexts == 1 && state().streams == 0 && state().modules == 0);
  CHECK(state().allocations == 1 && attribute<CUcontext>(CU_POINTER_ATTRIBUTE_CONTEXT, other) == primary.handle);
  GIVES(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxDestroy_v2(created));
  GIVES(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxPushCurrent_v2(created));

  // Current on another thread, it is no longer of use there.
  OK(cuCtxCreate_v2(&created, 0, 0));
  std::thread([&] {
    OK(cuCtxSetCurrent(created));
    OK(cuCtxPushCurrent_v2(primary.handle));
    OK(cuCtxDestroy_v2(created));
    OK(cuCtxPopCurrent_v2(nullptr));
    GIVES(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxSynchronize());
  }).join();
  GIVES(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxSynchronize());
  OK(cuCtxPopCurrent_v2(nullptr));
}

void contexts_have_settings_and_peers() {
  const Context first(0), second(1);
  int value = -1;
  OK(cuCtxGetCacheConfig(&value));
  CHECK(value == 0);
  OK(cuCtxSetCacheConfig(2));
  OK(cuCtxGetCacheConfig(&value));
  CHECK(value == 2);
  OK(cuCtxSetSharedMemConfig(1));
  OK(cuCtxGetSharedMemConfig(&value));
  CHECK(value == 1);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuCtxSetCacheConfig(4));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuCtxSetSharedMemConfig(-1));

  OK(cuDeviceCanAccessPeer(&value, 0, 1));
  CHECK(value == 1);
  OK(cuDeviceCanAccessPeer(&value, 1, 1));
  CHECK(value == 0);
  OK(cuDeviceGetP2PAttribute(&value, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 1));
  CHECK(value == 1);
  OK(cuCtxEnablePeerAccess(first.handle, 0));
  GIVES(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, cuCtxEnablePeerAccess(first.handle, 0));
  GIVES(CUDA_ERROR_INVALID_DEVICE, cuCtxEnablePeerAccess(second.handle, 0));
  OK(cuCtxDisablePeerAccess(first.handle));
  GIVES(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, cuCtxDisablePeerAccess(first.handle));
}

void memory_is_poison_and_ranges_are_checked() {
  const Context context;
  const CUdeviceptr address = allocate(100), other = allocate(5000);
  CHECK(address % 256 == 0 && other % 256 == 0);
  CHECK(word_at(address + 96) == 0xcbcbcbcbu && word_at(other) == 0xcbcbcbcbu);
  CHECK(state().allocations == 2 && state().allocated_bytes == 5100);

  unsigned char host[100] = {};
  OK(cuMemcpyHtoDAsync_v2(address, host, 100, nullptr));
  OK(cuMemcpyDtoDAsync_v2(other + 4900, address, 100, nullptr));
  CHECK(word_at(other + 4996) == 0 && word_at(other + 4896) == 0xcbcbcbcbu);
  OK(cuMemsetD8Async(other, 7, 5000, nullptr));
  OK(cuMemcpyDtoHAsync_v2(host, other + 4900, 100, nullptr));
  CHECK(host[0] == 7 && host[99] == 7);

  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoDAsync_v2(address + 1, host, 100, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoHAsync_v2(host, address + 1, 100, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoDAsync_v2(other + 4901, address, 100, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoDAsync_v2(other, address - 1, 100, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD8Async(other, 7, 5001, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoDAsync_v2(reinterpret_cast<CUdeviceptr>(host), host, 1, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoDAsync_v2(address, reinterpret_cast<const void*>(other), 1, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoHAsync_v2(reinterpret_cast<void*>(other), address, 1, nullptr));
  CHECK(auxcore_standin_peek(address + 1, host, 100) == 1 && auxcore_standin_poke(address, host, -1) == 1);

  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(address + 4));
  OK(cuMemFree_v2(address));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(address));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD8Async(address, 0, 1, nullptr));
  CUdeviceptr none = 0;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemAlloc_v2(&none, 0));
  GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&none, size_t(1) << 40));
}

void pointers_tell_where_they_are() {
  const Context first(0), second(1);
  const CUdeviceptr address = allocate(1000);
  unsigned type = 9;
  int ordinal = 9, managed = 9;
  CUdeviceptr start = 9;
  size_t bytes = 9;
  CUcontext context = nullptr;
  int attributes[] = {2, 9, 11, 12, 8, 1};
  void* values[] = {&type, &ordinal, &start, &bytes, &managed, &context};
  OK(cuPointerGetAttributes(6, attributes, values, address + 999));
  CHECK(type == 2 && ordinal == 1 && start == address && bytes == 1000 && managed == 0 && context == second.handle);
  OK(cuPointerGetAttributes(6, attributes, values, address + 1000));
  CHECK(type == 0 && bytes == 0 && context == nullptr);
  OK(cuPointerGetAttributes(6, attributes, values, reinterpret_cast<CUdeviceptr>(&type)));
  CHECK(type == 0);
}

void host_memory_is_known() {
  const Context context;
  size_t free = 0, total = 0;
  const CUdeviceptr device = allocate(1 << 20);
  OK(cuMemGetInfo_v2(&free, &total));
  CHECK(total - free == 1 << 20);

  void* allocated = nullptr;
  OK(cuMemAllocHost_v2(&allocated, 100));
  CHECK(attribute<unsigned>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, reinterpret_cast<CUdeviceptr>(allocated) + 99) == CU_MEMORYTYPE_HOST);
  unsigned char registered[100] = {};
  const auto address = reinterpret_cast<CUdeviceptr>(registered);
  unsigned type = 9;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address));
  OK(cuMemHostRegister_v2(registered, 100, CU_MEMHOSTREGISTER_DEVICEMAP));
  GIVES(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister_v2(registered + 50, 10, 0));
  OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address));
  CHECK(type == CU_MEMORYTYPE_HOST && attribute<size_t>(CU_POINTER_ATTRIBUTE_RANGE_SIZE, address + 1) == 100);
  CUdeviceptr on_device = 0;
  OK(cuMemHostGetDevicePointer_v2(&on_device, registered, 0));
  CHECK(on_device == address);

  // Pinned memory is read when the copy is made, and copies that are under way end before it goes.
  const CUstream stream = create_stream();
  OK(cuMemcpyAsync(device, address, 100, stream));
  registered[0] = 5;
  OK(cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(allocated), device, 100, stream));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(registered));
  OK(cuMemHostUnregister(registered));
  CHECK(word_at(device) == 5 && static_cast<unsigned char*>(allocated)[0] == 5);
  GIVES(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(registered));
  GIVES(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(allocated));
  OK(cuMemFreeHost(allocated));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(allocated));
  GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocHost_v2(&allocated, size_t(1) << 40));
}

void garbage_handles_are_refused() {
  const Context context;
  const CUstream stream = create_stream();
  int status = 0;
  CUfunction function = nullptr;
  CUgraphExec executable = nullptr;
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(garbage<CUstream>()));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamDestroy_v2(garbage<CUstream>()));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamIsCapturing(garbage<CUstream>(), &status));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamWaitEvent(stream, garbage<CUevent>(), 0));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(garbage<CUevent>(), stream));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventDestroy_v2(garbage<CUevent>()));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(garbage<CUmodule>()));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuModuleGetFunction(&function, garbage<CUmodule>(), "f"));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(garbage<CUfunction>(), 1, 1, 1, 1, 1, 1, 0, stream, nullptr, nullptr));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuGraphLaunch(garbage<CUgraphExec>(), stream));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuGraphInstantiateWithFlags(&executable, garbage<CUgraph>(), 0));
  OK(cuStreamDestroy_v2(stream));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(stream));
}

void streams_of_another_context_are_refused() {
  const Context first(0);
  const CUstream stream = create_stream();
  const Context second(1);
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(stream));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuMemsetD8Async(allocate(4), 0, 4, stream));
  CUcontext its = nullptr;
  OK(cuStreamGetCtx(stream, &its));
  CHECK(its == first.handle);
}

void the_host_cannot_touch_device_memory() {
  const Context context;
  const CUdeviceptr address = allocate(4);
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, [](int) { _exit(42); });
    *reinterpret_cast<volatile int*>(address) = 1;
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42, "status %x", unsigned(status));
}

void calls_fail_when_asked_to() {
  const Context context;
  const int64_t before = auxcore_standin_calls();
  int version = 0;
  OK(cuDriverGetVersion(&version));
  GIVES(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetAttribute(&version, 1, 7));
  CHECK(auxcore_standin_calls() == before + 2);

  auxcore_standin_fail(2, 999);
  CUdeviceptr address = allocate(4), none = 0;
  GIVES(999, cuMemAlloc_v2(&none, 4));
  CHECK(none == 0 && std::string(auxcore_standin_failed()) == "cuMemAlloc_v2");
  OK(cuMemsetD8Async(address, 0, 4, nullptr));
  CHECK(state().allocations == 1);

  auxcore_standin_fail(1, 700);
  GIVES(700, cuMemFree_v2(address));
  CHECK(state().allocations == 0 && std::string(auxcore_standin_failed()) == "cuMemFree_v2");

  auxcore_standin_fail(1, 700);
  auxcore_standin_fail(0, 700);
  OK(cuCtxSynchronize());
}

void errors_have_names() {
  const char* name = nullptr;
  const char* text = nullptr;
  OK(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &name));
  OK(cuGetErrorString(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
  CHECK(std::string(name) == "CUDA_ERROR_ILLEGAL_ADDRESS" && std::string(text) == "an illegal memory access was encountered");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGetErrorName(CUresult(12345), &name));
}

}  // namespace

int main() {
  CHECK(auxcore_standin() == 1);
  nothing_works_before_initialisation();
  devices_differ();
  contexts_are_counted_and_stacked();
  created_contexts_are_apart_from_the_primary_one();
  contexts_have_settings_and_peers();
  memory_is_poison_and_ranges_are_checked();
  pointers_tell_where_they_are();
  host_memory_is_known();
  garbage_handles_are_refused();
  streams_of_another_context_are_refused();
  the_host_cannot_touch_device_memory();
  calls_fail_when_asked_to();
  errors_have_names();
  return result();
}
