// Checks that the TD ops share: of numbers, and of the memory that a call reads and writes.
#pragma once

#include <array>

#include "../library/context.h"

namespace auxcore::td {

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

void check_struct_size(const char* name, uint32_t given, std::size_t expected);
void check_at_least_one(const char* name, int64_t value);
void check_discount(double discount);
void check_flag(const char* name, uint32_t value);

/// What a state counts each time that it is met, formed in double: 1, or 1 - discount.
inline float height_of(double discount, uint32_t normalised) { return static_cast<float>(normalised != 0 ? 1 - discount : 1.0); }

/// Adds the features or bits of a batch, and thresholds, to the memory of a call.
void add_sets(Memory& memory, auxcore_dtype type, uint64_t features, uint64_t thresholds, int64_t rows, int64_t tasks);

/// Device addresses as a kernel takes them.
template <class T>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

/// Blocks that cover so many elements. Counts beyond one launch are refused.
unsigned blocks_for(int64_t elements, int64_t per_block);

/// *mean = the mean of values: the kernel of indicator_td.cu.
void launch_mean(Context& context, CUstream stream, uint64_t values, int32_t count, uint64_t mean);

}  // namespace auxcore::td
