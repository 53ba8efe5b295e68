// Random calls of every function of the ABI, with arguments that are right, nearly right, and garbage, from one thread or several. None may
// crash, and a sanitizer watches; at the end everything can still be closed and nothing is left. Needs the stand-in.
#include <algorithm>
#include <random>
#include <string>
#include <thread>

#include "library.h"

using namespace auxcore::test;

namespace {

enum Function {
  kOpen,
  kClose,
  kDescribe,
  kAllocate,
  kFree,
  kCopyToDevice,
  kCopyToHost,
  kCopyOnDevice,
  kFill,
  kStreamCreate,
  kStreamDestroy,
  kStreamSynchronize,
  kStreamWait,
  kEmaCreate,
  kEmaDestroy,
  kEmaSetDecays,
  kEmaSetRounding,
  kEmaUpdate,
  kAdamWCreate,
  kAdamWDestroy,
  kAdamWSet,
  kAdamWUpdate,
  kAdamWNorm,
  kAdamWReadNorm,
  kDeviceCount,
  kFunctions
};

struct Entry {
  const char* name;
  int weight;  // how often it is called, beside the others
};

constexpr Entry kEntries[kFunctions] = {{"open", 2}, {"close", 1}, {"describe_device", 4}, {"allocate", 20}, {"free", 8},
    {"copy_to_device", 10}, {"copy_to_host", 10}, {"copy_on_device", 10}, {"fill", 10}, {"stream_create", 6}, {"stream_destroy", 3},
    {"stream_synchronize", 8}, {"stream_wait", 8}, {"ema_create", 8}, {"ema_destroy", 3}, {"ema_set_decays", 16},
    {"ema_set_rounding", 10}, {"ema_update", 60},
    {"adamw_create", 8}, {"adamw_destroy", 3}, {"adamw_set", 24}, {"adamw_update", 60}, {"adamw_norm", 30}, {"adamw_read_norm", 16},
    {"device_count", 4}};

constexpr int kIllegalAddress = 700;
constexpr std::size_t kMostBytes = 700;

struct Tally {
  int succeeded = 0, refused = 0, driver_failed = 0;
};

using Tallies = std::vector<Tally>;

class Fuzzer {
 public:
  Fuzzer(unsigned seed, const Standin& standin) : random_(seed), standin_(standin) {}

  void run(int calls) {
    for (int i = 0; i < calls && failures < 20; ++i) {
      if (below(60) == 0)
        standin_.fail(1 + below(8), 1 + below(999));
      focus_ = contexts_.empty() ? 0 : any_of(contexts_).value;
      const Function function = pick_function();
      const auxcore_status status = call(function);
      count(function, status);
      CHECK(status == AUXCORE_OK || auxcore_last_error()[0] != '\0');
      CHECK(status != AUXCORE_E_INTERNAL && status != AUXCORE_E_MEMORY, "%s", auxcore_last_error());
      // A kernel met memory that had been freed. The device recovers when nobody has a context of it.
      if (status == kIllegalAddress)
        close_all();
    }
  }

  void close_all() {
    for (const Known& context : contexts_) {
      auxcore_close(context.value);
      forget_all_of(context.value);
    }
    contexts_.clear();
  }

  Tallies tallies{kFunctions};

 private:
  /// Something that the library made, and perhaps has destroyed since.
  struct Known {
    uint64_t value, context;
    int64_t size;  // bytes of memory, averages of a table
  };
  using List = std::vector<Known>;

  int below(int end) { return static_cast<int>(random_() % static_cast<unsigned>(end)); }
  bool one_in(int many) { return below(many) == 0; }
  uint64_t any() { return random_() >> below(64); }
  const Known& any_of(const List& list) { return list[static_cast<std::size_t>(below(static_cast<int>(list.size())))]; }

  Function pick_function() {
    if (contexts_.empty() && one_in(3))
      return kOpen;
    int total = 0;
    for (const Entry& entry : kEntries)
      total += entry.weight;
    int at = below(total), function = 0;
    while (at >= kEntries[function].weight)
      at -= kEntries[function++].weight;
    return static_cast<Function>(function);
  }

  void count(Function function, auxcore_status status) {
    Tally& tally = tallies[function];
    ++(status == AUXCORE_OK ? tally.succeeded : status < 0 ? tally.refused : tally.driver_failed);
  }

