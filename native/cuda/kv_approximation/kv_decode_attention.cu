// KvDecodeAttention on CUDA. The formula is in src/Kernels/KvApproximation/KvDecodeAttention.cs.
//
// A block has the query heads that share one head of the cache, and one split of its positions, so that a key or value crosses the memory
// bus once. Its warps take tiles of positions in turn, each for itself: rows travel into the warp's own shared memory as they are stored,
// while it works on the tile before, and no barrier of the block is in that loop. Eight elements of a row are a lane's, in scores as in
// sums, and become float32 in registers, once for all heads. Maxima and sums are carried along (online softmax); what the warps found, and
// then the splits, merges in its order. So the same call gives the same bits.
#include "kv_decode_tile.cuh"

namespace auxcore::kv_decode_attention {
namespace {

using namespace kv;

/// 2^(maximum - greatest), and 0 for what has no maximum: -∞ less -∞ would be NaN.
__device__ __forceinline__ float share_of(float maximum, float greatest) {
  return maximum == minus_infinity() ? 0.0f : exp2_approximate(maximum - greatest);
}

/// How many positions of a head are filled.
__device__ __forceinline__ int32_t length_of(const Arguments& arguments, const HeadTable& table) {
  const int64_t at =
      arguments.lengths_are_of_heads ? int64_t{table.sequence} * arguments.cache.kv_heads + table.kv_head : table.sequence;
  const int32_t length = HeadTable::within(arguments.lengths[at], 0, table.capacity);
  return arguments.scores != nullptr && length > arguments.sum_positions ? arguments.sum_positions : length;
}

/// The positions of a split: as many for each, in whole warps.
struct Range {
  int32_t first, count;

  __device__ __forceinline__ Range(int32_t length, int32_t splits, int32_t split) {
    const int64_t each = per_split(length, splits), begin = split * each;
    first = begin < length ? int32_t(begin) : length;
    count = length - first < each ? length - first : int32_t(each);
  }

  /// The splits that have positions.
  static __device__ __forceinline__ int32_t used(int32_t length, int32_t splits) {
    return length == 0 ? 0 : int32_t((length - 1) / per_split(length, splits)) + 1;
  }

  static __device__ __forceinline__ int64_t per_split(int32_t length, int32_t splits) {
    return ((int64_t{length} + splits - 1) / splits + kWarp - 1) / kWarp * kWarp;
  }
};

/// Positions of a split that a warp works on at a time.
struct Tile {
  int32_t from;  ///< after the split's first
  int32_t count;
  bool is_latest;  ///< rows of KIVI-4 are read in float32
};

/// The tiles of a split, which its warps take in turn: of all that whole blocks before the ring have, then of the rest.
struct Tiles {
  const Layout& layout;
  int32_t whole, whole_tiles, end, count;

  __device__ __forceinline__ Tiles(const Layout& layout_, const Range& range, int32_t stored)
      : layout(layout_), whole(range.count), end(range.count) {
    if (layout.latest_tile != 0)
      whole = HeadTable::within(stored / kGroup * kGroup - range.first, 0, range.count);
    whole_tiles = (whole + layout.tile - 1) / layout.tile;
    count = whole_tiles + (whole == end ? 0 : (end - whole - 1) / layout.latest_tile + 1);
  }

