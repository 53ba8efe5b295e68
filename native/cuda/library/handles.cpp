#include "handles.h"

#include <mutex>
#include <unordered_map>

namespace auxcore::handles {
namespace {

// Never destroyed: calls may still arrive from other threads while the process ends.
struct Registry {
  std::mutex mutex;
  std::unordered_map<uint64_t, std::shared_ptr<Object>> objects;
  uint64_t next = 1;
};

Registry& registry() {
  static Registry& instance = *new Registry;
  return instance;
}

}  // namespace

uint64_t add(std::shared_ptr<Object> object) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const uint64_t handle = all.next;
  all.objects.emplace(handle, std::move(object));
  ++all.next;
  return handle;
}

std::shared_ptr<Object> find(uint64_t handle) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.objects.find(handle);
  return found == all.objects.end() ? nullptr : found->second;
}

void remove(uint64_t handle) noexcept {
  Registry& all = registry();
  std::shared_ptr<Object> last;  // destroyed after the lock is released
  const std::lock_guard lock(all.mutex);
  if (const auto found = all.objects.find(handle); found != all.objects.end()) {
    last = std::move(found->second);
    all.objects.erase(found);
  }
}

void remove_all(const Context& owner) noexcept {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  for (auto at = all.objects.begin(); at != all.objects.end();)
    at = &at->second->owner() == &owner ? all.objects.erase(at) : std::next(at);
}

}  // namespace auxcore::handles
