// AdamWUpdate on CUDA: one step of any number of parameters, with up to four averages of each, in one launch.
//
// A warp takes a piece of one parameter (adamw_update.cuh), as EmaUpdate's kernel does. Everything is read once and written once: for
// float32, 28 bytes an element and 8 for each average; a division and a root in between are far from mattering beside them.
#include "../device/device.cuh"
#include "adamw_update.cuh"

namespace auxcore::adamw {
namespace {

template <class T>
using In = const AUXCORE_GLOBAL T*;
template <class T>
using Out = AUXCORE_GLOBAL T*;

/// Settings with the scale as it is used.
struct Coefficients {
  float scale, penalty, weight1, weight2, epsilon, step_size, shrinkage;
};

/// One element of each tensor of a row.
struct Element {
  float value, gradient, first, second;

  // The operations of src/Kernels/AdamW/AdamWUpdate.Cpu.cs in their order, so all backends give the same bits.
  __device__ __forceinline__ void step(const Coefficients& c) {
    const float g = fmaf(c.penalty, value, c.scale * gradient);
    first = fmaf(c.weight1, g, fmaf(-c.weight1, first, first));
    second = fmaf(c.weight2 * g, g, fmaf(-c.weight2, second, second));
    value = fmaf(-c.step_size, first / (sqrtf(second) + c.epsilon), fmaf(-c.shrinkage, value, value));
  }
};

/// As EmaUpdate's kernel (ema/ema_update.cu).
__device__ __forceinline__ float averaged(ema::Step step, float e, float p) {
  const float mixed = fmaf(step.coefficient, p - e, step.rule == ema::kFromSource ? p : e);
  return step.rule == ema::kCopy ? p : p == e ? e : mixed;
}

// A master that does not round to what its parameter holds gives way to it.
template <class P>
__device__ __forceinline__ float value_of(P parameter, float master) {
  const float held = widen(parameter);
  return widen(narrow_to(P{}, master)) == held ? master : held;
}

/// The addresses of a piece in their types. P and G are the types of parameter and gradient.
template <class P, class G>
struct Row {
  Out<P> parameter;
  Out<float> master;
  In<G> gradient;
  Out<float> first, second;
  Coefficients coefficients;
};

/// What follows a piece's parameter.
struct Averages {
  const uint64_t* addresses;  ///< of the piece's own first element
  const ema::Step* decays;
  int32_t count;
};

template <class Narrow>
__device__ __forceinline__ Narrow low(uint32_t pair) {
  return {uint16_t(pair & 0xffffu)};
}
template <class Narrow>
__device__ __forceinline__ Narrow high(uint32_t pair) {
  return {uint16_t(pair >> 16)};
}

/// Four neighbours a lane, so that a warp reads and writes whole lines.
template <class P, class G>
struct Quads {
  float4 value, gradient, first, second, average;

  __device__ __forceinline__ void load_from(const Row<P, G>& row, uint32_t at) {
    load_value(row, at);
    gradient = wide(row.gradient + at);
    first = load4(row.first + at);
    second = load4(row.second + at);
  }

  /// After this, `value` is the parameter as it is stored, which averages follow.
  __device__ __forceinline__ void step(const Row<P, G>& row, uint32_t at) {
    Element x = {value.x, gradient.x, first.x, second.x}, y = {value.y, gradient.y, first.y, second.y};
    Element z = {value.z, gradient.z, first.z, second.z}, w = {value.w, gradient.w, first.w, second.w};
    x.step(row.coefficients);
    y.step(row.coefficients);
    z.step(row.coefficients);
    w.step(row.coefficients);
    value = {x.value, y.value, z.value, w.value};
    store4(row.first + at, {x.first, y.first, z.first, w.first});
    store4(row.second + at, {x.second, y.second, z.second, w.second});
    store(row, at);
  }

  __device__ __forceinline__ void load_average(In<float> from) { average = load4(from); }
  __device__ __forceinline__ void store_average(Out<float> to, ema::Step decay) const {
    store4(to, {averaged(decay, average.x, value.x), averaged(decay, average.y, value.y), averaged(decay, average.z, value.z),
                   averaged(decay, average.w, value.w)});
  }

 private:
  static __device__ __forceinline__ float4 wide(In<float> from) { return load4(from); }
  template <class Narrow>
  static __device__ __forceinline__ float4 wide(In<Narrow> from) {
    const uint2 pairs = load4(from);
    return {widen(low<Narrow>(pairs.x)), widen(high<Narrow>(pairs.x)), widen(low<Narrow>(pairs.y)), widen(high<Narrow>(pairs.y))};
  }

