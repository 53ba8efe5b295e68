// Checks that the token-pruning ops share.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../library/arguments.h"
#include "token_types.cuh"

namespace auxcore::tokens {

constexpr int32_t kMostTokens = 1 << 30;  ///< so that places of a thread's tokens do not overflow

inline void check_tokens(const char* name, int64_t value) {
  if (value < 0 || value > kMostTokens)
    fail(AUXCORE_E_ARGUMENT, "%s is %lld, not within 0 and %d", name, static_cast<long long>(value), kMostTokens);
}

/// Refuses what is no budget.
inline void check_budget(const Budget& budget) {
  const double value = budget.value;
  switch (budget.rule) {
    case AUXCORE_BUDGET_COUNT:
      check_not_negative("count", budget.count);
      break;
    case AUXCORE_BUDGET_RATIO:
    case AUXCORE_BUDGET_TOP_P:
      if (!(value >= 0 && value <= 1))
        fail(AUXCORE_E_ARGUMENT, "value is %g; a ratio or a mass is within 0 and 1", value);
      break;
    case AUXCORE_BUDGET_THRESHOLD:
      if (std::isnan(value))
        fail(AUXCORE_E_ARGUMENT, "value is NaN; a threshold is a number");
      break;
    case AUXCORE_BUDGET_OUTLIERS:
      if (!(value >= 0 && std::isfinite(value)))
        fail(AUXCORE_E_ARGUMENT, "value is %g; a factor is finite and not negative", value);
      break;
    default:
      fail(AUXCORE_E_ARGUMENT, "rule is %d, which is no budget", budget.rule);
  }
  check_not_negative("minimum", budget.minimum);
  if (budget.maximum < budget.minimum)
    fail(AUXCORE_E_ARGUMENT, "maximum is %d, below the minimum %d", budget.maximum, budget.minimum);
}

/// Bytes of an element of a type, or a refusal.
inline int size_of_type(const char* name, auxcore_dtype type) {
  if (type != AUXCORE_FLOAT32 && type != AUXCORE_FLOAT16 && type != AUXCORE_BFLOAT16)
    fail(AUXCORE_E_ARGUMENT, "%s %d is not float32, bfloat16 or float16", name, type);
  return size_of(type);
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
    check_struct_size("batch", batch->struct_size, sizeof *batch);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    body(*opened, on);
  });
}

}  // namespace auxcore::tokens
