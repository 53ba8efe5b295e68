// The stand-in driver: that handles, addresses and states are checked as a driver checks them, that streams are lazy, and that what
// standin.h promises tests is so.
#include "standin.h"
#include "standin_cuda.h"

#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

#define GIVES(expected, call)                                 \
  do {                                                        \
    const int result_ = (call);                               \
    CHECK(result_ == (expected), "%s gives %d", #call, result_); \
  } while (false)
#define OK(call) GIVES(CUDA_SUCCESS, call)

constexpr char kPtx[] = R"(
// .entry commented_out(
.version 7.0
.target sm_80
.address_size 64
.visible .entry auxcore_ema_set_steps(
  .param .u64 .ptr .global .align 1 steps,
  .param .align 4 .b8 values[128],
  .param .u32 count
)
.maxntid 16, 1, 1
{ ret; }
.visible .entry made_elsewhere(.param .u8 a, .param .align 8 .b8 b[12], /* c */ .param .f64 c, .param .b16 d) { ret; }
.visible .entry without_parameters() { ret; }
)";

/// The primary context of a device, current.
struct Context {
  CUdevice device;
  CUcontext handle = nullptr;

  explicit Context(CUdevice device_ = 0) : device(device_) {
    OK(cuDevicePrimaryCtxRetain(&handle, device));
    OK(cuCtxPushCurrent_v2(handle));
  }
  ~Context() {
    CUcontext popped = nullptr;
    OK(cuCtxPopCurrent_v2(&popped));
    CHECK(popped == handle);
    OK(cuDevicePrimaryCtxRelease_v2(device));
  }
};

auxcore_standin_state state() {
  auxcore_standin_state now;
  auxcore_standin_get_state(&now);
  return now;
}

CUdeviceptr allocate(size_t bytes) {
  CUdeviceptr address = 0;
  OK(cuMemAlloc_v2(&address, bytes));
  return address;
}

CUstream create_stream(unsigned flags = CU_STREAM_NON_BLOCKING) {
  CUstream stream = nullptr;
  OK(cuStreamCreate(&stream, flags));
  return stream;
}

CUmodule load(const char* ptx = kPtx) {
  CUmodule module = nullptr;
  OK(cuModuleLoadDataEx(&module, ptx, 0, nullptr, nullptr));
  return module;
}

uint32_t word_at(CUdeviceptr address) {
  uint32_t value = 0;
  CHECK(auxcore_standin_peek(address, &value, 4) == 0);
  return value;
}

template <class Handle>
Handle garbage() {
  return reinterpret_cast<Handle>(uintptr_t(0xdead0));
}

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

void work_waits_until_something_waits_for_it() {
  const Context context;
  const CUdeviceptr address = allocate(4);
  const CUstream stream = create_stream();
  uint32_t source = 5, destination = 0;
  OK(cuMemcpyHtoDAsync_v2(address, &source, 4, stream));
  source = 6;  // pageable memory was staged
  OK(cuMemcpyDtoHAsync_v2(&destination, address, 4, stream));
  CHECK(state().pending == 2 && word_at(address) == 0xcbcbcbcbu && destination == 0);
  OK(cuMemsetD8Async(address, 1, 4, nullptr));  // the default stream works at once, and does not wait for this one
  CHECK(word_at(address) == 0x01010101u && state().pending == 2);
  OK(cuStreamSynchronize(stream));
  CHECK(word_at(address) == 5 && destination == 5 && state().pending == 0);

  OK(cuMemsetD8Async(address, 2, 4, stream));
  OK(cuCtxSynchronize());
  CHECK(word_at(address) == 0x02020202u);

  const CUdeviceptr other = allocate(4);
  OK(cuMemsetD8Async(address, 3, 4, stream));
  OK(cuMemFree_v2(other));
  CHECK(word_at(address) == 0x03030303u);

  OK(cuMemsetD8Async(address, 4, 4, stream));
  OK(cuStreamDestroy_v2(stream));
  CHECK(word_at(address) == 0x04040404u);
}

void blocking_streams_and_the_default_stream_wait_for_each_other() {
  const Context context;
  const CUdeviceptr address = allocate(4);
  const CUstream stream = create_stream(0);
  OK(cuMemsetD8Async(address, 1, 4, stream));
  CHECK(state().pending == 1);
  OK(cuMemsetD8Async(address, 2, 4, nullptr));
  CHECK(word_at(address) == 0x02020202u && state().pending == 0);
}