  /// What was made in the context that this call is about; sometimes in another, sometimes nothing that ever was.
  Known one_of(const List& list) {
    List fitting;
    std::copy_if(list.begin(), list.end(), std::back_inserter(fitting), [&](const Known& known) { return known.context == focus_; });
    if (!fitting.empty() && !one_in(12))
      return any_of(fitting);
    return list.empty() || one_in(2) ? Known{any(), 0, below(4)} : any_of(list);
  }

  uint64_t context() { return one_in(16) ? one_of(contexts_).value : focus_; }
  void* stream() { return one_in(2) ? nullptr : reinterpret_cast<void*>(one_of(streams_).value); }

  uint64_t address() {
    const uint64_t base = one_of(memory_).value;
    return one_in(3) ? base + static_cast<uint64_t>(below(200)) : base;
  }

  int64_t size() {
    if (!one_in(10))
      return below(static_cast<int>(kMostBytes)) - (one_in(20) ? 5 : 0);
    // What a device has room for, and takes long to be filled with poison, tells nothing that less would not.
    const int64_t bytes = static_cast<int64_t>(any());
    return bytes >> 20 > 0 && bytes >> 32 == 0 ? bytes << 12 : bytes;
  }

  template <class T>
  T* maybe(T* pointer) {
    return one_in(40) ? nullptr : pointer;
  }

  /// Keeps what was made. Lists are short, so that things are met again; what falls out of one is mostly not left lying about.
  auxcore_status keep(List& list, auxcore_status status, uint64_t made, int64_t size = 0) {
    const std::size_t most = &list == &contexts_ ? 3 : 24;
    if (status != AUXCORE_OK) {
      CHECK(made == 0, "a failed call wrote its output");
      return status;
    }
    if (list.size() < most) {
      list.push_back({made, focus_, size});
      return status;
    }
    Known& replaced = list[static_cast<std::size_t>(below(static_cast<int>(most)))];
    if (&list == &contexts_)
      auxcore_close(replaced.value);
    else if (&list == &memory_)
      auxcore_free(replaced.context, replaced.value);
    else if (&list == &streams_)
      auxcore_stream_destroy(replaced.context, reinterpret_cast<void*>(replaced.value));
    else if (&list == &tables_)
      auxcore_ema_destroy(replaced.value);
    else
      auxcore_adamw_destroy(replaced.value);
    replaced = {made, focus_, size};
    return status;
  }

  void forget_all_of(uint64_t context) {
    for (List* list : {&memory_, &streams_, &tables_, &adamw_tables_})
      std::erase_if(*list, [&](const Known& known) { return known.context == context && !one_in(8); });
  }

  /// What was destroyed mostly does not come back.
  auxcore_status forget(List& list, uint64_t gone, auxcore_status status) {
    if (status == AUXCORE_OK && !one_in(4))
      std::erase_if(list, [&](const Known& known) { return known.value == gone; });
    return status;
  }

