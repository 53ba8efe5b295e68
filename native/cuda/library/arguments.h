// Checks of a call's arguments that all paths share: of numbers, and of the memory that a call reads and writes.
#pragma once

#include <array>

#include "context.h"

namespace auxcore {

/// The tensors of one call, each under the name that messages give it.
class Memory {
 public:
  explicit Memory(const Context& context) : context_(context) {}

  /// Refuses what is not device memory, or not aligned to its elements.
  void read(const char* name, uint64_t address, int64_t count, int element_bytes) { add(name, address, count, element_bytes, false); }
  void write(const char* name, uint64_t address, int64_t count, int element_bytes) { add(name, address, count, element_bytes, true); }

  /// The same for what may be left out: address 0.
  void write_if_wanted(const char* name, uint64_t address, int64_t count, int element_bytes) {
    if (address != 0)
      write(name, address, count, element_bytes);
  }

  /// Refuses what is written and shares a byte with anything else.
  void check_disjoint() const;

 private:
  struct Range {
    const char* name;
    uint64_t begin, end;
    bool is_written;
  };

  void add(const char* name, uint64_t address, int64_t count, int element_bytes, bool is_written);

  const Context& context_;
  std::array<Range, 24> ranges_;
  std::size_t size_ = 0;
};

constexpr int64_t kAlignment = 256;  ///< bytes, of a workspace and of its parts

inline int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Lays a workspace out, each part aligned.
class WorkspaceLayout {
 public:
  /// The offset of a part; throws where the whole exceeds 64 bits.
  int64_t add(int64_t count, int64_t element_bytes);
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

/// Refuses a workspace that is too small, not aligned, or no memory, and adds it to what is written. Of 0 bytes it may be anything.
void add_workspace(Memory& memory, uint64_t address, int64_t given, int64_t needed);

void check_struct_size(const char* name, uint32_t given, std::size_t expected);
void check_at_least_one(const char* name, int64_t value);
void check_not_negative(const char* name, int64_t value);
void check_flag(const char* name, uint32_t value);

/// A weight, an offset: finite and at least 0.
void check_finite_not_negative(const char* name, double value);

/// Device addresses as a kernel takes them.
template <class T>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

/// Blocks that cover so many elements. Counts beyond one launch are refused.
unsigned blocks_for(int64_t elements, int64_t per_block);

}  // namespace auxcore
