// What standin.h offers tests.
#include "standin.h"

#include "standin_state.h"

#include <algorithm>
#include <cstring>

using standin::Driver;

namespace {

/// A range of device memory as the stand-in reaches it, or nullptr.
unsigned char* reach(Driver& driver, uint64_t address, int64_t bytes) {
  return bytes < 0 ? nullptr : driver.memory.reach(address, size_t(bytes));
}

}  // namespace

int32_t auxcore_standin(void) { return 1; }

int64_t auxcore_standin_calls(void) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  return driver.calls;
}

void auxcore_standin_fail(int64_t nth, int32_t error) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  driver.failing_call = nth == 0 ? 0 : driver.calls + nth;
  driver.failing_result = CUresult(error);
}

const char* auxcore_standin_failed(void) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  return driver.failed;
}

void auxcore_standin_get_state(auxcore_standin_state* state) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  int64_t retained = 0;
  for (int device = 0; device < standin::kDevices; ++device)
    retained += driver.primary(device).retained;
  *state = {int64_t(driver.memory.count()),
            int64_t(driver.memory.bytes()),
            retained,
            int64_t(standin::context_stack().size()),
            int64_t(driver.modules.size()),
            int64_t(driver.streams.size()),
            int64_t(driver.events.size()),
            int64_t(driver.graphs.size() + driver.executable_graphs.size()),
            driver.launches,
            driver.pending()};
}

int32_t auxcore_standin_peek(uint64_t address, void* destination, int64_t bytes) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  const unsigned char* source = reach(driver, address, bytes);
  if (source == nullptr)
    return 1;
  std::memcpy(destination, source, size_t(bytes));
  return 0;
}

int32_t auxcore_standin_poke(uint64_t address, const void* source, int64_t bytes) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  unsigned char* destination = reach(driver, address, bytes);
  if (destination == nullptr)
    return 1;
  std::memcpy(destination, source, size_t(bytes));
  return 0;
}

int64_t auxcore_standin_created_contexts(void) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  return driver.created_contexts();
}

int32_t auxcore_standin_last_recorded(auxcore_standin_launch* launch, void* parameters, uint32_t bytes) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  if (driver.recorded == nullptr)
    return 1;
  *launch = driver.recorded->launch;
  std::copy_n(driver.recorded->parameters.begin(), std::min(size_t(bytes), driver.recorded->parameters.size()),
              static_cast<unsigned char*>(parameters));
  return 0;
}
