// The stand-in driver at work: streams are lazy, events order them, modules are text, kernels run or are recorded, graphs replay.
#include "simulator_standin.h"

#include <cstring>
#include <string>
#include <thread>

using namespace auxcore::test;

namespace {

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

void copies_go_where_their_addresses_say() {
  const Context context;
  const CUdeviceptr first = allocate(8), second = allocate(8);
  uint32_t source[2] = {3, 4}, destination[2] = {};
  const auto address = [](const uint32_t* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); };
  OK(cuMemcpyAsync(first, address(source), 8, nullptr));
  OK(cuMemcpyAsync(second, first + 4, 4, nullptr));
  OK(cuMemcpyAsync(address(destination + 1), second, 4, nullptr));
  CHECK(destination[0] == 0 && destination[1] == 4);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyAsync(first, address(source), 9, nullptr));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyAsync(address(destination), address(source), 4, nullptr));
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

void events_are_waited_for_and_timed() {
  const Context context;
  const CUdeviceptr address = allocate(4);
  CUstream stream = nullptr;
  OK(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, -5));
  CUevent begin = nullptr, end = nullptr, untimed = nullptr;
  OK(cuEventCreate(&begin, 0));
  OK(cuEventCreate(&end, 0));
  OK(cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING));
  float milliseconds = -1;
  OK(cuEventQuery(begin));  // there is nothing that it waits for
  OK(cuEventSynchronize(begin));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&milliseconds, begin, end));

  OK(cuEventRecord(begin, stream));
  OK(cuMemsetD8Async(address, 1, 4, stream));
  OK(cuEventRecord(end, stream));
  OK(cuMemsetD8Async(address, 2, 4, stream));
  OK(cuEventRecord(untimed, stream));
  GIVES(CUDA_ERROR_NOT_READY, cuEventElapsedTime(&milliseconds, begin, end));
  OK(cuEventSynchronize(end));
  CHECK(word_at(address) == 0x01010101u && state().pending == 2);
  OK(cuEventElapsedTime(&milliseconds, begin, end));
  CHECK(milliseconds >= 0);
  GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(untimed));
  OK(cuEventQuery(untimed));
  CHECK(word_at(address) == 0x02020202u);
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&milliseconds, begin, untimed));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventQuery(garbage<CUevent>()));
  for (const CUevent event : {begin, end, untimed})
    OK(cuEventDestroy_v2(event));
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

void blocks_are_as_large_as_shared_memory_lets_them() {
  const Context context;
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  OK(cuModuleLoadData(&module, kPtx));
  OK(cuModuleGetFunction(&function, module, "made_elsewhere"));
  int grid = 0, threads = 0, blocks = 0;
  OK(cuOccupancyMaxPotentialBlockSize(&grid, &threads, function, nullptr, 0, 0));
  CHECK(threads == 1024 && grid == 8);
  OK(cuOccupancyMaxPotentialBlockSize(&grid, &threads, function, nullptr, 0, 100));
  CHECK(threads == 100 && grid == 4 * 20);
  OK(cuOccupancyMaxPotentialBlockSize(
      &grid, &threads, function, [](int of) { return size_t(of) * 128; }, 0, 0));
  CHECK(threads == 384, "%d", threads);
  OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, 256, 0));
  CHECK(blocks == 8);
  OK(cuModuleUnload(module));
}

// The steps lie at the end of their pages; what lies beyond is nobody's.
void kernels_fault_outside_of_allocations() {
  {
    const Context context;
    const CUstream stream = create_stream();
    CUfunction function = nullptr;
    OK(cuModuleGetFunction(&function, load(), "auxcore_ema_set_steps"));
    CUevent after = nullptr;
    OK(cuEventCreate(&after, 0));
    CUdeviceptr freed = allocate(sizeof(Steps)), own = allocate(sizeof(Steps)), beyond = own + 4096;
    OK(cuMemFree_v2(freed));
    Steps values = {};
    int32_t count = 16;
    void* parameters[] = {&beyond, &values, &count};
    OK(cuLaunchKernel(function, 1, 1, 1, 16, 1, 1, 0, stream, parameters, nullptr));
    OK(cuEventRecord(after, stream));
    GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(stream));
    CUdeviceptr none = 0;
    GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc_v2(&none, 4));  // it sticks to the context
    GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemFree_v2(own));
    OK(cuStreamDestroy_v2(stream));
    GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuEventSynchronize(after));
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

}  // namespace

int main() {
  OK(cuInit(0));
  work_waits_until_something_waits_for_it();
  copies_go_where_their_addresses_say();
  blocking_streams_and_the_default_stream_wait_for_each_other();
  events_order_streams();
  events_are_waited_for_and_timed();
  modules_are_text_with_entries();
  kernels_run_with_the_parameters_of_their_launch();
  blocks_are_as_large_as_shared_memory_lets_them();
  kernels_fault_outside_of_allocations();
  kernels_of_others_are_recorded();
  graphs_replay_what_was_captured();
  captures_forbid_what_they_cannot_record();
  return result();
}