  __device__ __forceinline__ Tile operator[](int32_t which) const {
    const bool is_latest = which >= whole_tiles;
    const int32_t from = is_latest ? whole + (which - whole_tiles) * layout.latest_tile : which * layout.tile;
    const int32_t left = (is_latest ? end : whole) - from, most = is_latest ? layout.latest_tile : layout.tile;
    return {from, left < most ? left : most, is_latest};
  }
};

#define AUXCORE_KV_BY_FORMAT(format, call)  \
  switch (format) {                         \
    case kF32:                              \
      call(kF32);                           \
      break;                                \
    case kF16:                              \
      call(kF16);                           \
      break;                                \
    case kBF16:                             \
      call(kBF16);                          \
      break;                                \
    case kE4M3:                             \
      call(kE4M3);                          \
      break;                                \
    case kQ8:                               \
      call(kQ8);                            \
      break;                                \
    default:                                \
      call(kQ4);                            \
      break;                                \
  }

/// A head's result, of all its positions.
__device__ __forceinline__ void finish(const Arguments& arguments, int64_t row, int column, float greatest, float total, float value) {
  arguments.output[row * arguments.cache.head_dim + column] = value / total;
  if (arguments.totals != nullptr && column == 0) {
    arguments.totals[2 * row] = greatest;
    arguments.totals[2 * row + 1] = total;
  }
}

/// What the warps of a block found, in their order: a split's result, or the output where there is one split.
__device__ __forceinline__ void merge_warps(
    const Arguments& arguments, const float* found, int heads_of_layout, int64_t first_row, int heads, int32_t split, float value_scale) {
  const int d = arguments.cache.head_dim, pitch = d + 2;
  for (int i = int(threadIdx.x); i < heads * d; i += kThreads) {
    const int head = i / d, column = i % d;
    float greatest = minus_infinity(), total = 0, value = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp)
      greatest = fmaxf(greatest, found[(warp * heads_of_layout + head) * pitch]);
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      const float* const of = found + (warp * heads_of_layout + head) * pitch;
      const float share = share_of(of[0], greatest);
      total = fmaf(share, of[1], total);
      value = fmaf(share, of[2 + column], value);
    }
    value *= value_scale;
    const int64_t row = first_row + head, part = row * arguments.splits + split;
    if (arguments.splits == 1) {
      finish(arguments, row, column, greatest, total, value);
      continue;
    }
    arguments.partials[part * d + column] = value;
    if (column == 0) {
      arguments.maxima[part] = greatest;
      arguments.sums[part] = total;
    }
  }
}