  auxcore_status call(Function function) {
    uint64_t made = 0;
    switch (function) {
      case kOpen: {
        const auxcore_status status =
            auxcore_open(one_in(20) ? static_cast<uint32_t>(any()) : AUXCORE_ABI_VERSION, one_in(5) ? below(9) - 4 : below(2),
                one_in(20) ? static_cast<uint32_t>(any()) : static_cast<uint32_t>(below(2)), maybe(&made));
        focus_ = made;
        return keep(contexts_, status, made);
      }
      case kClose: {
        const uint64_t closed = one_in(2) ? any() : context();
        const auxcore_status status = auxcore_close(closed);
        if (status == AUXCORE_OK)
          forget_all_of(closed);
        return forget(contexts_, closed, status);
      }
      case kDescribe: {
        auxcore_device device = {};
        device.struct_size = one_in(10) ? static_cast<uint32_t>(any()) : static_cast<uint32_t>(sizeof device);
        return auxcore_describe_device(context(), maybe(&device));
      }
      case kAllocate: {
        const int64_t bytes = size();
        const auxcore_status status = auxcore_allocate(focus_, bytes, maybe(&made));
        return keep(memory_, status, made, bytes);
      }
      case kFree: {
        const uint64_t freed = one_in(3) ? address() : one_of(memory_).value;
        return forget(memory_, freed, auxcore_free(context(), freed));
      }
      case kCopyToDevice:
        return auxcore_copy_to_device(context(), stream(), address(), maybe(host_), host_size());
      case kCopyToHost:
        return auxcore_copy_to_host(context(), stream(), maybe(host_), address(), host_size());
      case kCopyOnDevice:
        return auxcore_copy_on_device(context(), stream(), address(), address(), size() / 4);
      case kFill:
        return auxcore_fill(context(), stream(), address(), static_cast<uint8_t>(any()), size() / 4);
      case kStreamCreate: {
        void* stream = nullptr;
        const auxcore_status status = auxcore_stream_create(focus_, maybe(&stream));
        return keep(streams_, status, reinterpret_cast<uint64_t>(stream));
      }
      case kStreamDestroy: {
        void* const destroyed = stream();
        return forget(streams_, reinterpret_cast<uint64_t>(destroyed), auxcore_stream_destroy(context(), destroyed));
      }
      case kStreamSynchronize:
        return auxcore_stream_synchronize(context(), stream());
      case kStreamWait:
        return auxcore_stream_wait(context(), stream(), stream());
      case kEmaCreate: {
        const int32_t averages = one_in(20) ? static_cast<int32_t>(any()) : 1 + below(3);
        const auxcore_status status = auxcore_ema_create(focus_, averages, maybe(&made));
        return keep(tables_, status, made, averages);
      }
      case kEmaDestroy: {
        const uint64_t destroyed = one_of(tables_).value;
        return forget(tables_, destroyed, auxcore_ema_destroy(destroyed));
      }
      case kEmaSetDecays: {
        double decays[80];
        for (double& decay : decays)
          decay = one_in(40) ? std::nan("") : below(101) / 100.0;
        const Known table = one_of(tables_);
        return auxcore_ema_set_decays(table.value, stream(), maybe(decays), one_in(12) ? below(80) : static_cast<int32_t>(table.size));
      }
      case kEmaSetRounding:
        return auxcore_ema_set_rounding(one_of(tables_).value, stream(), one_in(12) ? static_cast<int32_t>(any()) : below(2), any(),
            one_in(12) ? static_cast<int64_t>(any()) : below(100), one_in(12) ? static_cast<int32_t>(any()) : below(100));
      case kEmaUpdate:
        return update();
      case kAdamWCreate: {
        const int32_t averages = one_in(20) ? static_cast<int32_t>(any()) : below(3);
        const auxcore_status status = auxcore_adamw_create(focus_, averages, maybe(&made));
        return keep(adamw_tables_, status, made, averages);
      }
      case kAdamWDestroy: {
        const uint64_t destroyed = one_of(adamw_tables_).value;
        return forget(adamw_tables_, destroyed, auxcore_adamw_destroy(destroyed));
      }
      case kAdamWSet:
        return set_adamw();
      case kAdamWUpdate:
      case kAdamWNorm:
        return step_adamw(function);
      case kAdamWReadNorm: {
        double sum;
        int64_t non_finite;
        return auxcore_adamw_read_norm(one_of(adamw_tables_).value, stream(), maybe(&sum), maybe(&non_finite));
      }
      default: {
        int32_t devices = 0;
        return auxcore_device_count(maybe(&devices));
      }
    }
  }

  // Host memory really has this many bytes: its extent is the caller's promise, which nothing can check.
  int64_t host_size() { return std::min(size() / 2, static_cast<int64_t>(sizeof host_)); }

