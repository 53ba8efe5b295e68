// EmaUpdate on CUDA with averages in bfloat16: widened, updated in float32 as in ema_update.cu, and rounded as
// src/Kernels/Ema/EmaRounding.cs says. A kernel of its own, so that the other keeps its registers. A warp takes a piece, a lane four
// neighbours at a time; the random bits of the four, of every average, take one Philox, or two where they lie in two blocks of eight.
#include "../device/device.cuh"
#include "../device/philox.cuh"
#include "ema_math.cuh"

namespace auxcore::ema::rounded {  // one program with ema_update.cu
namespace {

template <class T>
using Global = const AUXCORE_GLOBAL T*;
using Average = AUXCORE_GLOBAL bfloat16*;

/// Rounds the elements of one piece.
struct Rounder {
  Rounding rounding;
  uint64_t element;  ///< of the piece's first element, within its tensor
  uint32_t tensor;

  /// 16 bits for each of four neighbours from element i of the piece on, the first lowest; of average k.
  __device__ __forceinline__ uint64_t bits(uint32_t i, int32_t k) const {
    const uint64_t at = element + i;
    const uint32_t shift = uint32_t(at % 8) * 16;
    const RandomBits own = block(at / 8, k);
    if (shift == 0)
      return own.low;
    if (shift < 64)
      return own.low >> shift | own.high << (64 - shift);
    if (shift == 64)
      return own.high;
    return own.high >> (shift - 64) | block(at / 8 + 1, k).low << (128 - shift);
  }

  __device__ __forceinline__ RandomBits block(uint64_t number, int32_t k) const {
    return philox(uint32_t(number), tensor, uint32_t(rounding.step), uint32_t(rounding.step >> 32), rounding.seed + uint32_t(k));
  }

  __device__ __forceinline__ uint16_t round(float value, uint32_t bits) const {
    if (rounding.kind == kNearest || value != value)
      return narrow_to(bfloat16{}, value).bits;
    return uint16_t((as_bits(value) + bits) >> 16);
  }
};

struct Work {
  const uint64_t* averages;  ///< addresses of the averages of the piece's own first element
  const Step* steps;
  int32_t average_count;
  Rounder rounder;
};

__device__ __forceinline__ float4 load_wide(Global<float> from) { return load4(from); }

template <class Narrow>
__device__ __forceinline__ float4 load_wide(Global<Narrow> from) {
  const uint2 raw = load4(from);
  return {widen(Narrow{uint16_t(raw.x & 0xffffu)}), widen(Narrow{uint16_t(raw.x >> 16)}), widen(Narrow{uint16_t(raw.y & 0xffffu)}),
      widen(Narrow{uint16_t(raw.y >> 16)})};
}

__device__ __forceinline__ float load_one(Global<float> from) { return *from; }

template <class Narrow>
__device__ __forceinline__ float load_one(Global<Narrow> from) {
  return widen(Narrow{from->bits});
}

__device__ __forceinline__ uint32_t low(uint64_t bits, int which) { return uint32_t(bits >> (16 * which)) & 0xffffu; }

template <class T>
__device__ __forceinline__ void update_quads(const Work& work, Global<T> source, uint32_t from, uint32_t to, uint32_t lane) {
  for (uint32_t i = from + lane * kQuad; i < to; i += kWarp * kQuad) {
    const float4 p = load_wide(source + i);
    for (int32_t k = 0; k < work.average_count; ++k) {
      const Step step = work.steps[k];
      if (step.rule == kKeep)
        continue;
      const Average average = global<bfloat16>(work.averages[k]) + i;
      const float4 e = load_wide(static_cast<Global<bfloat16>>(average));
      const uint64_t bits = work.rounder.rounding.kind == kNearest ? 0 : work.rounder.bits(i, k);
      const uint32_t x = work.rounder.round(update(step, e.x, p.x), low(bits, 0));
      const uint32_t y = work.rounder.round(update(step, e.y, p.y), low(bits, 1));
      const uint32_t z = work.rounder.round(update(step, e.z, p.z), low(bits, 2));
      const uint32_t w = work.rounder.round(update(step, e.w, p.w), low(bits, 3));
      store4(average, {x | y << 16, z | w << 16});
    }
  }
}

template <class T>
__device__ __forceinline__ void update_singles(const Work& work, Global<T> source, uint32_t from, uint32_t to, uint32_t lane) {
  for (uint32_t i = from + lane; i < to; i += kWarp) {
    const float p = load_one(source + i);
    for (int32_t k = 0; k < work.average_count; ++k) {
      const Step step = work.steps[k];
      if (step.rule == kKeep)
        continue;
      const Average average = global<bfloat16>(work.averages[k]) + i;
      const uint64_t bits = work.rounder.rounding.kind == kNearest ? 0 : work.rounder.bits(i, k);
      average->bits = work.rounder.round(update(step, widen(bfloat16{average->bits}), p), low(bits, 0));
    }
  }
}

template <class T>
__device__ __forceinline__ void update_piece(const Work& work, const Piece& piece, uint32_t lane) {
  const Global<T> source = global<const T>(piece.source);
  if (piece.head == kNoVectors) {
    update_singles(work, source, 0, piece.count, lane);
    return;
  }
  const uint32_t end = piece.head + (piece.count - piece.head) / kQuad * kQuad;
  update_quads(work, source, piece.head, end, lane);
  update_singles(work, source, 0, piece.head, lane);
  update_singles(work, source, end, piece.count, lane);
}

}  // namespace

/// As auxcore_ema_update; positions say where in which tensor each piece begins.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_ema_update_bfloat16(const Piece* __restrict__ pieces,
    const uint64_t* __restrict__ averages, const Position* __restrict__ positions, const Step* __restrict__ steps,
    const Rounding* __restrict__ rounding, uint32_t piece_count, int32_t average_count) {
  const uint32_t warp = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (warp >= piece_count)
    return;
  const Position position = positions[warp];
  const Piece piece = pieces[warp];
  const Rounding how = *rounding;
  const uint64_t* own = averages + uint64_t(warp) * uint32_t(average_count);
  const Work work = {own, steps, average_count, {how, position.element, how.first_tensor + position.tensor}};
  switch (piece.source_type) {
    case kFloat32:
      update_piece<float>(work, piece, lane);
      break;
    case kFloat16:
      update_piece<float16>(work, piece, lane);
      break;
    default:
      update_piece<bfloat16>(work, piece, lane);
      break;
  }
}
AUXCORE_KERNEL(auxcore_ema_update_bfloat16)

/// The value arrives as a parameter, as the steps of auxcore_ema_set_steps do.
extern "C" __global__ void __launch_bounds__(kWarp) auxcore_ema_set_rounding(Rounding* rounding, Rounding value) {
  if (threadIdx.x == 0)
    *rounding = value;
}
AUXCORE_KERNEL(auxcore_ema_set_rounding)

}  // namespace auxcore::ema::rounded
