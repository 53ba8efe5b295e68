// KvEvict on CUDA. What is kept is defined in src/Kernels/KvApproximation/KvEvict.cs; the ranking is TokenSelect's (token_rank.cuh).
//
// A block a head smooths scores and ranks. Where heads share a budget, what a head keeps by itself is then kept always, and a block a
// sequence ranks its heads' positions, which lie side by side, as one segment. Last, rows move in place, in their order: a block has 32
// bytes of each row of a head's keys or values.
#include "kv_evict.cuh"

#include "../token_pruning/token_rank.cuh"
#include "../token_pruning/token_rows.cuh"
#include "kv_cache.cuh"

namespace auxcore::kv_evict {
namespace {

using namespace tokens;

/// Filled positions of a head, held within what there is room for.
__device__ __forceinline__ int32_t length_of(const Arguments& arguments, int32_t sequence, int32_t kv_head) {
  const kv::HeadTable table(arguments.cache, sequence, kv_head);
  int32_t room = least(table.capacity, arguments.score_positions);
  if (arguments.numbers != nullptr)
    room = least(room, arguments.number_positions);
  return most(0, least(arguments.lengths[int64_t{sequence} * arguments.cache.kv_heads + kv_head], room));
}

/// What a head is cut by before heads share: what it keeps, or what it keeps whatever the others have.
__device__ __forceinline__ Budget budget_of(const Arguments& arguments, int64_t head) {
  Budget budget = arguments.heads_share != 0 ? arguments.own : arguments.budget;
  if (arguments.counts != nullptr) {
    const int32_t count = arguments.counts[head];
    budget.count = arguments.heads_share != 0 ? int32_t(__dmul_rn(arguments.head_floor, double(count))) : count;
  }
  return budget;
}

/// Where a sequence's part of the workspace begins.
__device__ __forceinline__ int64_t part_of(const Arguments& arguments, int32_t sequence) {
  return int64_t{sequence} * arguments.cache.kv_heads * arguments.score_positions;
}

/// The mean around a position: summed in double in the order of positions, with zeros around those from 0 to end.
__device__ __forceinline__ float mean_at(const Arguments& arguments, const AUXCORE_GLOBAL float* scores, int32_t position, int32_t end) {
  const int32_t half = arguments.pool_width / 2;
  if (half == 0 || position >= end)
    return scores[position];
  const int32_t from = position < half ? 0 : position - half, to = end - position <= half ? end : position + half + 1;
  double sum = 0;
  for (int32_t i = from; i < to; ++i)
    sum = __dadd_rn(sum, double(scores[i]));
  return float(sum / double(arguments.pool_width));
}

__device__ __forceinline__ void smooth(const Arguments& arguments, int64_t head, int32_t length, float* means, uint8_t* always) {
  const AUXCORE_GLOBAL float* const scores =
      global<const float>(reinterpret_cast<uint64_t>(arguments.scores)) + head * arguments.score_positions;
  const int32_t end = most(0, length - arguments.recent);  // the mean does not reach into what is recent
  for (int32_t i = int32_t(threadIdx.x); i < length; i += kRankThreads) {
    means[i] = mean_at(arguments, scores, i, end);
    always[i] = i < arguments.sinks || i >= end ? 1 : 0;
  }
  __syncthreads();
}

/// The first of ascending indices that is not below a number; their count where all are.
__device__ __forceinline__ int32_t lower_bound(const int32_t* indices, int32_t count, int32_t number) {
  int32_t low = 0;
  for (int32_t high = count; low < high;) {
    const int32_t middle = low + (high - low) / 2;
    if (indices[middle] < number)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// Moves the columns of one part of the kept rows of a head.
template <class Vector>
__device__ __forceinline__ void move(const Arguments& arguments, const kv::Plane& plane, int64_t head, int32_t part) {
  const int32_t sequence = int32_t(head / arguments.cache.kv_heads), kv_head = int32_t(head % arguments.cache.kv_heads);
  const kv::HeadTable table(arguments.cache, sequence, kv_head);
  const Head kept = arguments.heads[head];
  const int32_t* const indices = arguments.indices + part_of(arguments, sequence) + kept.first;
  constexpr int32_t kLanes = kColumn / Vector::kSize;
  const int32_t at = part * kColumn + int32_t(threadIdx.x) % kLanes * Vector::kSize;
  move_rows<kMoveThreads, kTogether, Vector>(
      kept.count, kLanes, at < plane.row_bytes,
      [&](int32_t row) {
        int32_t within_it;
        const int32_t outer = table.outer_of(arguments.cache, plane, indices[row] - kept.begin, within_it);
        return table.row(plane, outer < 0 ? 0 : outer, within_it) + unsigned(at);
      },
      [&](int32_t row) {
        int32_t within_it;
        const int32_t outer = table.outer_of(arguments.cache, plane, row, within_it);
        return outer < 0 ? 0 : table.row(plane, outer, within_it) + unsigned(at);
      });
}

__device__ __forceinline__ void move(const Arguments& arguments, const kv::Plane& plane, int32_t bytes, int64_t head, int32_t part) {
  switch (bytes) {
    case 16:
      return move<Bytes16>(arguments, plane, head, part);
    case 8:
      return move<Bytes8>(arguments, plane, head, part);
    case 4:
      return move<Bytes<uint32_t>>(arguments, plane, head, part);
    default:
      return move<Bytes<uint16_t>>(arguments, plane, head, part);
  }
}

__device__ __forceinline__ void move_numbers(const Arguments& arguments, int64_t head) {
  const Head kept = arguments.heads[head];
  const int32_t* const indices =
      arguments.indices + part_of(arguments, int32_t(head / arguments.cache.kv_heads)) + kept.first;
  const uint64_t numbers = reinterpret_cast<uint64_t>(arguments.numbers + head * arguments.number_positions);
  move_rows<kMoveThreads, kTogether, Bytes<uint32_t>>(
      kept.count, 1, true, [&](int32_t row) { return numbers + uint64_t(indices[row] - kept.begin) * 4; },
      [&](int32_t row) { return numbers + uint64_t(row) * 4; });
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kRankThreads) auxcore_kv_evict_rank(Arguments arguments) {
  AUXCORE_RANK_SPACE(space);
  const int32_t sequence = int32_t(blockIdx.x) / arguments.cache.kv_heads, kv_head = int32_t(blockIdx.x) % arguments.cache.kv_heads;
  unsigned before = 0;
  for (int32_t other = int32_t(threadIdx.x); other < kv_head; other += kRankThreads)
    before += unsigned(length_of(arguments, sequence, other));
  const int32_t begin = int32_t(block_sum<kRankThreads>(before, space.words)), length = length_of(arguments, sequence, kv_head);
  const int64_t part = part_of(arguments, sequence) + begin;
  uint8_t* const always = arguments.always + part;
  smooth(arguments, blockIdx.x, length, arguments.means + part, always);
  const Scores scores = {arguments.means + part, always, kFloat32, length};
  const Cut cut = cut_of(scores, budget_of(arguments, blockIdx.x), nullptr, space);
  int32_t* const indices = arguments.indices + part;
  emit_kept(scores, cut, space, [&](int32_t i, int32_t place) {
    if (place >= 0 && arguments.heads_share != 0)
      always[i] = 1;
    else if (place >= 0)
      indices[place] = begin + i;
  });
  if (threadIdx.x == 0)
    arguments.heads[blockIdx.x] = {begin, length, begin, cut.count};
}
AUXCORE_KERNEL(auxcore_kv_evict_rank)

/// The heads of a sequence share the sum of their budgets.
extern "C" __global__ void __launch_bounds__(kRankThreads) auxcore_kv_evict_share(Arguments arguments) {
  AUXCORE_RANK_SPACE(space);
  const int32_t kv_heads = arguments.cache.kv_heads;
  Head* const heads = arguments.heads + int64_t{blockIdx.x} * kv_heads;
  uint64_t own = 0;  // counts may be far beyond what there is
  for (int32_t head = int32_t(threadIdx.x); head < kv_heads; head += kRankThreads) {
    const int32_t length = heads[head].length, others = most(0, length - arguments.recent);
    const int32_t always = length - others + least(arguments.sinks, others);
    own += uint64_t(
        arguments.counts != nullptr ? most(always, arguments.counts[int64_t{blockIdx.x} * kv_heads + head])
                                    : limited(arguments.budget, least(most_of(arguments.budget, length), length), length, always));
  }
  const uint64_t total = block_sum<kRankThreads>(own, space.sums);
  const int64_t part = part_of(arguments, int32_t(blockIdx.x));
  const int32_t length = heads[kv_heads - 1].begin + heads[kv_heads - 1].length;
  const Scores scores = {arguments.means + part, arguments.always + part, kFloat32, length};
  const int32_t count = total < uint64_t(length) ? int32_t(total) : length;
  const Cut cut = cut_of(scores, Budget{0, kCount, count, 0, 0x7fffffff}, nullptr, space);
  int32_t* const indices = arguments.indices + part;
  emit_kept(scores, cut, space, [&](int32_t i, int32_t place) {
    if (place >= 0)
      indices[place] = i;
  });
  __syncthreads();
  for (int32_t head = int32_t(threadIdx.x); head < kv_heads; head += kRankThreads) {
    const int32_t begin = heads[head].begin, first = lower_bound(indices, cut.count, begin);
    heads[head].first = first;
    heads[head].count = lower_bound(indices, cut.count, begin + heads[head].length) - first;
  }
}
AUXCORE_KERNEL(auxcore_kv_evict_share)

extern "C" __global__ void __launch_bounds__(kMoveThreads) auxcore_kv_evict_move(Arguments arguments) {
  const int32_t of_keys = columns_of(arguments.cache.keys), of_values = columns_of(arguments.cache.values);
  const int32_t parts = of_keys + of_values + 1;
  const int64_t head = blockIdx.x / unsigned(parts);
  const int32_t part = int32_t(blockIdx.x % unsigned(parts));
  if (part < of_keys)
    return move(arguments, arguments.cache.keys, arguments.key_bytes, head, part);
  if (part < of_keys + of_values)
    return move(arguments, arguments.cache.values, arguments.value_bytes, head, part - of_keys);
  if (arguments.numbers != nullptr)
    move_numbers(arguments, head);
  if (threadIdx.x == 0)
    arguments.lengths[head] = arguments.heads[head].count;
}
AUXCORE_KERNEL(auxcore_kv_evict_move)

}  // namespace auxcore::kv_evict
