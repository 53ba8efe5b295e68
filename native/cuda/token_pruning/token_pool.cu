// TokenPool on CUDA: a thread has a vector of channels of one cell, or backwards of one token, so all is read once and written once. Sums
// are in the order of TokenPool.cs, and the bits are the CPU's.
#include "token_pool.cuh"

#include "token_device.cuh"

namespace auxcore::token_pool {
namespace {

using namespace tokens;

constexpr int kTogether = 4;  ///< tokens of a thread whose loads are under way at once

struct Range {
  int32_t from, to;
};

/// The tokens of a cell along one side.
__device__ __forceinline__ Range tokens_of(int32_t cell, int32_t tokens, int32_t cells, int32_t window) {
  if (window > 0)
    return {int32_t(int64_t{cell} * window), int32_t(least(int64_t{tokens}, (cell + int64_t{1}) * window))};
  return {int32_t(int64_t{cell} * tokens / cells), int32_t(((cell + int64_t{1}) * tokens + cells - 1) / cells)};
}

/// The cells that have a token, along one side.
__device__ __forceinline__ Range cells_of(int32_t token, int32_t tokens, int32_t cells, int32_t window) {
  if (window > 0)
    return {token / window, token / window + 1};
  return {int32_t(int64_t{token} * cells / tokens), int32_t(((token + int64_t{1}) * cells - 1) / tokens) + 1};
}

/// Four channels of float32.
struct Four {
  static constexpr int kCount = 4;
  using Element = float;
  float value[4] = {-0.0f, -0.0f, -0.0f, -0.0f};  // which adds nothing, not even a sign

  __device__ __forceinline__ void read(const float* from) {
    const float4 all = load4(global<const float>(reinterpret_cast<uint64_t>(from)));
    value[0] = all.x, value[1] = all.y, value[2] = all.z, value[3] = all.w;
  }
  __device__ __forceinline__ void write(float* to) const {
    store4(global<float>(reinterpret_cast<uint64_t>(to)), {value[0], value[1], value[2], value[3]});
  }
};

/// Four channels of 16 bits.
template <class T>
struct FourNarrow {
  static constexpr int kCount = 4;
  using Element = T;
  float value[4] = {-0.0f, -0.0f, -0.0f, -0.0f};

  __device__ __forceinline__ void read(const T* from) {
    const uint2 all = load4(global<const T>(reinterpret_cast<uint64_t>(from)));
    value[0] = widen(T{uint16_t(all.x)}), value[1] = widen(T{uint16_t(all.x >> 16)});
    value[2] = widen(T{uint16_t(all.y)}), value[3] = widen(T{uint16_t(all.y >> 16)});
  }
  __device__ __forceinline__ void write(T* to) const {
    const auto both = [&](int i) { return uint32_t(narrow_to(T{}, value[i]).bits) | uint32_t(narrow_to(T{}, value[i + 1]).bits) << 16; };
    store4(global<T>(reinterpret_cast<uint64_t>(to)), uint2{both(0), both(2)});
  }
};

template <class T>
struct One {
  static constexpr int kCount = 1;
  using Element = T;
  float value[1] = {-0.0f};

  __device__ __forceinline__ void read(const T* from) { value[0] = load(from); }
  __device__ __forceinline__ void write(T* to) const { store(to, value[0]); }
};

/// Where a unit is: an image, a row and a column of it, and the first of some channels.
struct Place {
  int64_t image;
  int32_t row, column, channel;

