// The C ABI as a C caller meets it: contexts, memory, streams; what it does, and what it refuses. Runs on the stand-in and on a device.
#include <atomic>
#include <thread>

#include "library.h"

using namespace auxcore::test;

namespace {

void memory_round_trips() {
  const std::vector<float> values = pattern(1001, 3);
  const uint64_t first = device_copy(values), second = device_copy(std::vector<float>(1001));
  CHECK(first % 256 == 0 && second % 256 == 0);
  OK(auxcore_copy_on_device(context, nullptr, second, first, 1001 * 4));
  CHECK(host_copy(second, 1001) == values);
  OK(auxcore_fill(context, nullptr, second, 0, 500 * 4));
  const std::vector<float> filled = host_copy(second, 1001);
  CHECK(filled[499] == 0 && filled[500] == values[500]);

  OK(auxcore_copy_to_device(context, nullptr, first, nullptr, 0));
  OK(auxcore_copy_to_host(context, nullptr, nullptr, first, 0));
  OK(auxcore_free(context, first));
  OK(auxcore_free(context, second));
  OK(auxcore_free(context, 0));
}

void memory_is_checked() {
  uint64_t address = 0;
  float host[4] = {};
  REFUSED(AUXCORE_E_ARGUMENT, "address is NULL", auxcore_allocate(context, 16, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "at least 1", auxcore_allocate(context, 0, &address));
  REFUSED(AUXCORE_E_ARGUMENT, "at least 1", auxcore_allocate(context, -5, &address));
  CHECK(auxcore_allocate(context, INT64_MAX, &address) > 0, "more memory than there is");
  CHECK(address == 0, "a failed allocation leaves the output as it was");

  const uint64_t memory = device_copy({1, 2, 3, 4});
  const uint64_t of_host = reinterpret_cast<uint64_t>(host);
  REFUSED(AUXCORE_E_ARGUMENT, "is not device memory", auxcore_copy_to_device(context, nullptr, of_host, host, 16));
  REFUSED(AUXCORE_E_ARGUMENT, "is not device memory", auxcore_copy_to_host(context, nullptr, host, of_host, 16));
  REFUSED(AUXCORE_E_ARGUMENT, "is not device memory", auxcore_copy_to_host(context, nullptr, host, 0, 16));
  REFUSED(AUXCORE_E_ARGUMENT, "source: ", auxcore_copy_on_device(context, nullptr, memory, of_host, 16));
  REFUSED(AUXCORE_E_ARGUMENT, "destination: ", auxcore_fill(context, nullptr, of_host, 1, 16));
  REFUSED(AUXCORE_E_ARGUMENT, "the end of", auxcore_fill(context, nullptr, memory, 1, int64_t{1} << 40));
  REFUSED(AUXCORE_E_ARGUMENT, "the end of", auxcore_fill(context, nullptr, memory, 1, INT64_MAX));
  REFUSED(AUXCORE_E_ARGUMENT, "exceed the address space", auxcore_fill(context, nullptr, UINT64_MAX - 7, 1, 16));
  REFUSED(AUXCORE_E_ARGUMENT, "bytes is -1", auxcore_fill(context, nullptr, memory, 1, -1));
  REFUSED(AUXCORE_E_ARGUMENT, "overlaps", auxcore_copy_on_device(context, nullptr, memory, memory + 4, 8));
  REFUSED(AUXCORE_E_ARGUMENT, "source is NULL", auxcore_copy_to_device(context, nullptr, memory, nullptr, 16));
  REFUSED(AUXCORE_E_ARGUMENT, "destination is NULL", auxcore_copy_to_host(context, nullptr, nullptr, memory, 16));
  CHECK(host_copy(memory, 4) == std::vector<float>({1, 2, 3, 4}), "what was refused was not done");
  OK(auxcore_free(context, memory));
  REFUSED(AUXCORE_E_ARGUMENT, "was freed", auxcore_free(context, memory));
  REFUSED(AUXCORE_E_ARGUMENT, "not allocated through", auxcore_free(context, of_host));
}

void handles_are_checked() {
  for (const auxcore_context wrong : {uint64_t{0}, UINT64_MAX, reinterpret_cast<uint64_t>(&context)}) {
    uint64_t address = 0;
    void* stream = nullptr;
    auxcore_device device = {};
    device.struct_size = sizeof device;
    REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_close(wrong));
    REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_describe_device(wrong, &device));
    REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_allocate(wrong, 1, &address));
    REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_free(wrong, 0));
    REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_copy_on_device(wrong, nullptr, 0, 0, 0));
    REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_stream_create(wrong, &stream));
    REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_stream_wait(wrong, nullptr, nullptr));
    REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_ema_create(wrong, 1, &address));
    REFUSED(AUXCORE_E_HANDLE, "no open EMA table", auxcore_ema_update(wrong, nullptr, nullptr));
    REFUSED(AUXCORE_E_HANDLE, "no open EMA table", auxcore_ema_destroy(wrong));
  }

  auxcore_ema_table table = 0;
  OK(auxcore_ema_create(context, 1, &table));
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_close(table));
  REFUSED(AUXCORE_E_HANDLE, "no open EMA table", auxcore_ema_destroy(context));
  OK(auxcore_ema_destroy(table));
  REFUSED(AUXCORE_E_HANDLE, "no open EMA table", auxcore_ema_destroy(table));
}

