// Random calls of every function of the ABI, with arguments that are right, nearly right, and garbage. None may crash, and AddressSanitizer
// watches; at the end everything can still be closed and nothing is left. Needs the stand-in.
#include <random>
#include <string>

#include "library.h"

using namespace auxcore::test;

namespace {

class Fuzzer {
 public:
  Fuzzer(unsigned seed, const Standin& standin) : random_(seed), standin_(standin) {}

  void run(int calls) {
    for (int i = 0; i < calls; ++i) {
      if (below(50) == 0)
        standin_.fail(1 + below(8), 1 + below(999));
      const auxcore_status status = call(below(18));
      ++(status == AUXCORE_OK ? succeeded : status < 0 ? refused : driver_failed);
      CHECK(status == AUXCORE_OK || auxcore_last_error()[0] != '\0');
      CHECK(status != AUXCORE_E_INTERNAL && status != AUXCORE_E_MEMORY, "%s", auxcore_last_error());
    }
    standin_.fail(0, 0);
    for (const uint64_t context : opened_)
      auxcore_close(context);
  }

  int succeeded = 0, refused = 0, driver_failed = 0;

 private:
  int below(int end) { return static_cast<int>(random_() % static_cast<unsigned>(end)); }
  uint64_t any() { return random_() >> below(64); }

  uint64_t one_of(const std::vector<uint64_t>& known) {
    return known.empty() || below(8) == 0 ? any() : known[static_cast<std::size_t>(below(static_cast<int>(known.size())))];
  }

  uint64_t address() {
    const uint64_t base = one_of(memory_);
    return below(3) == 0 ? base + static_cast<uint64_t>(below(200)) : base;
  }

  int64_t size() {
    switch (below(8)) {
      case 0:
        return static_cast<int64_t>(any());
      case 1:
        return -below(5);
      default:
        return below(600);
    }
  }

  void* stream() {
    if (below(2) == 0)
      return nullptr;
    return reinterpret_cast<void*>(one_of(streams_));
  }

  template <class T>
  T* maybe(T* pointer) {
    return below(20) == 0 ? nullptr : pointer;
  }

  template <class T>
  void keep(std::vector<uint64_t>& list, auxcore_status status, T made) {
    const std::size_t most = &list == &contexts_ ? 3 : 12;  // so that handles are met again
    if (status != AUXCORE_OK)
      return;
    if (list.size() < most)
      list.push_back((uint64_t)made);
    else
      list[static_cast<std::size_t>(below(static_cast<int>(most)))] = (uint64_t)made;
  }

  auxcore_status call(int which) {
    uint64_t made = 0;
    void* made_stream = nullptr;
    auxcore_status status = AUXCORE_OK;
    switch (which) {
      case 0: {
        status = auxcore_open(below(10) ? AUXCORE_ABI_VERSION : static_cast<uint32_t>(any()), below(5) - 1,
            below(10) ? static_cast<uint32_t>(below(2)) : static_cast<uint32_t>(any()), maybe(&made));
        keep(contexts_, status, made);
        if (status == AUXCORE_OK)
          opened_.push_back(made);
        return status;
      }
      case 1:
        return below(40) ? auxcore_stream_synchronize(one_of(contexts_), stream()) : auxcore_close(one_of(contexts_));
      case 2: {
        auxcore_device device = {};
        device.struct_size = below(10) ? static_cast<uint32_t>(sizeof device) : static_cast<uint32_t>(any());
        return auxcore_describe_device(one_of(contexts_), maybe(&device));
      }
      case 3:
      case 4:
        status = auxcore_allocate(one_of(contexts_), size(), maybe(&made));
        keep(memory_, status, made);
        return status;
      case 5:
        return auxcore_free(one_of(contexts_), address());
      case 6:
        return auxcore_copy_to_device(one_of(contexts_), stream(), address(), maybe(host_), host_size());
      case 7:
        return auxcore_copy_to_host(one_of(contexts_), stream(), maybe(host_), address(), host_size());
      case 8:
        return auxcore_copy_on_device(one_of(contexts_), stream(), address(), address(), size());
      case 9:
        return auxcore_fill(one_of(contexts_), stream(), address(), static_cast<uint8_t>(any()), size());
      case 10:
        status = auxcore_stream_create(one_of(contexts_), maybe(&made_stream));
        keep(streams_, status, made_stream);
        return status;
      case 11:
        return auxcore_stream_destroy(one_of(contexts_), stream());
      case 12:
        return auxcore_stream_wait(one_of(contexts_), stream(), stream());
      case 13:
        status = auxcore_ema_create(one_of(contexts_), below(10) ? 1 + below(3) : static_cast<int32_t>(any()), maybe(&made));
        keep(tables_, status, made);
        return status;
      case 14:
        return below(4) ? AUXCORE_OK : auxcore_ema_destroy(one_of(tables_));
      case 15: {
        double decays[80];
        for (double& decay : decays)
          decay = below(30) ? below(101) / 100.0 : std::nan("");
        return auxcore_ema_set_decays(one_of(tables_), stream(), maybe(decays), below(12) ? 1 + below(3) : below(80));
      }
      case 16: {
        int32_t count = 0;
        return auxcore_device_count(maybe(&count));
      }
      default:
        return update();
    }
  }

