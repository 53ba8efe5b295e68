// EmaUpdate on CUDA: average <- decay · average + (1 - decay) · source over any number of tensors in one launch.
//
// A warp takes a piece of at most kPieceElements elements of one tensor, so tensors of a few hundred elements fill a block eight at a time,
// and large ones spread over the device. Each element of a source is read once, whatever the number of averages. Bytes: 4 or 2 read of the
// source, 4 read and 4 written of each average; nothing is computed that could matter beside them.
#include "../device/device.cuh"
#include "ema_update.cuh"

namespace auxcore::ema {
namespace {

// The operations of src/Kernels/Ema/EmaUpdate.Cpu.cs in their order, so all backends give the same bits.
__device__ __forceinline__ float update(Step step, float e, float p) {
  const float mixed = fmaf(step.coefficient, p - e, step.rule == kFromSource ? p : e);
  return step.rule == kCopy ? p : p == e ? e : mixed;
}

// Sixteen bytes of a source, widened.
struct Group32 {
  static constexpr int kElements = 4;
  float4 low;

  __device__ __forceinline__ void load(const float* source) { low = *reinterpret_cast<const float4*>(source); }
  __device__ __forceinline__ float4 quad(int) const { return low; }
};

template <class Narrow>
struct Group16 {
  static constexpr int kElements = 8;
  uint4 raw;

  __device__ __forceinline__ void load(const Narrow* source) { raw = *reinterpret_cast<const uint4*>(source); }
  __device__ __forceinline__ float4 quad(int which) const {
    const uint32_t first = which == 0 ? raw.x : raw.z, second = which == 0 ? raw.y : raw.w;
    return {low(first), high(first), low(second), high(second)};
  }

  static __device__ __forceinline__ float low(uint32_t pair) { return widen(Narrow{uint16_t(pair & 0xffffu)}); }
  static __device__ __forceinline__ float high(uint32_t pair) { return widen(Narrow{uint16_t(pair >> 16)}); }
};

template <class T>
struct GroupOf {
  using type = Group16<T>;
};
template <>
struct GroupOf<float> {
  using type = Group32;
};

// kDepth groups of sixteen bytes a lane: all loads of a stream are under way before the first result is needed.
template <class T, int kDepth>
__device__ __forceinline__ void update_groups(
    const T* source, const uint64_t* averages, const Step* steps, int average_count, uint32_t offset) {
  using Group = typename GroupOf<T>::type;
  constexpr int kQuads = Group::kElements / 4;
  Group p[kDepth];
#pragma unroll
  for (int d = 0; d < kDepth; ++d)
    p[d].load(source + offset + d * kWarp * Group::kElements);

  for (int k = 0; k < average_count; ++k) {
    const Step step = steps[k];
    if (step.rule == kKeep)
      continue;
    float* average = reinterpret_cast<float*>(averages[k]) + offset;
    float4 e[kDepth * kQuads];
#pragma unroll
    for (int d = 0; d < kDepth; ++d)
#pragma unroll
      for (int q = 0; q < kQuads; ++q)
        e[d * kQuads + q] = reinterpret_cast<const float4*>(average + d * kWarp * Group::kElements)[q];
#pragma unroll
    for (int d = 0; d < kDepth; ++d)
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        const float4 old = e[d * kQuads + q], value = p[d].quad(q);
        reinterpret_cast<float4*>(average + d * kWarp * Group::kElements)[q] = {
            update(step, old.x, value.x), update(step, old.y, value.y), update(step, old.z, value.z), update(step, old.w, value.w)};
      }
  }
}

template <class T>
__device__ __forceinline__ void update_one_by_one(
    const T* source, const uint64_t* averages, const Step* steps, int average_count, uint32_t from, uint32_t to, uint32_t lane) {
  for (uint32_t i = from + lane; i < to; i += kWarp) {
    const float p = widen(source[i]);
    for (int k = 0; k < average_count; ++k) {
      const Step step = steps[k];
      if (step.rule == kKeep)
        continue;
      float* average = reinterpret_cast<float*>(averages[k]);
      average[i] = update(step, average[i], p);
    }
  }
}

template <class T>
__device__ __forceinline__ void update_piece(
    const Piece& piece, const uint64_t* averages, const Step* steps, int average_count, uint32_t lane) {
  constexpr uint32_t kElements = GroupOf<T>::type::kElements;
  constexpr int kDepth = 4;
  const T* source = reinterpret_cast<const T*>(piece.source);
  if (piece.head == kNoVectors) {
    update_one_by_one(source, averages, steps, average_count, 0, piece.count, lane);
    return;
  }

  const uint32_t groups = (piece.count - piece.head) / kElements;
  uint32_t group = lane;
  for (; group + (kDepth - 1) * kWarp < groups; group += kDepth * kWarp)
    update_groups<T, kDepth>(source, averages, steps, average_count, piece.head + group * kElements);
  for (; group < groups; group += kWarp)
    update_groups<T, 1>(source, averages, steps, average_count, piece.head + group * kElements);
  update_one_by_one(source, averages, steps, average_count, 0, piece.head, lane);
  update_one_by_one(source, averages, steps, average_count, piece.head + groups * kElements, piece.count, lane);
}

}  // namespace

/// averages: average_count addresses a piece, those of the piece's own first element.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_ema_update(
    const Piece* pieces, const uint64_t* averages, const Step* steps, uint32_t piece_count, int32_t average_count) {
  const uint32_t warp = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (warp >= piece_count)
    return;
  const Piece piece = pieces[warp];
  const uint64_t* own = averages + uint64_t(warp) * uint32_t(average_count);
  switch (piece.source_type) {
    case kFloat32:
      update_piece<float>(piece, own, steps, average_count, lane);
      break;
    case kFloat16:
      update_piece<float16>(piece, own, steps, average_count, lane);
      break;
    default:
      update_piece<bfloat16>(piece, own, steps, average_count, lane);
      break;
  }
}
AUXCORE_KERNEL(auxcore_ema_update)

/// Writes count steps. The values arrive as a parameter, so the launch can be captured and needs no copy that the host would wait for.
extern "C" __global__ void __launch_bounds__(kStepsPerLaunch) auxcore_ema_set_steps(Step* steps, Steps values, int32_t count) {
  if (int32_t(threadIdx.x) < count)
    steps[threadIdx.x] = values.step[threadIdx.x];
}
AUXCORE_KERNEL(auxcore_ema_set_steps)

}  // namespace auxcore::ema
