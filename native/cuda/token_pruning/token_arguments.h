// Checks that the token-pruning ops share, beside those of successor_measure/td_arguments.h.
#pragma once

#include <algorithm>
#include <vector>

#include "../successor_measure/td_arguments.h"
#include "token_types.cuh"

namespace auxcore::tokens {

constexpr int64_t kAlignment = 256;
constexpr int32_t kMostTokens = 1 << 30;  ///< so that places of a thread's tokens do not overflow

inline int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

inline void check_not_negative(const char* name, int64_t value) {
  if (value < 0)
    fail(AUXCORE_E_ARGUMENT, "%s is %lld; it must not be negative", name, static_cast<long long>(value));
}

inline void check_tokens(const char* name, int64_t value) {
  if (value < 0 || value > kMostTokens)
    fail(AUXCORE_E_ARGUMENT, "%s is %lld, not within 0 and %d", name, static_cast<long long>(value), kMostTokens);
}

/// Bytes of an element of a type, or a refusal.
inline int size_of_type(const char* name, auxcore_dtype type) {
  if (type != AUXCORE_FLOAT32 && type != AUXCORE_FLOAT16 && type != AUXCORE_BFLOAT16)
    fail(AUXCORE_E_ARGUMENT, "%s %d is not float32, bfloat16 or float16", name, type);
  return size_of(type);
}

/// Adds a workspace of so many bytes to the memory of a call; none where none is needed.
inline void add_workspace(td::Memory& memory, uint64_t workspace, int64_t given, int64_t needed) {
  if (needed == 0)
    return;
  if (given < needed)
    fail(AUXCORE_E_ARGUMENT, "workspace: %lld bytes, %lld are needed", static_cast<long long>(given), static_cast<long long>(needed));
  if (workspace % kAlignment != 0)
    fail(AUXCORE_E_ARGUMENT, "workspace: 0x%llx is not aligned to 256 bytes", static_cast<unsigned long long>(workspace));
  memory.write("workspace", workspace, needed, 1);
}

/// The memory of any number of tensors of a call, named by their places in a list.
class Ranges {
 public:
  explicit Ranges(const Context& context) : context_(context) {}

  /// Memory that was checked already, and is only read.
  void add_checked(uint64_t address, int64_t bytes) {
    if (bytes > 0)
      ranges_.push_back({address, address + static_cast<uint64_t>(bytes), -1, false});
  }

  /// Refuses what is not device memory.
  void add(const char* list, int64_t number, const char* member, uint64_t address, int64_t bytes, bool is_written) {
    if (bytes == 0)
      return;
    char name[64];
    std::snprintf(name, sizeof name, "%s[%lld]%s", list, static_cast<long long>(number), member);
    context_.check_device_memory(name, address, static_cast<std::size_t>(bytes));
    ranges_.push_back({address, address + static_cast<uint64_t>(bytes), number, is_written});
  }

  /// What is written shares no byte with anything else: one sweep over the sorted ranges.
  void check_disjoint(const char* list) {
    std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    const Range *furthest = nullptr, *written = nullptr;
    for (const Range& range : ranges_) {
      const Range* const other = range.is_written ? furthest : written;
      if (other != nullptr && other->end > range.begin)
        fail(AUXCORE_E_ARGUMENT, "%s[%lld] overlaps %s[%lld]; -1 is what all of them are read with", list,
            static_cast<long long>(std::max(range.number, other->number)), list,
            static_cast<long long>(std::min(range.number, other->number)));
      if (furthest == nullptr || range.end > furthest->end)
        furthest = &range;
      if (range.is_written)
        written = &range;
    }
  }

 private:
  struct Range {
    uint64_t begin, end;
    int64_t number;
    bool is_written;
  };

  const Context& context_;
  std::vector<Range> ranges_;
};

/// The common part of the functions that take one structure: the context is open and current in body, the stream is one of it.
template <class Batch, class Body>
auxcore_status with_batch(const char* function, auxcore_context context, void* stream, const Batch* batch, Body&& body) noexcept {
  return guarded(function, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (batch == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch is NULL");
    td::check_struct_size("batch", batch->struct_size, sizeof *batch);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    body(*opened, on);
  });
}

}  // namespace auxcore::tokens