  template <class Vector>
  static __device__ __forceinline__ Place of(int64_t unit, int32_t channels, int32_t rows, int32_t columns) {
    const int64_t at = unit / channels;
    return {at / columns / rows, int32_t(at / columns % rows), int32_t(at % columns), int32_t(unit % channels) * Vector::kCount};
  }
};

template <class Vector>
__device__ AUXCORE_TOKEN_INLINE void pool(const Arguments& arguments, int64_t unit) {
  using T = typename Vector::Element;
  const Shape& shape = arguments.shape;
  const int64_t channels = int64_t{arguments.channels} * Vector::kCount;
  const Place place = Place::of<Vector>(unit, arguments.channels, shape.rows, shape.columns);
  const Range rows = tokens_of(place.row, shape.height, shape.rows, shape.window_height);
  const Range columns = tokens_of(place.column, shape.width, shape.columns, shape.window_width);
  Vector sum;
  for (int32_t row = rows.from; row < rows.to; ++row) {
    const T* from = static_cast<const T*>(arguments.source) +
        ((place.image * shape.height + row) * shape.width + columns.from) * channels + place.channel;
    for (int32_t column = columns.from; column < columns.to; column += kTogether, from += kTogether * channels) {
      Vector tokens[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        if (column + k < columns.to)
          tokens[k].read(from + k * channels);
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        if (column + k < columns.to)
#pragma unroll
          for (int i = 0; i < Vector::kCount; ++i)
            sum.value[i] += tokens[k].value[i];
    }
  }
  const float count = float((rows.to - rows.from) * (columns.to - columns.from));
#pragma unroll
  for (int i = 0; i < Vector::kCount; ++i)
    sum.value[i] = sum.value[i] / count;
  sum.write(static_cast<T*>(arguments.destination) + unit * Vector::kCount);
}

template <class Vector>
__device__ AUXCORE_TOKEN_INLINE void spread(const Arguments& arguments, int64_t unit) {
  using T = typename Vector::Element;
  const Shape& shape = arguments.shape;
  const int64_t channels = int64_t{arguments.channels} * Vector::kCount;
  const Place place = Place::of<Vector>(unit, arguments.channels, shape.height, shape.width);
  const Range rows = cells_of(place.row, shape.height, shape.rows, shape.window_height);
  const Range columns = cells_of(place.column, shape.width, shape.columns, shape.window_width);
  Vector sum;
  for (int32_t row = rows.from; row < rows.to; ++row) {
    const Range high = tokens_of(row, shape.height, shape.rows, shape.window_height);
    for (int32_t column = columns.from; column < columns.to; ++column) {
      const Range wide = tokens_of(column, shape.width, shape.columns, shape.window_width);
      const float count = float((high.to - high.from) * (wide.to - wide.from));
      Vector cell;
      cell.read(static_cast<const T*>(arguments.source) +
          ((place.image * shape.rows + row) * shape.columns + column) * channels + place.channel);
#pragma unroll
      for (int i = 0; i < Vector::kCount; ++i)
        sum.value[i] += cell.value[i] / count;
    }
  }
  sum.write(static_cast<T*>(arguments.destination) + unit * Vector::kCount);
}

/// Body is called with the type of vectors: 0 for four channels, 1 for one.
template <template <class> class Body>
__device__ __forceinline__ void with_vectors(const Arguments& arguments, int32_t is_single) {
  const int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (unit >= arguments.units)
    return;
  switch (arguments.type) {
    case kFloat32:
      return is_single ? Body<One<float>>::run(arguments, unit) : Body<Four>::run(arguments, unit);
    case kBFloat16:
      return is_single ? Body<One<bfloat16>>::run(arguments, unit) : Body<FourNarrow<bfloat16>>::run(arguments, unit);
    default:
      return is_single ? Body<One<float16>>::run(arguments, unit) : Body<FourNarrow<float16>>::run(arguments, unit);
  }
}

template <class Vector>
struct Pool {
  static __device__ __forceinline__ void run(const Arguments& arguments, int64_t unit) { pool<Vector>(arguments, unit); }
};

template <class Vector>
struct Spread {
  static __device__ __forceinline__ void run(const Arguments& arguments, int64_t unit) { spread<Vector>(arguments, unit); }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_pool(Arguments arguments, int32_t is_single) {
  with_vectors<Pool>(arguments, is_single);
}
AUXCORE_KERNEL(auxcore_token_pool)

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_pool_backward(Arguments arguments, int32_t is_single) {
  with_vectors<Spread>(arguments, is_single);
}
AUXCORE_KERNEL(auxcore_token_pool_backward)

}  // namespace auxcore::token_pool