template <int kHeads>
__device__ __forceinline__ void attend(const Arguments& arguments) {
  AUXCORE_DYNAMIC_SHARED(unsigned char, memory);
  const Cache& cache = arguments.cache;
  const Layout layout(cache, kHeads);
  const Place place(arguments);
  const int d = cache.head_dim, warp = int(threadIdx.x) / kWarp;
  // Splits of a head are neighbours.
  const int32_t split = int32_t(blockIdx.x % unsigned(arguments.splits));
  const int32_t unit = int32_t(blockIdx.x / unsigned(arguments.splits));
  const int32_t head_block = unit % arguments.head_blocks, stored_head = unit / arguments.head_blocks;
  const HeadTable table(cache, stored_head / cache.kv_heads, stored_head % cache.kv_heads);
  const int32_t per_group = arguments.query_heads / cache.kv_heads, first_head = head_block * arguments.heads;
  const int heads = per_group - first_head < arguments.heads ? per_group - first_head : arguments.heads;
  const int64_t first_row = int64_t{table.sequence} * arguments.query_heads + table.kv_head * per_group + first_head;

  const int32_t length = length_of(arguments, table);
  const Range range(length, arguments.splits, split);
  if (range.count == 0) {
    if (arguments.splits == 1)
      for (int i = int(threadIdx.x); i < heads * d; i += kThreads)
        arguments.output[first_row * d + i] = 0;
    return;
  }

  const HeadRows keys = {cache, cache.keys, table}, values = {cache, cache.values, table};
  unsigned char* const own = memory + warp * layout.warp_bytes(kHeads);
  float* const scores = reinterpret_cast<float*>(own + kStages * (layout.key_slot + layout.value_slot));
  AUXCORE_GLOBAL float* const kept = arguments.scores == nullptr
      ? nullptr : global<float>(reinterpret_cast<uint64_t>(arguments.scores)) + first_row * arguments.sum_positions + range.first;
  const bool has_blocks = cache.keys.format == kKivi, has_rows = cache.values.format == kKivi;  // of KIVI-4
  const int32_t stored_keys = stored_of(cache.keys, true, length), stored_values = stored_of(cache.values, false, length);
  const Tiles tiles(layout, range, stored_keys < stored_values ? stored_keys : stored_values);

  int key_phase = 0, value_phase = 0, next_key_phase = 0, next_value_phase = 0;
  const auto fetch = [&](int32_t which, int stage) {
    if (which < tiles.count) {
      const Tile tile = tiles[which];
      const int32_t position = range.first + tile.from;
      unsigned char* const key_slot = own + stage * (layout.key_slot + layout.value_slot);
      unsigned char* const value_slot = key_slot + layout.key_slot;
      if (!has_blocks)
        next_key_phase = keys.copy(key_slot, position, tile.count, place.lane);
      else if (tile.is_latest)
        keys.copy_latest(key_slot, position, tile.count, stored_keys, true, place.lane);
      next_value_phase = 0;
      if (has_rows && tile.is_latest)
        values.copy_latest(value_slot, position, tile.count, stored_values, false, place.lane);
      else
        next_value_phase = values.copy(value_slot, position, tile.count, place.lane);
    }
    copy_async_commit();
  };
  fetch(warp, 0);

  float query[kHeads][kVector];
  const double factor = arguments.factor * double(scale_of_head(cache.keys, table.kv_head));
#pragma unroll
  for (int h = 0; h < kHeads; ++h)
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const int column = column_of(cache.keys.format, place.r, e);
      query[h][e] = h < heads && place.has_part ? float(double(arguments.query[(first_row + h) * d + column]) * factor) : 0.0f;
    }

  float* const queries = reinterpret_cast<float*>(memory + layout.queries);  // of blocks: channel by channel
  if (has_blocks) {
    for (int i = int(threadIdx.x); i < kHeads * d; i += kThreads) {
      const int h = i % kHeads;
      queries[i] = h < heads ? float(double(arguments.query[(first_row + h) * d + i / kHeads]) * factor) : 0.0f;
    }
    __syncthreads();
  }

  float sums[kHeads][kVector] = {};
  Running running;
  int stage = 0;
  for (int32_t which = warp; which < tiles.count; which += kWarps, stage ^= 1) {
    key_phase = next_key_phase;
    value_phase = next_value_phase;
    fetch(which + kWarps, stage ^ 1);
    copy_async_wait<1>();
    __syncwarp();  // what other lanes copied is here too
    const Tile tile = tiles[which];
    const int32_t count = tile.count;
    const unsigned char* const slot = own + stage * (layout.key_slot + layout.value_slot);
    if (has_blocks && !tile.is_latest) {
      const int32_t position = range.first + tile.from;
      score_block<kHeads>(keys.block(position), position % kGroup, count, d, queries, scores, place.lane);
    } else {
      const int row_bytes = has_blocks ? d * int(sizeof(float)) : cache.keys.row_bytes;
#define AUXCORE_KV_SCORE(format) score<kHeads, format>(slot, key_phase, row_bytes, count, place, query, scores)
      AUXCORE_KV_BY_FORMAT(has_blocks ? int32_t{kF32} : cache.keys.format, AUXCORE_KV_SCORE)
#undef AUXCORE_KV_SCORE
    }
    __syncwarp();
    weigh<kHeads>(scores, count, place.lane, running, sums, heads, kept == nullptr ? nullptr : kept + tile.from, arguments.sum_positions);
    __syncwarp();
    const int row_bytes = has_rows && tile.is_latest ? d * int(sizeof(float)) : cache.values.row_bytes;
#define AUXCORE_KV_MIX(format) mix<kHeads, format>(slot + layout.key_slot, value_phase, row_bytes, count, place, scores, sums)
    if (has_rows && !tile.is_latest) {
      AUXCORE_KV_MIX(kKivi);
    } else {
      AUXCORE_KV_BY_FORMAT(has_rows ? int32_t{kF32} : cache.values.format, AUXCORE_KV_MIX)
    }
#undef AUXCORE_KV_MIX
    __syncwarp();  // before slot and scores are written anew
  }
  copy_async_wait<0>();

  // Rows that the warp read at once, then lanes of the same head.
  for (int with = place.lanes; with < kWarp; with *= 2)
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
#pragma unroll
      for (int e = 0; e < kVector; ++e)
        sums[h][e] += __shfl_xor_sync(kAllLanes, sums[h][e], with);