  // Tensors that fit the table, and mostly one thing wrong with them, or nothing.
  auxcore_status update() {
    const Known table = one_of(tables_);
    const std::size_t columns = table.size >= 1 && table.size <= 64 ? static_cast<std::size_t>(table.size) + 1 : 2;
    List free;
    std::copy_if(memory_.begin(), memory_.end(), std::back_inserter(free), [&](const Known& memory) {
      return memory.context == table.context && memory.size >= 8 && memory.size < static_cast<int64_t>(kMostBytes);
    });
    std::shuffle(free.begin(), free.end(), random_);

    Group group;
    for (int left = below(5); left > 0 && free.size() >= columns; --left) {
      int64_t bytes = INT64_MAX;
      for (std::size_t column = 0; column < columns; ++column) {
        group.addresses.push_back(free.back().value + (column > 0 && one_in(3) ? 4 : 0));
        bytes = std::min(bytes, free.back().size - 4);
        free.pop_back();
      }
      group.counts.push_back(one_in(12) ? 0 : bytes / 4);
      group.types.push_back(one_in(2) ? AUXCORE_FLOAT32 : one_in(2) ? AUXCORE_FLOAT16 : AUXCORE_BFLOAT16);
    }
    group.addresses.resize(std::max<std::size_t>(group.addresses.size(), 65));  // as many as a wrong table may read
    const std::size_t tensors_given = group.counts.size();
    if (tensors_given > 0 && one_in(4)) {
      const std::size_t at = static_cast<std::size_t>(below(static_cast<int>(tensors_given)));
      switch (below(4)) {
        case 0:
          group.counts[at] = static_cast<int64_t>(any());
          break;
        case 1:
          group.types[at] = static_cast<int>(any());
          break;
        default:
          group.addresses[at * columns + static_cast<std::size_t>(below(static_cast<int>(columns)))] = address();
      }
    }
    group.addresses.resize(5 * 65);
    auxcore_ema_tensors tensors = group.tensors();
    if (one_in(4))  // in memory that holds as many float32
      tensors.average_type = one_in(4) ? static_cast<int32_t>(any()) : AUXCORE_BFLOAT16;
    if (one_in(30))
      tensors.struct_size = static_cast<uint32_t>(any());
    if (one_in(30))
      tensors.tensor_count = -tensors.tensor_count;
    return auxcore_ema_update(table.value, stream(), one_in(3) ? nullptr : &tensors);
  }

  auxcore_status set_adamw() {
    auxcore_adamw_settings settings[40];
    for (auxcore_adamw_settings& one : settings)
      one = {one_in(200) ? std::nan("") : below(5) - 2.0, 0, 0.1f, 0.001f, 1e-8f, one_in(200) ? HUGE_VALF : 1e-3f, 0};
    double decays[4];
    for (double& decay : decays)
      decay = one_in(40) ? std::nan("") : below(101) / 100.0;
    const int count = one_in(8) ? below(41) - 1 : 1 + below(3);
    return auxcore_adamw_set(one_of(adamw_tables_).value, stream(), maybe(settings), count, maybe(decays));
  }

  // As update(): rows of parameter, master, gradient, two moments and averages.
  auxcore_status step_adamw(Function function) {
    const Known table = one_of(adamw_tables_);
    const std::size_t columns = 5 + (table.size >= 0 && table.size <= 4 ? static_cast<std::size_t>(table.size) : 0);
    List free;
    std::copy_if(memory_.begin(), memory_.end(), std::back_inserter(free), [&](const Known& memory) {
      return memory.context == table.context && memory.size >= 8 && memory.size < static_cast<int64_t>(kMostBytes);
    });
    std::shuffle(free.begin(), free.end(), random_);

    std::vector<uint64_t> addresses;
    std::vector<int64_t> counts;
    std::vector<auxcore_dtype> parameter_types, gradient_types;
    std::vector<int32_t> settings_of;
    for (int left = below(3); left > 0 && free.size() >= columns; --left) {
      int64_t bytes = INT64_MAX;
      parameter_types.push_back(one_in(2) ? AUXCORE_FLOAT32 : one_in(2) ? AUXCORE_FLOAT16 : AUXCORE_BFLOAT16);
      gradient_types.push_back(one_in(2) ? AUXCORE_FLOAT32 : one_in(2) ? AUXCORE_FLOAT16 : AUXCORE_BFLOAT16);
      for (std::size_t column = 0; column < columns; ++column) {
        const bool none = (column == 1 && parameter_types.back() == AUXCORE_FLOAT32) || (column == 2 && one_in(6));
        addresses.push_back(none ? 0 : free.back().value + (one_in(3) ? 4 : 0));
        bytes = std::min(bytes, free.back().size - 4);
        free.pop_back();
      }
      counts.push_back(one_in(12) ? 0 : bytes / 4);
      settings_of.push_back(one_in(12) ? below(9) - 4 : 0);
    }
    const std::size_t rows = counts.size();
    if (rows > 0 && one_in(4)) {
      const std::size_t at = static_cast<std::size_t>(below(static_cast<int>(rows)));
      switch (below(5)) {
        case 0:
          counts[at] = static_cast<int64_t>(any());
          break;
        case 1:
          parameter_types[at] = static_cast<int>(any());
          break;
        case 2:
          gradient_types[at] = static_cast<int>(any());
          break;
        default:
          addresses[at * columns + static_cast<std::size_t>(below(static_cast<int>(columns)))] = address();
      }
    }
    addresses.resize(3 * 9);  // as many as a wrong table may read
    auxcore_adamw_tensors tensors = {sizeof(auxcore_adamw_tensors), 0, static_cast<int64_t>(rows), addresses.data(), counts.data(),
        parameter_types.data(), gradient_types.data(), settings_of.data()};
    if (one_in(30))
      tensors.struct_size = static_cast<uint32_t>(any());
    if (one_in(30))
      tensors.tensor_count = -tensors.tensor_count;
    const auxcore_adamw_tensors* given = one_in(3) ? nullptr : &tensors;
    return function == kAdamWUpdate ? auxcore_adamw_update(table.value, stream(), given, one_in(20) ? 2 : static_cast<uint32_t>(below(2)))
                                    : auxcore_adamw_norm(table.value, stream(), given, below(3), below(3) - (one_in(20) ? 1 : 0), below(2));
  }