void opening_is_checked() {
  auxcore_context other = 7;
  REFUSED(AUXCORE_E_ABI, "the caller was built for ABI version 2", auxcore_open(AUXCORE_ABI_VERSION + 1, 0, 0, &other));
  REFUSED(AUXCORE_E_ARGUMENT, "flags 0x80", auxcore_open(AUXCORE_ABI_VERSION, 0, 0x80, &other));
  REFUSED(AUXCORE_E_ARGUMENT, "context is NULL", auxcore_open(AUXCORE_ABI_VERSION, 0, 0, nullptr));
  REFUSED(AUXCORE_E_NO_DEVICE, "no CUDA device -1", auxcore_open(AUXCORE_ABI_VERSION, -1, 0, &other));
  REFUSED(AUXCORE_E_NO_DEVICE, "no CUDA device 1000", auxcore_open(AUXCORE_ABI_VERSION, 1000, 0, &other));
  CHECK(other == 7);
  REFUSED(AUXCORE_E_ARGUMENT, "count is NULL", auxcore_device_count(nullptr));

  auxcore_device device = {};
  REFUSED(AUXCORE_E_ABI, "struct_size is 0", auxcore_describe_device(context, &device));
  REFUSED(AUXCORE_E_ARGUMENT, "device is NULL", auxcore_describe_device(context, nullptr));
  device.struct_size = sizeof device;
  OK(auxcore_describe_device(context, &device));
  CHECK(device.ordinal == 0 && device.compute_major >= 5 && device.multiprocessors > 0 && device.memory_bytes > 0 && device.name[0]);
  std::printf("%s, %d.%d, driver %d; image: %s\n", device.name, device.compute_major, device.compute_minor, device.driver_version,
      auxcore_device_image());
}

void closing_frees_what_is_left() {
  auxcore_context other = 0;
  auxcore_ema_table table = 0;
  uint64_t address = 0;
  void* stream = nullptr;
  OK(auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &other));
  OK(auxcore_ema_create(other, 2, &table));
  OK(auxcore_allocate(other, 100, &address));
  OK(auxcore_stream_create(other, &stream));
  OK(auxcore_close(other));
  REFUSED(AUXCORE_E_HANDLE, "no open EMA table", auxcore_ema_destroy(table));
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_free(other, address));
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_close(other));
}

void streams_order_work() {
  void *first = nullptr, *second = nullptr;
  OK(auxcore_stream_create(context, &first));
  OK(auxcore_stream_create(context, &second));
  constexpr int kCount = 4096;
  const uint64_t source = device_copy(pattern(kCount, 1)), middle = device_copy(pattern(kCount, 2)), end = device_copy(pattern(kCount, 3));
  OK(auxcore_copy_on_device(context, first, middle, source, kCount * 4));
  OK(auxcore_stream_wait(context, second, first));
  OK(auxcore_copy_on_device(context, second, end, middle, kCount * 4));
  CHECK(host_copy(end, kCount, second) == pattern(kCount, 1));
  OK(auxcore_stream_synchronize(context, first));
  OK(auxcore_stream_synchronize(context, nullptr));
  OK(auxcore_stream_destroy(context, first));
  REFUSED(AUXCORE_E_ARGUMENT, "was destroyed", auxcore_stream_destroy(context, first));
  REFUSED(AUXCORE_E_ARGUMENT, "not created through", auxcore_stream_destroy(context, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "stream is NULL", auxcore_stream_create(context, nullptr));
  OK(auxcore_stream_destroy(context, second));
  for (const uint64_t address : {source, middle, end})
    OK(auxcore_free(context, address));
}

void a_context_may_be_closed_while_it_is_used() {
  auxcore_context closing = 0;
  OK(auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &closing));
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (;;) {
        uint64_t address = 0;
        const auxcore_status status = auxcore_allocate(closing, 64, &address);
        if (status == AUXCORE_E_HANDLE)
          return;
        wrong += status != AUXCORE_OK;
        const auxcore_status freed = auxcore_free(closing, address);
        wrong += freed != AUXCORE_OK && freed != AUXCORE_E_HANDLE;
      }
    });
  OK(auxcore_close(closing));
  for (std::thread& thread : threads)
    thread.join();
  CHECK(wrong == 0, "%d calls", wrong.load());
}

}  // namespace

int main() {
  CHECK(auxcore_abi_version() == AUXCORE_ABI_VERSION);
  CHECK(auxcore_last_error() != nullptr && auxcore_last_error()[0] == '\0');
  open_or_skip();
  memory_round_trips();
  memory_is_checked();
  handles_are_checked();
  opening_is_checked();
  closing_frees_what_is_left();
  streams_order_work();
  a_context_may_be_closed_while_it_is_used();
  OK(auxcore_close(context));
  return result();
}
