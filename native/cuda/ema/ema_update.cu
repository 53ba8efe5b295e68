// EmaUpdate on CUDA: average <- decay · average + (1 - decay) · source over any number of tensors in one launch.
//
// A warp takes a piece of one tensor (ema_update.cuh), so tensors of a few hundred elements fill a block eight at a time, and large ones
// spread over the device. Each element of a source is read once, whatever the number of averages. Bytes: 4 or 2 read of the source, 4 read
// and 4 written of each average; nothing is computed that could matter beside them. So what counts is how much is under way at once: a
// lane takes four elements at a time, and four of those together, which is 4 KB a warp for float32 before the first result is needed.
#include "../device/device.cuh"
#include "ema_math.cuh"

namespace auxcore::ema {
namespace {

__device__ __forceinline__ float4 update(Step step, float4 e, float4 p) {
  return {update(step, e.x, p.x), update(step, e.y, p.y), update(step, e.z, p.z), update(step, e.w, p.w)};
}

template <class T>
using Global = const AUXCORE_GLOBAL T*;
using Average = AUXCORE_GLOBAL float*;

/// A lane takes four neighbours, so that a warp reads and writes whole lines: of averages 16 bytes a lane, of a source 16 or 8.
template <class T>
struct Quads {
  static constexpr uint32_t kElements = 4;
  uint2 source;
  float4 average;

  __device__ __forceinline__ void load_source(Global<T> from) { source = load4(from); }
  __device__ __forceinline__ void load_average(Average from) { average = load4(from); }
  __device__ __forceinline__ void store(Average to, Step step) const {
    store4(to, update(step, average, {low(source.x), high(source.x), low(source.y), high(source.y)}));
  }

  static __device__ __forceinline__ float low(uint32_t pair) { return widen(T{uint16_t(pair & 0xffffu)}); }
  static __device__ __forceinline__ float high(uint32_t pair) { return widen(T{uint16_t(pair >> 16)}); }
};

template <>
struct Quads<float> {
  static constexpr uint32_t kElements = 4;
  float4 source, average;

  __device__ __forceinline__ void load_source(Global<float> from) { source = load4(from); }
  __device__ __forceinline__ void load_average(Average from) { average = load4(from); }
  __device__ __forceinline__ void store(Average to, Step step) const { store4(to, update(step, average, source)); }
};

/// One element a lane, where source and averages do not lie alike.
template <class T>
struct Singles {
  static constexpr uint32_t kElements = 1;
  float source, average;

  __device__ __forceinline__ void load_source(Global<float> from) { source = *from; }
  template <class Narrow>
  __device__ __forceinline__ void load_source(Global<Narrow> from) {
    source = widen(Narrow{from->bits});
  }
  __device__ __forceinline__ void load_average(Average from) { average = *from; }
  __device__ __forceinline__ void store(Average to, Step step) const { *to = update(step, average, source); }
};

/// What a piece is updated with. Its first average comes beside it, as a number of its own: mostly there is no other, and no loop reads a
/// table. (In here, clang 19 would keep it on the stack, to load it from there or from the table by one instruction.)
struct Work {
  const uint64_t* averages;  ///< addresses of the averages of the piece's own first element
  const Step* steps;
  int32_t average_count;
  Step first_step;
};

/// Elements at, at + kStride and so on, as far as they lie before `to`; all do where kWhole.
template <class Lane, int kDepth, bool kWhole, class T>
__device__ __forceinline__ void update_together(
    const Work& work, uint64_t first_average, Global<T> source, uint32_t at, uint32_t to) {
  constexpr uint32_t kStride = kWarp * Lane::kElements;
  Lane lanes[kDepth] = {};
#pragma unroll
  for (int d = 0; d < kDepth; ++d)
    if (kWhole || at + d * kStride < to)
      lanes[d].load_source(source + at + d * kStride);

  Step step = work.first_step;
  uint64_t address = first_average;
  for (int32_t k = 0;;) {
    if (step.rule != kKeep) {
      const Average average = global<float>(address) + at;
#pragma unroll
      for (int d = 0; d < kDepth; ++d)
        if (kWhole || at + d * kStride < to)
          lanes[d].load_average(average + d * kStride);
#pragma unroll
      for (int d = 0; d < kDepth; ++d)
        if (kWhole || at + d * kStride < to)
          lanes[d].store(average + d * kStride, step);
    }
    if (++k == work.average_count)
      break;
    step = work.steps[k];
    address = work.averages[k];
  }
}

template <class Lane, int kDepth, class T>
__device__ __forceinline__ void update_stretch(
    const Work& work, uint64_t first_average, Global<T> source, uint32_t from, uint32_t to, uint32_t lane) {
  constexpr uint32_t kTogether = kDepth * kWarp * Lane::kElements;
  for (; from + kTogether <= to; from += kTogether)
    update_together<Lane, kDepth, true>(work, first_average, source, from + lane * Lane::kElements, to);
  if (from < to)
    update_together<Lane, kDepth, false>(work, first_average, source, from + lane * Lane::kElements, to);
}

template <class T>
__device__ __forceinline__ void update_piece(const Work& work, uint64_t first_average, const Piece& piece, uint32_t lane) {
  constexpr int kDepth = 4;
  const Global<T> source = global<const T>(piece.source);
  if (piece.head == kNoVectors) {
    update_stretch<Singles<T>, kDepth>(work, first_average, source, 0, piece.count, lane);
    return;
  }
  const uint32_t end = piece.head + (piece.count - piece.head) / kQuad * kQuad;
  update_stretch<Quads<T>, kDepth>(work, first_average, source, piece.head, end, lane);
  if (piece.head > 0)
    update_stretch<Singles<T>, 1>(work, first_average, source, 0, piece.head, lane);
  if (end < piece.count)
    update_stretch<Singles<T>, 1>(work, first_average, source, end, piece.count, lane);
}

}  // namespace

/// averages: average_count addresses a piece, those of the piece's own first element.
extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor) auxcore_ema_update(const Piece* __restrict__ pieces,
    const uint64_t* __restrict__ averages, const Step* __restrict__ steps, uint32_t piece_count, int32_t average_count) {
  const uint32_t warp = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (warp >= piece_count)
    return;
  // None of the three waits for another.
  const uint64_t* own = averages + uint64_t(warp) * uint32_t(average_count);
  const uint64_t first_average = own[0];
  const Work work = {own, steps, average_count, steps[0]};
  const Piece piece = pieces[warp];
  switch (piece.source_type) {
    case kFloat32:
      update_piece<float>(work, first_average, piece, lane);
      break;
    case kFloat16:
      update_piece<float16>(work, first_average, piece, lane);
      break;
    default:
      update_piece<bfloat16>(work, first_average, piece, lane);
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
