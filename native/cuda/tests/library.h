// What the tests of libauxcore share. They run against whatever libcuda.so.1 is found first: the stand-in's folder is put before all others
// by ctest, except for the tests labelled "device", which take the machine's own driver and are skipped where there is none.
#pragma once

#include <dlfcn.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "../simulator/standin.h"
#include "auxcore.h"
#include "check.h"

namespace auxcore::test {

constexpr int kSkipped = 77;  // ctest's SKIP_RETURN_CODE

#define OK(call)                                                                                  \
  do {                                                                                            \
    const auxcore_status status_ = (call);                                                        \
    CHECK(status_ == AUXCORE_OK, "it gave %d: %s", status_, auxcore_last_error());                 \
  } while (false)

/// A call that must fail with a status, and with a message that has a text in it.
#define REFUSED(status, text, call)                                                               \
  do {                                                                                            \
    const auxcore_status status_ = (call);                                                        \
    CHECK(status_ == (status), "it gave %d: %s", status_, auxcore_last_error());                   \
    CHECK(std::strstr(auxcore_last_error(), text) != nullptr, "no \"%s\" in: %s", text, auxcore_last_error()); \
  } while (false)

/// The stand-in's functions; the tests that need them do not run without it.
struct Standin {
  decltype(&auxcore_standin_calls) calls;
  decltype(&auxcore_standin_fail) fail;
  decltype(&auxcore_standin_failed) failed;
  decltype(&auxcore_standin_get_state) get_state;
  decltype(&auxcore_standin_peek) peek;

  Standin() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == nullptr || dlsym(library, "auxcore_standin") == nullptr) {
      std::fprintf(stderr, "the stand-in driver is not the libcuda.so.1 that is found first\n");
      std::exit(EXIT_FAILURE);
    }
    find(library, calls, "auxcore_standin_calls");
    find(library, fail, "auxcore_standin_fail");
    find(library, failed, "auxcore_standin_failed");
    find(library, get_state, "auxcore_standin_get_state");
    find(library, peek, "auxcore_standin_peek");
  }

  auxcore_standin_state state() const {
    auxcore_standin_state now;
    get_state(&now);
    return now;
  }

 private:
  template <class Function>
  static void find(void* library, Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library, name));
  }
};

/// Tensors of one EmaUpdate, as the C ABI takes them.
struct Group {
  std::vector<uint64_t> addresses;
  std::vector<int64_t> counts;
  std::vector<auxcore_dtype> types;

  auxcore_ema_tensors tensors() const {
    return {sizeof(auxcore_ema_tensors), 0, static_cast<int64_t>(counts.size()), addresses.data(), counts.data(), types.data()};
  }
};

/// The context that a test program works in.
inline auxcore_context context = 0;

inline uint64_t device_copy(const std::vector<float>& values) {
  uint64_t address = 0;
  OK(auxcore_allocate(context, static_cast<int64_t>(values.size() * sizeof(float)), &address));
  OK(auxcore_copy_to_device(context, nullptr, address, values.data(), static_cast<int64_t>(values.size() * sizeof(float))));
  return address;
}

inline std::vector<float> host_copy(uint64_t address, std::size_t count, void* stream = nullptr) {
  std::vector<float> values(count);
  OK(auxcore_copy_to_host(context, stream, values.data(), address, static_cast<int64_t>(count * sizeof(float))));
  return values;
}

inline std::vector<float> pattern(std::size_t count, int seed) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>((static_cast<int>(i) * 7919 + seed) % 257 - 128) / 16.0f;
  return values;
}

/// Opens the context of the first device, or ends the program: as skipped where there is no driver or no device.
inline void open_or_skip() {
  int32_t devices = 0;
  const auxcore_status status = auxcore_device_count(&devices);
  if (status == AUXCORE_E_NO_DRIVER || (status == AUXCORE_OK && devices == 0)) {
    std::printf("skipped: %s\n", status == AUXCORE_OK ? "the driver finds no device" : auxcore_last_error());
    std::exit(kSkipped);
  }
  OK(auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &context));
  if (failures > 0)
    std::exit(result());
}

/// Ends the program as skipped where the library has no device code.
inline void skip_without_device_code() {
  if (std::strcmp(auxcore_device_image(), "none") != 0)
    return;
  std::printf("skipped: the library was built without device code\n");
  std::exit(kSkipped);
}

/// The textbook formula in double, with the float32 weight that the documentation promises.
inline double average_of(double e, double p, double decay) {
  const double weight = static_cast<float>(1.0 - decay);
  return weight < 0.5 ? (1 - weight) * e + weight * p : static_cast<float>(decay) * e + (1 - static_cast<float>(decay)) * p;
}

}  // namespace auxcore::test
