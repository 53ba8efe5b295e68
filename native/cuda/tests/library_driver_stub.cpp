// A driver with every function that the library asks for and no sense in any of them. AUXCORE_STUB_INIT is what cuInit gives, the first
// AUXCORE_STUB_FAILURES times.
#include "../library/driver.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"

using namespace auxcore;

#define AUXCORE_STUB(name, parameters) \
  extern "C" __attribute__((visibility("default"))) CUresult name parameters { return result_of(#name); }

namespace {

CUresult result_of(const char* name) {
  static int starts = 0;
  const bool is_init = name[2] == 'I';  // cuInit
  return is_init && starts++ < AUXCORE_STUB_FAILURES ? AUXCORE_STUB_INIT : kCudaSuccess;
}

}  // namespace

AUXCORE_DRIVER_FUNCTIONS(AUXCORE_STUB)