void events_order_streams() {
  const Context context;
  const CUdeviceptr address = allocate(4), copy = allocate(4);
  const CUstream first = create_stream(), second = create_stream();
  CUevent event = nullptr;
  OK(cuEventCreate(&event, 2));
  OK(cuStreamWaitEvent(second, event, 0));  // not recorded yet: nothing to wait for
  OK(cuMemsetD8Async(address, 1, 4, first));
  OK(cuEventRecord(event, first));
  OK(cuMemsetD8Async(address, 2, 4, first));
  OK(cuStreamWaitEvent(second, event, 0));
  OK(cuMemcpyDtoDAsync_v2(copy, address, 4, second));
  OK(cuEventRecord(event, second));  // what was waited for is the record of then
  OK(cuStreamSynchronize(second));
  CHECK(word_at(copy) == 0x01010101u && word_at(address) == 0x01010101u && state().pending == 1);
  OK(cuEventDestroy_v2(event));
  CHECK(state().events == 0);
}

void modules_are_text_with_entries() {
  const Context context;
  CUmodule module = nullptr;
  char log[64] = "";
  int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  GIVES(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&module, ".version 7.0", 2, options, values));
  CHECK(std::strstr(log, ".target") != nullptr && module == nullptr, "%s", log);

  module = load();
  CUfunction function = nullptr;
  OK(cuModuleGetFunction(&function, module, "made_elsewhere"));
  GIVES(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&function, module, "auxcore_ema_update"));
  GIVES(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&function, module, "commented_out"));
  OK(cuModuleUnload(module));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));

  const uint32_t fat_binary[] = {0xba55ed50, 0};
  module = load(reinterpret_cast<const char*>(fat_binary));
  OK(cuModuleGetFunction(&function, module, "auxcore_ema_update"));
  GIVES(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&function, module, "made_elsewhere"));
  OK(cuModuleUnload(module));
}

struct Steps {
  struct {
    uint32_t rule;
    float coefficient;
  } step[16];
};

void kernels_run_with_the_parameters_of_their_launch() {
  const Context context;
  const CUstream stream = create_stream();
  CUfunction function = nullptr;
  OK(cuModuleGetFunction(&function, load(), "auxcore_ema_set_steps"));
  CUdeviceptr address = allocate(sizeof(Steps));
  const CUdeviceptr steps = address;
  Steps values = {};
  values.step[1] = {2, 0.5f};
  int32_t count = 2;
  void* parameters[] = {&address, &values, &count};
  const int64_t before = state().launches;
  OK(cuLaunchKernel(function, 1, 1, 1, 16, 1, 1, 0, stream, parameters, nullptr));
  address = 0;
  values = {};
  count = 0;
  CHECK(state().launches == before);
  OK(cuStreamSynchronize(stream));
  CHECK(state().launches == before + 1);
  CHECK(word_at(steps + 8) == 2 && word_at(steps + 12) == 0x3f000000u && word_at(steps + 16) == 0xcbcbcbcbu);

  GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(function, 0, 1, 1, 16, 1, 1, 0, stream, parameters, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(function, 1, 1, 1, 32, 33, 1, 0, stream, parameters, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(function, 1, 1, 1, 16, 1, 1, 1 << 20, stream, parameters, nullptr));
}

// The steps lie at the end of their pages; what lies beyond is nobody's.
void kernels_fault_outside_of_allocations() {
  {
    const Context context;
    const CUstream stream = create_stream();
    CUfunction function = nullptr;
    OK(cuModuleGetFunction(&function, load(), "auxcore_ema_set_steps"));
    CUdeviceptr freed = allocate(sizeof(Steps)), own = allocate(sizeof(Steps)), beyond = own + 4096;
    OK(cuMemFree_v2(freed));
    Steps values = {};
    int32_t count = 16;
    void* parameters[] = {&beyond, &values, &count};
    OK(cuLaunchKernel(function, 1, 1, 1, 16, 1, 1, 0, stream, parameters, nullptr));
    GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(stream));
    CUdeviceptr none = 0;
    GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc_v2(&none, 4));  // it sticks to the context
    GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemFree_v2(own));
    CHECK(state().allocations == 0);
  }
  const Context context;
  CUfunction function = nullptr;
  OK(cuModuleGetFunction(&function, load(), "auxcore_ema_set_steps"));
  CUdeviceptr freed = allocate(sizeof(Steps));
  OK(cuMemFree_v2(freed));
  Steps values = {};
  int32_t count = 16;
  void* parameters[] = {&freed, &values, &count};
  OK(cuLaunchKernel(function, 1, 1, 1, 16, 1, 1, 0, nullptr, parameters, nullptr));
  GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
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

