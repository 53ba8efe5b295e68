// On a machine without a driver the library loads, and says so. Skipped where a driver does load.
#include "library.h"

using namespace auxcore::test;

int main() {
  if (dlopen("libcuda.so.1", RTLD_NOW) != nullptr) {
    std::printf("skipped: this machine has a CUDA driver\n");
    return kSkipped;
  }
  int32_t count = -1;
  auxcore_context context = 5;
  REFUSED(AUXCORE_E_NO_DRIVER, "no CUDA driver: libcuda.so.1", auxcore_device_count(&count));
  REFUSED(AUXCORE_E_NO_DRIVER, "install NVIDIA's driver", auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &context));
  CHECK(count == -1 && context == 5);
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_close(context));
  return result();
}
