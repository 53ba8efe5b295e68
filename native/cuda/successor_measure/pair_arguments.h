// What the host code of the losses over pairs shares.
#pragma once

#include "td_arguments.h"

namespace auxcore::pairs {

/// Lays a workspace out, each part on a boundary of 256 bytes.
class Layout {
 public:
  static constexpr int64_t kAlignment = 256;

  /// The offset of a part; throws where the whole exceeds 64 bits.
  int64_t add(int64_t count, int64_t element_bytes);
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

void check_type(auxcore_dtype type);
void check_count(int32_t count);
void check_dimension(int32_t dimension);

/// A weight, an offset: finite and at least 0.
void check_not_negative(const char* name, double value);

/// Refuses a workspace that is too small, not aligned, or no memory, and adds it to what is written.
void add_workspace(td::Memory& memory, uint64_t address, int64_t given, int64_t needed);

}  // namespace auxcore::pairs