void kernels_of_others_are_recorded() {
  const Context context;
  const CUstream stream = create_stream();
  CUfunction function = nullptr;
  OK(cuModuleGetFunction(&function, load(), "made_elsewhere"));
  uint8_t a = 1;
  char b[12] = "elevenchars";
  double c = 2.5;
  uint16_t d = 7;
  void* parameters[] = {&a, b, &c, &d};
  OK(cuLaunchKernel(function, 3, 2, 1, 64, 2, 1, 512, stream, parameters, nullptr));
  OK(cuStreamSynchronize(stream));

  auxcore_standin_launch launch;
  unsigned char bytes[64] = {};
  CHECK(auxcore_standin_last_recorded(&launch, bytes, sizeof bytes) == 0);
  CHECK(std::string(launch.kernel) == "made_elsewhere" && launch.grid[0] == 3 && launch.grid[1] == 2 && launch.block[0] == 64);
  CHECK(launch.shared_bytes == 512 && launch.stream == reinterpret_cast<uint64_t>(stream));
  // a at 0, b at 8, c at 24, d at 32
  CHECK(launch.parameter_bytes == 34, "%u", launch.parameter_bytes);
  CHECK(bytes[0] == 1 && std::memcmp(bytes + 8, b, 12) == 0 && std::memcmp(bytes + 24, &c, 8) == 0 && bytes[32] == 7);

  OK(cuModuleGetFunction(&function, load(), "without_parameters"));
  OK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));
  CHECK(auxcore_standin_last_recorded(&launch, nullptr, 0) == 0 && launch.parameter_bytes == 0);
}

void graphs_replay_what_was_captured() {
  const Context context;
  const CUdeviceptr address = allocate(4), copy = allocate(4);
  const CUstream stream = create_stream();
  CUgraph graph = nullptr;
  CUgraphExec executable = nullptr;
  int status = 9;
  OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  OK(cuStreamIsCapturing(stream, &status));
  CHECK(status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
  OK(cuMemcpyDtoDAsync_v2(copy, address, 4, stream));
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuStreamIsCapturing(stream, &status));
  CHECK(status == CU_STREAM_CAPTURE_STATUS_NONE && state().pending == 0 && state().graphs == 1);
  OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
  OK(cuGraphDestroy(graph));
  for (unsigned char value : {1, 2}) {
    OK(cuMemsetD8Async(address, value, 4, stream));
    OK(cuGraphLaunch(executable, stream));
    OK(cuStreamSynchronize(stream));
    CHECK(word_at(copy) == 0x01010101u * value);
  }
  OK(cuGraphExecDestroy(executable));
  CHECK(state().graphs == 0);
}

void captures_forbid_what_they_cannot_record() {
  const Context context;
  const CUstream stream = create_stream();
  CUdeviceptr address = 0;
  CUgraph graph = garbage<CUgraph>();
  const auto spoiled_by = [&](auto spoil) {
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, spoil());
    GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &graph));
    CHECK(graph == nullptr && address == 0);
  };
  spoiled_by([&] { return cuStreamSynchronize(stream); });
  spoiled_by([&] { return cuCtxSynchronize(); });
  spoiled_by([&] { return cuMemAlloc_v2(&address, 4); });
  GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture_v2(nullptr, CU_STREAM_CAPTURE_MODE_GLOBAL));

  // Calls of other threads matter to a global capture only.
  OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  std::thread([&] {
    OK(cuCtxPushCurrent_v2(context.handle));
    address = allocate(4);
    OK(cuCtxPopCurrent_v2(nullptr));
  }).join();
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuGraphDestroy(graph));
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
  memory_is_poison_and_ranges_are_checked();
  pointers_tell_where_they_are();
  garbage_handles_are_refused();
  streams_of_another_context_are_refused();
  work_waits_until_something_waits_for_it();
  blocking_streams_and_the_default_stream_wait_for_each_other();
  events_order_streams();
  modules_are_text_with_entries();
  kernels_run_with_the_parameters_of_their_launch();
  kernels_fault_outside_of_allocations();
  the_host_cannot_touch_device_memory();
  kernels_of_others_are_recorded();
  graphs_replay_what_was_captured();
  captures_forbid_what_they_cannot_record();
  calls_fail_when_asked_to();
  errors_have_names();
  return auxcore::test::result();
}
