// Host memory that the driver knows: allocated by it, or registered with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace standin {

class HostMemory {
 public:
  struct Range {
    void* begin;
    size_t bytes;
    bool allocated;  ///< by the driver, else registered
  };

  HostMemory() = default;
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  /// nullptr where the host has no memory.
  void* allocate(size_t bytes);
  bool free(void* begin);

  bool add(void* begin, size_t bytes);
  bool remove(void* begin);

  /// The range that an address is in, or nullptr.
  const Range* find(const void* address) const;

 private:
  bool erase(void* begin, bool allocated);

  std::map<uintptr_t, Range> ranges_;
};

}  // namespace standin
