// TokenCompact on CUDA, forwards and backwards: rows of any number of tensors by one selection, in one launch. Nothing is computed; what
// counts is how much is under way. Up to a warp takes a row, 16 bytes a lane where tensors lie so, and each thread has four rows' loads
// under way before its first store: 16 KB a block. Where tensors are and how they lie comes as a parameter of the kernel, so nothing is
// uploaded and a graph can capture it.
//
// In place rows move towards the beginning, and blocks run in any order. So a strip's rows are one block's, or rather those of a block's
// columns: it reads a group of rows, waits for all of its threads, and writes it. As indices ascend, what it writes lies before all that it
// has yet to read.
#include "token_compact.cuh"

#include "token_device.cuh"

namespace auxcore::token_compact {
namespace {

using namespace tokens;

struct Bytes16 {
  static constexpr int kSize = 16;
  float4 value = {0, 0, 0, 0};
  __device__ __forceinline__ void read(uint64_t from) { value = load4(global<const float>(from)); }
  __device__ __forceinline__ void write(uint64_t to) const { store4(global<float>(to), value); }
};

struct Bytes8 {
  static constexpr int kSize = 8;
  uint2 value = {0, 0};
  __device__ __forceinline__ void read(uint64_t from) { value = load4(global<const bfloat16>(from)); }
  __device__ __forceinline__ void write(uint64_t to) const { store4(global<bfloat16>(to), value); }
};

template <class T>
struct Bytes {
  static constexpr int kSize = sizeof(T);
  T value = 0;
  __device__ __forceinline__ void read(uint64_t from) { value = *global<const T>(from); }
  __device__ __forceinline__ void write(uint64_t to) const { *global<T>(to) = value; }
};

/// One strip: rows of one tensor.
struct Strip {
  uint64_t source, destination;
  int32_t begin;  ///< of its part of the map
  int32_t count;  ///< rows that the map names
  int32_t base;
};

__device__ __forceinline__ Strip strip_of(const Selection& selection, const Group& group, const Tensor& tensor, int64_t number) {
  Strip strip = {tensor.source, tensor.destination, 0, 0, 0};
  int32_t segment = 0;
#pragma unroll
  for (int i = kDimensions - 1; i >= 0; --i) {
    const int64_t index = number % group.sizes[i];
    number /= group.sizes[i];
    strip.source += uint64_t(index * group.source_steps[i]);
    strip.destination += uint64_t(index * group.destination_steps[i]);
    if (i == group.segment_dimension)
      segment = int32_t(index);
  }
  const bool has_segments = group.segment_dimension >= 0;
  const int32_t end = selection.begins[has_segments ? segment + 1 : selection.segments];
  strip.begin = has_segments ? most(0, least(selection.begins[segment], selection.length)) : 0;
  strip.count = least(most(0, least(end, selection.length) - strip.begin), group.destination_tokens);
  strip.base = has_segments ? selection.bases[segment] : 0;
  return strip;
}

/// The source row of a destination row; -1 for zeros.
__device__ __forceinline__ int32_t source_row(const Selection& selection, const Group& group, const Strip& strip, int32_t row) {
  if (row >= strip.count)
    return -1;
  const int64_t from = int64_t{selection.map[strip.begin + row]} - strip.base;
  return from >= 0 && from < group.source_tokens ? int32_t(from) : -1;
}

template <class Vector>
__device__ AUXCORE_TOKEN_INLINE void copy_rows(const Selection& selection, const Group& group, const Strip& strip, int32_t part) {
  const int32_t lane = int32_t(threadIdx.x) % group.lanes, rows_at_once = kThreads / group.lanes;
  const int32_t first = part * (kTogether * rows_at_once) + int32_t(threadIdx.x) / group.lanes;
  const int32_t end = group.clears_rest ? group.destination_tokens : strip.count;
  int32_t from[kTogether];
#pragma unroll
  for (int k = 0; k < kTogether; ++k)
    from[k] = source_row(selection, group, strip, first + k * rows_at_once);
  for (int64_t at = int64_t{lane} * Vector::kSize; at < group.row_bytes; at += int64_t{group.lanes} * Vector::kSize) {
    Vector values[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k)
      if (from[k] >= 0)
        values[k].read(strip.source + uint64_t(from[k] * group.source_step + at));
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int32_t row = first + k * rows_at_once;
      if (row < end)
        values[k].write(strip.destination + uint64_t(row * group.destination_step + at));
    }
  }
}

template <class Vector>
__device__ AUXCORE_TOKEN_INLINE void move_rows(const Selection& selection, const Group& group, const Strip& strip, int32_t part) {
  const int32_t lane = int32_t(threadIdx.x) % group.lanes, rows_at_once = kThreads / group.lanes;
  const int32_t own = int32_t(threadIdx.x) / group.lanes;
  const int64_t at = (int64_t{part} * group.lanes + lane) * Vector::kSize;
  const bool is_within = at < group.row_bytes;
  for (int32_t from = 0; from < strip.count; from += kTogether * rows_at_once) {
    Vector values[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int32_t source = source_row(selection, group, strip, from + own + k * rows_at_once);
      if (is_within && source >= 0)
        values[k].read(strip.source + uint64_t(source * group.source_step + at));
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int32_t row = from + own + k * rows_at_once;
      if (is_within && row < strip.count)
        values[k].write(strip.destination + uint64_t(row * group.destination_step + at));
    }
  }
  if (!group.clears_rest || !is_within)
    return;
  for (int32_t row = strip.count + own; row < group.destination_tokens; row += rows_at_once)
    Vector().write(strip.destination + uint64_t(row * group.destination_step + at));
}

template <class Vector>
__device__ __forceinline__ void rows(const Selection& selection, const Group& group, const Strip& strip, int32_t part) {
  if (group.is_in_place)
    move_rows<Vector>(selection, group, strip, part);
  else
    copy_rows<Vector>(selection, group, strip, part);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_rows(Table table) {
  int32_t which = 0;
  while (which + 1 < table.group_count && int32_t(blockIdx.x) >= table.groups[which + 1].first_block)
    ++which;
  const Group group = table.groups[which];
  const int64_t unit = int32_t(blockIdx.x) - group.first_block;
  const int64_t strips = unit / group.parts;
  const Tensor tensor = table.tensors[group.first_tensor + strips / group.strips];
  const Strip strip = strip_of(table.selection, group, tensor, strips % group.strips);
  const int32_t part = int32_t(unit % group.parts);
  switch (group.vector_bytes) {
    case 16:
      rows<Bytes16>(table.selection, group, strip, part);
      break;
    case 8:
      rows<Bytes8>(table.selection, group, strip, part);
      break;
    case 4:
      rows<Bytes<uint32_t>>(table.selection, group, strip, part);
      break;
    case 2:
      rows<Bytes<uint16_t>>(table.selection, group, strip, part);
      break;
    default:
      rows<Bytes<uint8_t>>(table.selection, group, strip, part);
  }
}
AUXCORE_KERNEL(auxcore_token_rows)

}  // namespace auxcore::token_compact