#pragma unroll
  for (int with = kHeads; with < kWarp; with *= 2)
    running.sum += __shfl_xor_sync(kAllLanes, running.sum, with);

  __syncthreads();  // slots of all warps are done with
  float* const found = reinterpret_cast<float*>(memory);
  const int pitch = d + 2;
  if (place.lane < kHeads) {
    found[(warp * kHeads + place.lane) * pitch] = running.maximum;
    found[(warp * kHeads + place.lane) * pitch + 1] = running.sum;
  }
  if (place.row == 0 && place.has_part)
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
#pragma unroll
      for (int e = 0; e < kVector; ++e)
        found[(warp * kHeads + h) * pitch + 2 + column_of(cache.values.format, place.r, e)] = sums[h][e];
  __syncthreads();
  merge_warps(arguments, found, kHeads, first_row, heads, split, scale_of_head(cache.values, table.kv_head));
}

}  // namespace

// Dynamic shared memory: Layout.bytes.
#define AUXCORE_KV_KERNEL(heads)                                                                                          \
  extern "C" __global__ void __launch_bounds__(kThreads) auxcore_kv_decode_attention_##heads(Arguments arguments) { \
    attend<heads>(arguments);                                                                                             \
  }                                                                                                                       \
  AUXCORE_KERNEL(auxcore_kv_decode_attention_##heads)

AUXCORE_KV_KERNEL(1)
AUXCORE_KV_KERNEL(2)
AUXCORE_KV_KERNEL(4)
AUXCORE_KV_KERNEL(8)
#undef AUXCORE_KV_KERNEL

/// The splits of a query head, in their order. A block a head.
extern "C" __global__ void __launch_bounds__(kMergeThreads) auxcore_kv_decode_attention_merge(Arguments arguments) {
  const int64_t row = int64_t{blockIdx.x};
  const int d = arguments.cache.head_dim;
  const int32_t per_group = arguments.query_heads / arguments.cache.kv_heads;
  const HeadTable table(arguments.cache, int32_t(row / arguments.query_heads), int32_t(row % arguments.query_heads) / per_group);
  const int32_t splits = Range::used(length_of(arguments, table), arguments.splits);
  const int64_t first = row * arguments.splits;
  float greatest = minus_infinity();
  for (int32_t split = 0; split < splits; ++split)
    greatest = fmaxf(greatest, arguments.maxima[first + split]);
  for (int column = int(threadIdx.x); column < d; column += kMergeThreads) {
    float total = 0, value = 0;
    for (int32_t split = 0; split < splits; ++split) {
      const float share = share_of(arguments.maxima[first + split], greatest);
      total = fmaf(share, arguments.sums[first + split], total);
      value = fmaf(share, arguments.partials[(first + split) * d + column], value);
    }
    if (splits == 0)
      arguments.output[row * d + column] = 0;
    else
      finish(arguments, row, column, greatest, total, value);
  }
}
AUXCORE_KERNEL(auxcore_kv_decode_attention_merge)

/// position_sums[position] += the probabilities that the heads of the group give it, in their order.
extern "C" __global__ void __launch_bounds__(kSumThreads) auxcore_kv_decode_attention_sums(Arguments arguments) {
  const int32_t blocks = (arguments.sum_positions + kSumThreads - 1) / kSumThreads;
  const int32_t head = int32_t(blockIdx.x / unsigned(blocks)), kv_heads = arguments.cache.kv_heads;
  const int32_t position = int32_t(blockIdx.x % unsigned(blocks)) * kSumThreads + int32_t(threadIdx.x);
  const HeadTable table(arguments.cache, head / kv_heads, head % kv_heads);
  if (position >= length_of(arguments, table))
    return;
  const int32_t per_group = arguments.query_heads / kv_heads;
  const int64_t first = int64_t{table.sequence} * arguments.query_heads + table.kv_head * per_group;
  float sum = arguments.position_sums[int64_t{head} * arguments.sum_positions + position];
  for (int32_t h = 0; h < per_group; ++h) {
    const float score = arguments.scores[(first + h) * arguments.sum_positions + position];
    const float greatest = arguments.totals[2 * (first + h)], total = arguments.totals[2 * (first + h) + 1];
    sum += exp2_approximate(score - (greatest == minus_infinity() ? 0.0f : greatest)) / total;
  }
  arguments.position_sums[int64_t{head} * arguments.sum_positions + position] = sum;
}
AUXCORE_KERNEL(auxcore_kv_decode_attention_sums)

}  // namespace auxcore::kv_decode_attention
