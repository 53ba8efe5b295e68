// Checks that the token-pruning ops share, beside those of successor_measure/td_arguments.h.
#pragma once

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
