// KeyRerotate on CUDA: a thread has one pair of elements of one token, forms its cosine and sine once, in double, and turns that pair in
// all heads of some layers. Neighbouring threads have neighbouring pairs.
#include "key_rerotate.cuh"

#include "token_device.cuh"

namespace auxcore::key_rerotate {
namespace {

using namespace tokens;

constexpr int kTogether = 4;  ///< heads whose loads are under way at once

/// What a thread turns.
struct Turn {
  float cosine, sine;
  int32_t token, first, second;
};

template <class T>
__device__ AUXCORE_TOKEN_INLINE void turn(const Layer& layer, const Turn& own) {
  T* const keys = static_cast<T*>(layer.keys) + own.token * layer.token_step;
  const int32_t strips = layer.batch * layer.heads;
  for (int32_t from = 0; from < strips; from += kTogether) {
    float a[kTogether] = {}, b[kTogether] = {};
    int64_t at[kTogether] = {};
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (from + k >= strips)
        continue;
      at[k] = (from + k) / layer.heads * layer.batch_step + (from + k) % layer.heads * layer.head_step;
      a[k] = load(keys + at[k] + own.first);
      b[k] = load(keys + at[k] + own.second);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (from + k >= strips)
        continue;
      store(keys + at[k] + own.first, product(a[k], own.cosine) - product(b[k], own.sine));
      store(keys + at[k] + own.second, product(b[k], own.cosine) + product(a[k], own.sine));
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_key_rerotate(Arguments arguments) {
  const int64_t unit = int64_t{int32_t(blockIdx.x) / arguments.slices} * kThreads + threadIdx.x;
  const int32_t slice = int32_t(blockIdx.x) % arguments.slices;
  if (unit >= int64_t{arguments.tokens} * arguments.pairs)
    return;
  const int32_t token = int32_t(unit / arguments.pairs), pair = int32_t(unit % arguments.pairs);
  bool stays = true;
  for (int32_t row = 0; row < arguments.rows; ++row)
    stays = stays && arguments.differences[int64_t{row} * arguments.tokens + token] == 0;
  if (stays)
    return;
  const int32_t difference = arguments.differences[int64_t{arguments.row_of[pair]} * arguments.tokens + token];
  Turn own = {0, 0, token, arguments.is_pairs ? 2 * pair : pair, arguments.is_pairs ? 2 * pair + 1 : pair + arguments.pairs};
  sine_cosine(__dmul_rn(double(difference), arguments.frequencies[pair]), own.sine, own.cosine);
  const int32_t last = int32_t(int64_t{arguments.layer_count} * (slice + 1) / arguments.slices);
  for (int32_t i = int32_t(int64_t{arguments.layer_count} * slice / arguments.slices); i < last; ++i) {
    const Layer layer = arguments.layers[i];
    switch (layer.type) {
      case kFloat32:
        turn<float>(layer, own);
        break;
      case kBFloat16:
        turn<bfloat16>(layer, own);
        break;
      default:
        turn<float16>(layer, own);
    }
  }
}
AUXCORE_KERNEL(auxcore_key_rerotate)

}  // namespace auxcore::key_rerotate