  std::mt19937_64 random_;
  const Standin& standin_;
  uint64_t focus_ = 0;  // the context that this call is about
  List contexts_, memory_, streams_, tables_, adamw_tables_;
  char host_[kMostBytes] = {};
};

bool has_device_code() { return std::strcmp(auxcore_device_image(), "none") != 0; }

void print(const Tallies& tallies) {
  std::printf("%-20s %9s %9s %9s\n", "auxcore_", "succeeded", "refused", "driver");
  for (int function = 0; function < kFunctions; ++function) {
    const Tally& tally = tallies[static_cast<std::size_t>(function)];
    std::printf("%-20s %9d %9d %9d\n", kEntries[function].name, tally.succeeded, tally.refused, tally.driver_failed);
    const bool launches = function == kEmaSetDecays || function == kEmaUpdate || (function >= kAdamWSet && function <= kAdamWReadNorm);
    const bool can_succeed = has_device_code() || !launches;
    const bool is_mixed = tally.refused > 0 && (tally.succeeded > 0) == can_succeed;
    CHECK(is_mixed, "auxcore_%s: the mixture tests one side only", kEntries[function].name);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int calls = count > 1 ? std::stoi(arguments[1]) : 100000;
  const unsigned seed = count > 2 ? static_cast<unsigned>(std::stoul(arguments[2])) : 1;
  const unsigned thread_count = count > 3 ? static_cast<unsigned>(std::stoul(arguments[3])) : 1;
  const Standin standin;
  std::vector<Fuzzer> fuzzers;
  for (unsigned i = 0; i < thread_count; ++i)
    fuzzers.emplace_back(seed * 1000 + i, standin);
  std::vector<std::thread> threads;
  for (Fuzzer& fuzzer : fuzzers)
    threads.emplace_back([&fuzzer, share = calls / static_cast<int>(thread_count)] { fuzzer.run(share); });
  for (std::thread& thread : threads)
    thread.join();
  standin.fail(0, 0);

  Tallies sum{kFunctions};
  Tally all;
  for (Fuzzer& fuzzer : fuzzers) {
    fuzzer.close_all();
    for (std::size_t i = 0; i < kFunctions; ++i) {
      const Tally& its = fuzzer.tallies[i];
      for (Tally* to : {&sum[i], &all}) {
        to->succeeded += its.succeeded;
        to->refused += its.refused;
        to->driver_failed += its.driver_failed;
      }
    }
  }
  print(sum);
  const auxcore_standin_state now = standin.state();
  std::printf("seed %u, %u threads: %d calls succeeded, %d were refused, %d failed in the driver; %lld kernels ran\n", seed, thread_count,
      all.succeeded, all.refused, all.driver_failed, static_cast<long long>(now.launches));
  CHECK(all.succeeded > calls / 10 && all.refused > calls / 20 && all.driver_failed > 0);
  CHECK(now.launches > calls / 100 || !has_device_code());
  CHECK(now.retained_contexts == 0 && now.pushed_contexts == 0 && now.allocations == 0 && now.streams == 0 && now.modules == 0 &&
          now.events == 0,
      "%lld contexts, %lld allocations, %lld streams, %lld modules, %lld events are left", static_cast<long long>(now.retained_contexts),
      static_cast<long long>(now.allocations), static_cast<long long>(now.streams), static_cast<long long>(now.modules),
      static_cast<long long>(now.events));
  return result();
}
