// TokenMerge on CUDA, rows: the members of each slot in the order of their indices, then weighted means of them, or backwards shares of a
// gradient. Sums have one order, and the bits are the CPU's.
#include "token_merge.cuh"

#include "token_device.cuh"

namespace auxcore::token_merge {
namespace {

using namespace tokens;

/// The slot that a token goes into, or `kept` for none.
__device__ __forceinline__ int32_t slot_of(const Groups& groups, int32_t token) {
  const int32_t slot = groups.slots[token];
  return unsigned(slot) < unsigned(groups.kept) ? slot : groups.kept;
}

__device__ __forceinline__ float size_of_token(const Groups& groups, int32_t token) {
  return groups.sizes == nullptr ? 1.0f : product(groups.sizes[token], 1.0f);
}

/// The size of a slot, summed in the order of its members.
__device__ __forceinline__ float size_of_slot(const Groups& groups, int32_t from, int32_t to) {
  float size = 0;
  for (int32_t i = from; i < to; ++i)
    size += size_of_token(groups, groups.order[i]);
  return size;
}

template <class T>
__device__ AUXCORE_TOKEN_INLINE void merge_row(const Groups& groups, int32_t slot) {
  const int32_t from = groups.begins[slot], to = groups.begins[slot + 1];
  const float size = size_of_slot(groups, from, to);
  if (threadIdx.x == 0 && groups.merged_sizes != nullptr)
    groups.merged_sizes[slot] = size;
  const T* const source = static_cast<const T*>(groups.source);
  T* const row = static_cast<T*>(groups.destination) + int64_t{slot} * groups.width;
  for (int32_t k = int32_t(threadIdx.x); k < groups.width; k += kThreads) {
    if (to - from == 1) {
      row[k] = source[int64_t{groups.order[from]} * groups.width + k];  // bit for bit
      continue;
    }
    float sum = 0;
    for (int32_t i = from; i < to; ++i) {
      const int32_t token = groups.order[i];
      const float value = load(source + int64_t{token} * groups.width + k), weight = size_of_token(groups, token);
      sum = i == from ? product(weight, value) : fmaf(weight, value, sum);
    }
    store(row + k, from == to ? 0.0f : sum / size);
  }
}

template <class T>
__device__ AUXCORE_TOKEN_INLINE void spread_row(const Groups& groups, int32_t token) {
  const int32_t slot = slot_of(groups, token);
  T* const row = static_cast<T*>(groups.destination) + int64_t{token} * groups.width;
  if (slot == groups.kept) {
    for (int32_t k = int32_t(threadIdx.x); k < groups.width; k += kThreads)
      store(row + k, 0.0f);
    return;
  }
  const float share = size_of_token(groups, token) / size_of_slot(groups, groups.begins[slot], groups.begins[slot + 1]);
  const T* const source = static_cast<const T*>(groups.source) + int64_t{slot} * groups.width;
  for (int32_t k = int32_t(threadIdx.x); k < groups.width; k += kThreads)
    store(row + k, product(share, load(source + k)));
}

}  // namespace

/// A stable sort by counting: a token's place is the number of tokens of lesser slots, and of those of its own before it.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_merge_groups(Groups groups) {
  AUXCORE_SHARED(int32_t, slots, kThreads);
  const int64_t own = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int32_t slot = own < groups.tokens ? slot_of(groups, int32_t(own)) : 0;
  int32_t place = 0, begin = 0;
  for (int32_t from = 0; from < groups.tokens; from += kThreads) {
    const int32_t token = from + int32_t(threadIdx.x);
    __syncthreads();
    slots[threadIdx.x] = token < groups.tokens ? slot_of(groups, token) : 0;
    __syncthreads();
    const int32_t count = least(kThreads, groups.tokens - from);
    for (int32_t i = 0; i < count; ++i) {
      place += slots[i] < slot || (slots[i] == slot && from + i < own);
      begin += slots[i] < own;  // for the slot whose number is the thread's
    }
  }
  if (own < groups.tokens)
    groups.order[place] = int32_t(own);
  if (own <= groups.kept)
    groups.begins[own] = begin;
}
AUXCORE_KERNEL(auxcore_merge_groups)

/// A block a slot.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_merge_rows(Groups groups) {
  switch (groups.type) {
    case kFloat32:
      merge_row<float>(groups, int32_t(blockIdx.x));
      break;
    case kBFloat16:
      merge_row<bfloat16>(groups, int32_t(blockIdx.x));
      break;
    default:
      merge_row<float16>(groups, int32_t(blockIdx.x));
  }
}
AUXCORE_KERNEL(auxcore_merge_rows)

/// A block a token.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_merge_backward(Groups groups) {
  switch (groups.type) {
    case kFloat32:
      spread_row<float>(groups, int32_t(blockIdx.x));
      break;
    case kBFloat16:
      spread_row<bfloat16>(groups, int32_t(blockIdx.x));
      break;
    default:
      spread_row<float16>(groups, int32_t(blockIdx.x));
  }
}
AUXCORE_KERNEL(auxcore_merge_backward)

}  // namespace auxcore::token_merge
