// Drivers that are of no use: the library loads, says what is wrong, and changes no output. The argument says which one library.cmake put
// in the driver's place.
#include <string>

#include "library.h"

using namespace auxcore::test;

namespace {

int32_t count = -1;
auxcore_context opened = 5;

void everything_is_refused(auxcore_status status, const char* text) {
  REFUSED(status, text, auxcore_device_count(&count));
  REFUSED(status, text, auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &opened));
  CHECK(count == -1 && opened == 5);
}

// What needs no driver is checked without one.
void arguments_come_first() {
  REFUSED(AUXCORE_E_ABI, "the caller was built for ABI version 2", auxcore_open(AUXCORE_ABI_VERSION + 1, 0, 0, &opened));
  REFUSED(AUXCORE_E_ARGUMENT, "flags 0x80", auxcore_open(AUXCORE_ABI_VERSION, 0, 0x80, &opened));
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_close(opened));
  CHECK(opened == 5 && auxcore_abi_version() == AUXCORE_ABI_VERSION);
}

void missing() {
  if (dlopen("libcuda.so.1", RTLD_NOW) != nullptr) {
    std::printf("skipped: this machine has a CUDA driver\n");
    std::exit(kSkipped);
  }
  everything_is_refused(AUXCORE_E_NO_DRIVER, "no CUDA driver: libcuda.so.1");
  everything_is_refused(AUXCORE_E_NO_DRIVER, "install NVIDIA's driver");
}

// What the loader says is in the message.
void broken() { everything_is_refused(AUXCORE_E_NO_DRIVER, "libcuda.so.1: "); }

void lacks(const std::string& function) {
  const std::string text = "too old: libcuda.so.1 has no " + function + ";";
  everything_is_refused(AUXCORE_E_NO_DRIVER, text.c_str());
}

// A failure is not remembered.
void starts_at_the_third_call() {
  everything_is_refused(803, "cuInit: the CUDA driver does not start (error 803)");
  OK(auxcore_device_count(&count));
  CHECK(count == 0);
}

void finds_no_device() {
  OK(auxcore_device_count(&count));
  CHECK(count == 0);
  REFUSED(AUXCORE_E_NO_DEVICE, "the CUDA driver finds no device", auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &opened));
  CHECK(opened == 5);
}

}  // namespace

int main(int argument_count, char** arguments) {
  const std::string driver = argument_count > 1 ? arguments[1] : "";
  arguments_come_first();
  if (driver == "missing")
    missing();
  else if (driver == "broken")
    broken();
  else if (driver == "lacks" && argument_count > 2)
    lacks(arguments[2]);
  else if (driver == "starts_late")
    starts_at_the_third_call();
  else if (driver == "no_device")
    finds_no_device();
  else
    CHECK(false, "unknown driver: %s", driver.c_str());
  return result();
}
