#include "status.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace auxcore {
namespace {

thread_local char last_error[1280] = "";

}  // namespace

Failure::Failure(auxcore_status status, const char* message) noexcept : status_(status) {
  std::snprintf(message_, sizeof message_, "%s", message);
}

void fail(auxcore_status status, const char* format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw Failure(status, message);
}

auxcore_status report(auxcore_status status, const char* function, const char* message) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s: %s", function, message);
  return status;
}

}  // namespace auxcore

extern "C" const char* auxcore_last_error(void) { return auxcore::last_error; }