  // Host memory really has this many bytes: its extent is the caller's promise, which nothing can check.
  int64_t host_size() {
    const int64_t bytes = size();
    return bytes > static_cast<int64_t>(sizeof host_) ? static_cast<int64_t>(sizeof host_) : bytes;
  }

  auxcore_status update() {
    constexpr int mostTensors = 6, mostColumns = 65;
    Group group;
    const int count = below(mostTensors);
    for (int i = 0; i < count; ++i) {
      group.counts.push_back(below(20) ? below(140) : static_cast<int64_t>(any()));
      group.types.push_back(below(20) ? std::vector<auxcore_dtype>{0, 2, 3}[static_cast<std::size_t>(below(3))] : static_cast<int>(any()));
      for (int column = 0; column < mostColumns; ++column)
        group.addresses.push_back(below(8) ? address() & ~uint64_t{15} : address());
    }
    auxcore_ema_tensors tensors = group.tensors();
    if (below(20) == 0)
      tensors.struct_size = static_cast<uint32_t>(any());
    if (below(20) == 0)
      tensors.tensor_count = -tensors.tensor_count;
    return auxcore_ema_update(one_of(tables_), stream(), below(3) ? &tensors : nullptr);
  }

  std::mt19937_64 random_;
  const Standin& standin_;
  std::vector<uint64_t> contexts_, memory_, streams_, tables_;
  std::vector<uint64_t> opened_;  // all contexts ever: the end closes those that are open
  char host_[600] = {};
};

}  // namespace

int main(int count, char** arguments) {
  const int calls = count > 1 ? std::stoi(arguments[1]) : 100000;
  const unsigned seed = count > 2 ? static_cast<unsigned>(std::stoul(arguments[2])) : 1;
  const Standin standin;
  Fuzzer fuzzer(seed, standin);
  fuzzer.run(calls);
  std::printf("seed %u: %d calls succeeded, %d were refused, %d failed in the driver\n", seed, fuzzer.succeeded, fuzzer.refused,
      fuzzer.driver_failed);
  CHECK(fuzzer.succeeded > calls / 20 && fuzzer.refused > calls / 20, "the mixture tests one side only");
  const auxcore_standin_state now = standin.state();
  CHECK(now.retained_contexts == 0 && now.pushed_contexts == 0 && now.allocations == 0 && now.streams == 0 && now.modules == 0 && now.events == 0,
      "%lld contexts, %lld allocations, %lld streams, %lld modules, %lld events are left", static_cast<long long>(now.retained_contexts),
      static_cast<long long>(now.allocations), static_cast<long long>(now.streams), static_cast<long long>(now.modules),
      static_cast<long long>(now.events));
  return result();
}
