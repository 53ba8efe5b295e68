// What the tests of functions that take structures share: driver calls that fail one after the other, and structures that are spoiled.
#pragma once

#include <functional>
#include <random>
#include <string>

#include "library.h"

namespace auxcore::test {

/// Each driver call of each function, made to fail once: the status is the driver's, and nothing leaks. calls_of(context) gives one good
/// call of each function.
template <class CallsOf>
void every_driver_call_may_fail(const Standin& standin, const CallsOf& calls_of) {
  for (const bool waits : {false, true}) {
    // Contexts of the same device: memory is that of both. The second loads the kernels anew.
    auxcore_context on = 0;
    OK(auxcore_open(AUXCORE_ABI_VERSION, 0, waits ? AUXCORE_OPEN_SYNCHRONOUS : 0, &on));
    int failed = 0;
    std::size_t which = 0;
    for (const std::function<auxcore_status()>& call : calls_of(on)) {
      OK(call());
      const auxcore_standin_state before = standin.state();
      const int64_t start = standin.calls();
      OK(call());
      const int64_t calls = standin.calls() - start;
      CHECK(calls > 3);
      for (int64_t nth = 1; nth <= calls; ++nth) {
        standin.fail(nth, 719);
        const auxcore_status status = call();
        standin.fail(0, 0);
        const std::string function = standin.failed();
        CHECK(status == 719 || function == "cuCtxPopCurrent_v2", "function %zu, call %lld, %s: %d", which, static_cast<long long>(nth),
            function.c_str(), status);
        failed += status == 719;
      }
      const auxcore_standin_state now = standin.state();
      CHECK(now.allocations == before.allocations && now.pushed_contexts == before.pushed_contexts && now.events == before.events);
      ++which;
    }
    std::printf("%d calls to the driver failed\n", failed);
    OK(auxcore_close(on));
  }
}

/// Writes garbage, or nearly the right thing, over some of a structure's bytes.
template <class Struct>
void spoil(Struct& value, std::mt19937_64& random) {
  auto* const bytes = reinterpret_cast<unsigned char*>(&value);
  for (auto changes = random() % 3; changes > 0; --changes) {
    const std::size_t field = random() % (sizeof value / 4) * 4;
    uint32_t word = 0;
    std::memcpy(&word, bytes + field, 4);
    switch (random() % 5) {
      case 0:
        word += static_cast<uint32_t>(random() % 9) - 4;
        break;
      case 1:
        word = static_cast<uint32_t>(random());
        break;
      case 2:
        word = 0;
        break;
      case 3:
        word ^= 1u << random() % 32;
        break;
      default:
        std::memcpy(&word, bytes + random() % (sizeof value / 4) * 4, 4);
    }
    std::memcpy(bytes + field, &word, 4);
  }
}

/// Spoils copies of structures and makes all of their calls, again and again: none may crash. Addresses stay the device's or are refused,
/// so kernels run on whatever memory the caller named; sizes are held by what that memory is.
template <class Structures>
void garbage_is_refused_or_computed_with(const Structures& good, unsigned seed, int rounds) {
  std::mt19937_64 random(seed);
  int succeeded = 0, refused = 0;
  for (int round = 0; round < rounds && failures < 20; ++round) {
    Structures spoiled = good;
    spoiled.spoil(random);
    for (const std::function<auxcore_status()>& call : spoiled.calls(context)) {
      const auxcore_status status = call();
      CHECK(status <= 0, "seed %u, round %d: %s", seed, round, auxcore_last_error());
      CHECK(status != AUXCORE_E_INTERNAL && status != AUXCORE_E_MEMORY, "%s", auxcore_last_error());
      ++(status == AUXCORE_OK ? succeeded : refused);
    }
    OK(auxcore_stream_synchronize(context, nullptr));
  }
  std::printf("seed %u: %d calls succeeded, %d were refused\n", seed, succeeded, refused);
  CHECK(succeeded > rounds && refused > rounds);
}

}  // namespace auxcore::test