  __device__ __forceinline__ void load_value(const Row<float, G>& row, uint32_t at) { value = load4(row.parameter + at); }
  template <class Narrow>
  __device__ __forceinline__ void load_value(const Row<Narrow, G>& row, uint32_t at) {
    const uint2 pairs = load4(row.parameter + at);
    const float4 master = load4(row.master + at);
    value = {value_of(low<Narrow>(pairs.x), master.x), value_of(high<Narrow>(pairs.x), master.y),
        value_of(low<Narrow>(pairs.y), master.z), value_of(high<Narrow>(pairs.y), master.w)};
  }

  __device__ __forceinline__ void store(const Row<float, G>& row, uint32_t at) { store4(row.parameter + at, value); }
  template <class Narrow>
  __device__ __forceinline__ void store(const Row<Narrow, G>& row, uint32_t at) {
    const Narrow x = narrow_to(Narrow{}, value.x), y = narrow_to(Narrow{}, value.y);
    const Narrow z = narrow_to(Narrow{}, value.z), w = narrow_to(Narrow{}, value.w);
    store4(row.master + at, value);
    store4(row.parameter + at, uint2{x.bits | uint32_t(y.bits) << 16, z.bits | uint32_t(w.bits) << 16});
    value = {widen(x), widen(y), widen(z), widen(w)};
  }
};

/// kDepth groups of a warp's elements from `at` on. What is under way at once is what counts.
template <int kDepth, class P, class G>
__device__ __forceinline__ void step_together(const Row<P, G>& row, const Averages& averages, uint32_t at) {
  constexpr uint32_t kStride = kWarp * kQuad;
  Quads<P, G> lanes[kDepth];
#pragma unroll
  for (int d = 0; d < kDepth; ++d)
    lanes[d].load_from(row, at + d * kStride);
#pragma unroll
  for (int d = 0; d < kDepth; ++d)
    lanes[d].step(row, at + d * kStride);

  for (int32_t k = 0; k < averages.count; ++k) {
    const ema::Step decay = averages.decays[k];
    if (decay.rule == ema::kKeep)
      continue;
    const Out<float> average = global<float>(averages.addresses[k]) + at;
#pragma unroll
    for (int d = 0; d < kDepth; ++d)
      lanes[d].load_average(average + d * kStride);
#pragma unroll
    for (int d = 0; d < kDepth; ++d)
      lanes[d].store_average(average + d * kStride, decay);
  }
}

/// From the first whole quad on.
template <class P, class G>
__device__ __forceinline__ void step_quads(
    const Piece& piece, const Averages& averages, const Coefficients& coefficients, uint32_t end, uint32_t lane) {
  constexpr int kDepth = 2;  // of four elements each from four tensors: 8 KB a warp for float32
  const Row<P, G> row = {global<P>(piece.parameter), global<float>(piece.master), global<const G>(piece.gradient),
      global<float>(piece.first_moment), global<float>(piece.second_moment), coefficients};
  uint32_t from = piece.head;
  for (; from + kDepth * kWarp * kQuad <= end; from += kDepth * kWarp * kQuad)
    step_together<kDepth>(row, averages, from + lane * kQuad);
  for (from += lane * kQuad; from < end; from += kWarp * kQuad)
    step_together<1>(row, averages, from);
}

template <class P>
__device__ __forceinline__ void step_quads(
    const Piece& piece, const Averages& averages, const Coefficients& coefficients, uint32_t end, uint32_t lane) {
  switch (piece.gradient_type) {
    case kFloat32:
      step_quads<P, float>(piece, averages, coefficients, end, lane);
      break;
    case kFloat16:
      step_quads<P, float16>(piece, averages, coefficients, end, lane);
      break;
    default:
      step_quads<P, bfloat16>(piece, averages, coefficients, end, lane);
      break;
  }
}

__device__ __forceinline__ float element_of(uint64_t address, uint8_t type, uint32_t at) {
  switch (type) {
    case kFloat32:
      return global<const float>(address)[at];
    case kFloat16:
      return widen(float16{global<const float16>(address)[at].bits});
    default:
      return widen(bfloat16{global<const bfloat16>(address)[at].bits});
  }
}

/// Stores a 16-bit parameter; returns it as stored.
template <class Narrow>
__device__ __forceinline__ float store_narrow(uint64_t address, uint32_t at, float value) {
  const Narrow narrow = narrow_to(Narrow{}, value);
  global<Narrow>(address)[at].bits = narrow.bits;
  return widen(narrow);
}

/// One element a lane: the ends of a piece, and tensors that do not lie alike. Types are told apart here, where it does not matter.
__device__ __forceinline__ void step_singles(
    const Piece& piece, const Averages& averages, const Coefficients& coefficients, uint32_t from, uint32_t to, uint32_t lane) {
  const Out<float> first = global<float>(piece.first_moment), second = global<float>(piece.second_moment);
  for (uint32_t at = from + lane; at < to; at += kWarp) {
    float value = element_of(piece.parameter, piece.parameter_type, at);
    if (piece.parameter_type == kFloat16)
      value = value_of(narrow_to(float16{}, value), global<float>(piece.master)[at]);
    else if (piece.parameter_type == kBFloat16)
      value = value_of(narrow_to(bfloat16{}, value), global<float>(piece.master)[at]);
    Element element = {value, element_of(piece.gradient, piece.gradient_type, at), first[at], second[at]};
    element.step(coefficients);
    first[at] = element.first;
    second[at] = element.second;
    if (piece.parameter_type == kFloat32) {
      global<float>(piece.parameter)[at] = element.value;
    } else {
      global<float>(piece.master)[at] = element.value;
      element.value = piece.parameter_type == kFloat16 ? store_narrow<float16>(piece.parameter, at, element.value)
                                                       : store_narrow<bfloat16>(piece.parameter, at, element.value);
    }
    for (int32_t k = 0; k < averages.count; ++k) {
      const Out<float> average = global<float>(averages.addresses[k]) + at;
      if (averages.decays[k].rule != ema::kKeep)
        *average = averaged(averages.decays[k], *average, element.value);
    }
  }
}

__device__ __forceinline__ void step_piece(
    const Piece& piece, const Averages& averages, const Coefficients& coefficients, uint32_t lane) {
  if (piece.head == kNoVectors) {
    step_singles(piece, averages, coefficients, 0, piece.count, lane);
    return;
  }
  const uint32_t end = piece.head + (piece.count - piece.head) / kQuad * kQuad;
  switch (piece.parameter_type) {
    case kFloat32:
      step_quads<float>(piece, averages, coefficients, end, lane);
      break;
    case kFloat16:
      step_quads<float16>(piece, averages, coefficients, end, lane);
      break;
    default:
      step_quads<bfloat16>(piece, averages, coefficients, end, lane);
      break;
  }
  step_singles(piece, averages, coefficients, 0, piece.head, lane);
  step_singles(piece, averages, coefficients, end, piece.count, lane);
}

}  // namespace

/// averages: average_count addresses a piece, those of the piece's own first element. norm: null, or what a clipped update goes by.
extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor) auxcore_adamw_update(const Piece* __restrict__ pieces,
    const uint64_t* __restrict__ averages, const Settings* __restrict__ settings, const ema::Step* __restrict__ decays,
    const Norm* __restrict__ norm, uint32_t piece_count, int32_t average_count) {
  const uint32_t warp = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (warp >= piece_count || (norm != nullptr && norm->skip != 0))
    return;
  const Piece piece = pieces[warp];
  const uint64_t* own = averages + uint64_t(warp) * uint32_t(average_count);
  const Settings s = settings[piece.settings];
  const double scale = norm == nullptr ? s.gradient_scale : __dmul_rn(s.gradient_scale, norm->factor);
  const Coefficients coefficients = {float(scale), s.penalty, s.weight1, s.weight2, s.epsilon, s.step_size, s.shrinkage};
  step_piece(piece, {own, decays, piece.has_averages ? average_count : 0}, coefficients, lane);
}
AUXCORE_KERNEL(auxcore_adamw_update)

/// Writes count words of settings. The values arrive as a parameter, so the launch can be captured and needs no copy that the host would
/// wait for.
extern "C" __global__ void __launch_bounds__(kSettingsPerLaunch* kSettingsWords) auxcore_adamw_set_settings(
    uint64_t* settings, SettingsBatch values, int32_t count) {
  if (int32_t(threadIdx.x) < count)
    settings[threadIdx.x] = values.word[threadIdx.x];
}
AUXCORE_KERNEL(auxcore_adamw_set_settings)

extern "C" __global__ void __launch_bounds__(kMostAverages) auxcore_adamw_set_decays(ema::Step* decays, Decays values, int32_t count) {
  if (int32_t(threadIdx.x) < count)
    decays[threadIdx.x] = values.step[threadIdx.x];
}
AUXCORE_KERNEL(auxcore_adamw_set_decays)

}  // namespace auxcore::adamw
