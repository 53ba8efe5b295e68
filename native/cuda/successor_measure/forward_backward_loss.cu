// ForwardBackwardLoss on CUDA: two heads or more, from d x d matrices (Gram form) or from tiles of the n x n ones. The formulas are in
// ForwardBackwardLoss.cs. Inputs are float32 or bfloat16; Gram matrices, diagonals and losses are summed in float64, because the loss is a
// small difference of large sums as learning converges.
#include "forward_backward_loss.cuh"
#include "pair_tiles.cuh"

namespace auxcore::forward_backward {
namespace {

using namespace pairs;

__device__ __forceinline__ double pairs_of(const Batch& batch) { return double(batch.count) * (batch.count - 1.0); }

template <class T>
__device__ __forceinline__ pairs::Rows<T> rows_of(const void* first, const Batch& batch, int32_t head = 0) {
  return {static_cast<const T*>(first) + int64_t{head} * batch.count * batch.dimension, batch.count, batch.dimension};
}

/// The rows of a head of the target, multiplied by the discount; not read where the transition is terminal.
template <class T>
__device__ __forceinline__ pairs::Rows<T> target_rows_of(const Batch& batch, int32_t head) {
  pairs::Rows<T> rows = rows_of<T>(batch.target_forward, batch, head);
  rows.factors = batch.discounts;
  return rows;
}

/// A sum over the lanes of a warp, in the order of a fixed tree; for lane 0 only. scratch: kWarp places of the warp.
__device__ __forceinline__ double warp_sum(double value, double* scratch, int32_t lane) {
  scratch[lane] = value;
  __syncwarp();
  for (int32_t half = kWarp / 2; half > 0; half /= 2) {
    if (lane < half)
      scratch[lane] += scratch[lane + half];
    __syncwarp();
  }
  const double sum = scratch[0];
  __syncwarp();
  return sum;
}

__device__ __forceinline__ float lesser(float known, float value) { return value < known || value != value ? value : known; }

/// The heads' one target of some numbers that are met head by head. Disagreement is summed by who has all pairs.
struct Combined {
  double sum = 0, least = 0, disagreement = 0;

  __device__ __forceinline__ double result(const Batch& batch) const {
    if (batch.heads == 1)
      return sum;
    return batch.target == kMinimum ? least : sum / batch.heads + (batch.target == kPenalised ? batch.penalty * disagreement : 0.0);
  }
};

}  // namespace

/// A warp a row: the discount, the diagonals, and, for the Gram form, the row of the target.
template <class T>
__device__ __forceinline__ void prepare_rows(const Batch& batch) {
  AUXCORE_SHARED(double, scratch, kThreads);
  AUXCORE_SHARED(double, head_targets, kThreads / kWarp * kMostHeads);
  const int32_t warp = int32_t(threadIdx.x) / kWarp, lane = int32_t(threadIdx.x) % kWarp;
  const int32_t i = int32_t(blockIdx.x) * (kThreads / kWarp) + warp, d = batch.dimension;
  if (i >= batch.count)
    return;
  const float discount = batch.done[i] != 0 ? 0.0f : batch.discount;
  const int64_t matrix = int64_t{batch.count} * d, row = int64_t{i} * d;
  const T* b = static_cast<const T*>(batch.backward) + row;
  const T* b_bar = static_cast<const T*>(batch.target_backward) + row;

  double norm = 0;
  for (int32_t k = lane; k < d; k += kWarp)
    norm += double(load(b + k)) * load(b + k);
  norm = warp_sum(norm, scratch + warp * kWarp, lane);
  for (int32_t e = 0; e < batch.heads; ++e) {
    const T* f = static_cast<const T*>(batch.forward) + e * matrix + row;
    double product = 0;
    for (int32_t k = lane; k < d; k += kWarp)
      product += double(load(f + k)) * load(b + k);
    product = warp_sum(product, scratch + warp * kWarp, lane);
    if (lane == 0)
      batch.products[int64_t{e} * batch.count + i] = product;
  }

  double target = 0;
  if (batch.is_gram) {
    // The row as the products will meet it, rounded.
    for (int32_t k = lane; k < d; k += kWarp) {
      double sum = 0;
      for (int32_t e = 0; discount != 0 && e < batch.heads; ++e)
        sum += load(static_cast<const T*>(batch.target_forward) + e * matrix + row + k);
      const float mean = discount != 0 ? float(sum * discount / batch.heads) : 0.0f;
      batch.target_rows[row + k] = mean;
      target += double(mean) * load(b_bar + k);
    }
    target = warp_sum(target, scratch + warp * kWarp, lane);
  } else if (discount != 0) {
    Combined combined;
    for (int32_t e = 0; e < batch.heads; ++e) {
      const T* f_bar = static_cast<const T*>(batch.target_forward) + e * matrix + row;
      double own = 0;
      for (int32_t k = lane; k < d; k += kWarp)
        own += double(load(f_bar + k)) * load(b_bar + k);
      own = warp_sum(own, scratch + warp * kWarp, lane);
      double* known = head_targets + warp * kMostHeads;
      combined.sum += own;
      combined.least = e == 0 || own < combined.least || own != own ? own : combined.least;
      for (int32_t other = 0; other < e; ++other)
        combined.disagreement += own < known[other] ? known[other] - own : own - known[other];
      __syncwarp();
      if (lane == 0)
        known[e] = own;
      __syncwarp();
    }
    target = discount * combined.result(batch);
  }
  if (lane == 0) {
    batch.discounts[i] = discount;
    batch.norms[i] = norm;
    batch.targets[i] = target;
  }
}

/// One tile of one Gram matrix over one slice of the rows, in float64.
template <class T>
__device__ __forceinline__ void gram_tile(const Batch& batch, int32_t grams) {
  AUXCORE_SHARED(double, left, kDepth * kPitch);
  AUXCORE_SHARED(double, right, kDepth * kPitch);
  const int32_t d = batch.dimension, tiles = (d + kTile - 1) / kTile;
  int32_t block = int32_t(blockIdx.x);
  const int32_t column_tile = block % tiles, row_tile = block / tiles % tiles;
  block /= tiles * tiles;
  const int32_t gram = block % grams, slice = block / grams;
  if (gram < kSymmetricGrams && column_tile < row_tile)
    return;
  const int64_t matrix = int64_t{batch.count} * d;
  const int32_t begin = int32_t(int64_t{batch.count} * slice / batch.slices);
  const int32_t end = int32_t(int64_t{batch.count} * (slice + 1) / batch.slices);

  double sum[4][4] = {};
  for (int32_t e = 0; e < (gram == kForward ? batch.heads : 1); ++e) {
    for (int32_t from = begin; from < end; from += kDepth) {
      for (int32_t at = int32_t(threadIdx.x); at < kDepth * kTile; at += kThreads) {
        const int32_t k = at / kTile, column = at % kTile, i = from + k;
        const int32_t l = row_tile * kTile + column, r = column_tile * kTile + column;
        const auto element = [&](bool is_left, int32_t c) -> double {
          if (i >= end || c >= d)
            return 0;
          const int64_t place = int64_t{i} * d + c;
          if (gram == kForward)
            return load(static_cast<const T*>(batch.forward) + e * matrix + place);
          if (gram == kTarget || (gram == kForwardCross && is_left))
            return batch.target_rows[place];
          if (gram == kTargetBackward || (gram == kBackwardCross && is_left))
            return load(static_cast<const T*>(batch.target_backward) + place);
          if (gram == kForwardCross) {
            double all = 0;
            for (int32_t head = 0; head < batch.heads; ++head)
              all += load(static_cast<const T*>(batch.forward) + head * matrix + place);
            return all;
          }
          return load(static_cast<const T*>(batch.backward) + place);
        };
        left[k * kPitch + column] = element(true, l);
        right[k * kPitch + column] = element(false, r);
      }
      __syncthreads();
#pragma unroll 4
      for (int32_t k = 0; k < kDepth; ++k)
#pragma unroll
        for (int32_t r = 0; r < 4; ++r)
#pragma unroll
          for (int32_t c = 0; c < 4; ++c)
            sum[r][c] += left[k * kPitch + own_row() + r] * right[k * kPitch + other_row() + c];
      __syncthreads();
    }
  }

  double* to = batch.grams + (int64_t{slice} * grams + gram) * d * d;
#pragma unroll
  for (int32_t r = 0; r < 4; ++r)
#pragma unroll
    for (int32_t c = 0; c < 4; ++c) {
      const int32_t row = row_tile * kTile + own_row() + r, column = column_tile * kTile + other_row() + c;
      if (row < d && column < d)
        to[int64_t{row} * d + column] = sum[r][c];
    }
}

/// A thread an entry of the Gram matrices: the sum over slices, the operands of the gradients, the entry's share of the loss.
__device__ __forceinline__ void reduce_grams(const Batch& batch, int32_t grams) {
  AUXCORE_SHARED(double, scratch, kThreads);
  const int32_t d = batch.dimension;
  const int64_t entries = int64_t{d} * d, at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  double squares = 0, orthogonal = 0;
  if (at < entries) {
    const int32_t row = int32_t(at / d), column = int32_t(at % d);
    const int64_t upper = row / kTile <= column / kTile ? at : int64_t{column} * d + row, transposed = int64_t{column} * d + row;
    const auto entry = [&](int32_t gram) -> double {
      double sum = 0;
      for (int32_t slice = 0; slice < batch.slices; ++slice)
        sum += batch.grams[(int64_t{slice} * grams + gram) * entries + (gram < kSymmetricGrams ? upper : at)];
      return sum;
    };
    const double backward = entry(kBackward), scale = 1 / pairs_of(batch);
    orthogonal = backward * backward;
    double forward = 0;
    if (batch.is_gram) {
      const double forward_cross = entry(kForwardCross), backward_cross = entry(kBackwardCross);
      forward = entry(kForward);
      squares = forward * backward - 2 * forward_cross * backward_cross + batch.heads * entry(kTarget) * entry(kTargetBackward);
      batch.operands[kOfForward * entries + at] = float(backward * scale);
      batch.operands[kOfTarget * entries + transposed] = float(-backward_cross * scale);
      batch.operands[kOfTargetBackward * entries + transposed] = float(-forward_cross * scale);
    }
    batch.operands[kOfBackward * entries + at] = float((forward + 2 * batch.orthonormality * backward) * scale);
  }
  const double all_squares = block_sum(squares, scratch), all_orthogonal = block_sum(orthogonal, scratch);
  if (threadIdx.x == 0) {
    if (batch.is_gram)
      batch.sums[blockIdx.x] = all_squares;
    batch.sums[batch.square_blocks + blockIdx.x] = all_orthogonal;
  }
}

/// One head's targets of a tile of pairs. With own rows of F, the others are of B; else the other way round.
template <class T, bool kOwnForward>
__device__ __forceinline__ void head_targets(
    const Batch& batch, int32_t head, int32_t own_from, int32_t other_from, const Shared& shared, Square& dots) {
  const pairs::Rows<T> f = target_rows_of<T>(batch, head), b = rows_of<T>(batch.target_backward, batch);
  dot_products(kOwnForward ? f : b, own_from, kOwnForward ? b : f, other_from, shared, dots);
}

/// The heads' one target of a tile of pairs.
template <class T, bool kOwnForward>
__device__ __forceinline__ void combine_targets(
    const Batch& batch, int32_t own_from, int32_t other_from, const Shared& shared, Square& target) {
  Square first, disagreement;
  head_targets<T, kOwnForward>(batch, 0, own_from, other_from, shared, first);
  target = first;
  disagreement.clear();
  for (int32_t e = 1; e < batch.heads; ++e) {
    Square own;
    head_targets<T, kOwnForward>(batch, e, own_from, other_from, shared, own);
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        target.at[r][c] = batch.target == kMinimum ? lesser(target.at[r][c], own.at[r][c]) : target.at[r][c] + own.at[r][c];
        disagreement.at[r][c] += fabsf(own.at[r][c] - first.at[r][c]);
      }
    // Heads between the first and this one are formed again: keeping them would take more registers than there are.
    for (int32_t other = 1; batch.target == kPenalised && other < e; ++other) {
      Square known;
      head_targets<T, kOwnForward>(batch, other, own_from, other_from, shared, known);
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          disagreement.at[r][c] += fabsf(own.at[r][c] - known.at[r][c]);
    }
  }
  const float mean = batch.target == kMinimum ? 1.0f : 1.0f / float(batch.heads);
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      target.at[r][c] *= mean;
      if (batch.target == kPenalised)
        target.at[r][c] = fmaf(batch.penalty, disagreement.at[r][c], target.at[r][c]);
    }
}

/// Differences of the pairs of a tile of own rows and a segment of the others, and what they add to the own rows' gradients.
template <class T, bool kOwnForward>
__device__ __forceinline__ void pair_tiles(const Batch& batch) {
  AUXCORE_PAIR_SHARED(shared);
  AUXCORE_SHARED(double, scratch, kThreads);
  const int32_t n = batch.count;
  const int32_t tile = int32_t(blockIdx.x) / batch.segments, segment = int32_t(blockIdx.x) % batch.segments, own_from = tile * kTile;
  const int64_t matrix = int64_t{n} * batch.dimension;
  const Segment others(segment, batch.segments, n);
  double squares = 0;
  for (int32_t other_tile = others.begin; other_tile < others.end; ++other_tile) {
    const int32_t other_from = other_tile * kTile;
    Square target;
    combine_targets<T, kOwnForward>(batch, own_from, other_from, shared, target);
    for (int32_t e = 0; e < batch.heads; ++e) {
      const pairs::Rows<T> f = rows_of<T>(batch.forward, batch, e), b = rows_of<T>(batch.backward, batch);
      Square difference;
      dot_products(kOwnForward ? f : b, own_from, kOwnForward ? b : f, other_from, shared, difference);
      float tile_squares = 0;
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int32_t own = own_from + own_row() + r, other = other_from + other_row() + c;
          const bool counts = own != other && own < n && other < n;
          const float value = counts ? difference.at[r][c] - target.at[r][c] : 0.0f;
          difference.at[r][c] = value;
          tile_squares = fmaf(value, value, tile_squares);
        }
      squares += tile_squares;
      share_weights(difference, shared);
      if constexpr (kOwnForward) {
        float* sums = segment == 0 ? batch.forward_gradient : batch.forward_sums + int64_t{segment - 1} * batch.heads * matrix;
        add_weighted(b, other_from, sums + e * matrix, own_from, n, other_tile == others.begin, shared);
      } else {
        float* sums = segment == 0 ? batch.backward_gradient : batch.backward_sums + int64_t{segment - 1} * matrix;
        add_weighted(f, other_from, sums, own_from, n, other_tile == others.begin && e == 0, shared);
      }
    }
  }
  if constexpr (kOwnForward) {
    const double all = block_sum(squares, scratch);
    if (threadIdx.x == 0)
      batch.sums[blockIdx.x] = all;
  }
}

/// A tile of one gradient: of head job, or of B. Products with d x d matrices, sums that tiles left, and diagonals.
template <class T>
__device__ __forceinline__ void gradient_tile(const Batch& batch) {
  AUXCORE_SHARED(float, own, kDepth * kPitch);
  AUXCORE_SHARED(float, other, kDepth * kPitch);
  const Shared shared = {own, other, nullptr, nullptr};
  const int32_t n = batch.count, d = batch.dimension, column_tiles = (d + kTile - 1) / kTile, row_tiles = (n + kTile - 1) / kTile;
  int32_t block = int32_t(blockIdx.x);
  const int32_t column_from = block % column_tiles * kTile, row_from = block / column_tiles % row_tiles * kTile;
  const int32_t job = block / column_tiles / row_tiles;
  const bool of_backward = job == batch.heads;
  const int64_t matrix = int64_t{n} * d, entries = int64_t{d} * d;
  const auto operand = [&](int32_t which) { return pairs::Rows<float>{batch.operands + which * entries, d, d}; };

  Square total, more;
  total.clear();
  more.clear();
  if (of_backward)
    dot_products(rows_of<T>(batch.backward, batch), row_from, operand(kOfBackward), column_from, shared, total);
  if (batch.is_gram && of_backward)
    dot_products(rows_of<T>(batch.target_backward, batch), row_from, operand(kOfTargetBackward), column_from, shared, more);
  if (batch.is_gram && !of_backward) {
    dot_products(rows_of<T>(batch.forward, batch, job), row_from, operand(kOfForward), column_from, shared, total);
    dot_products(pairs::Rows<float>{batch.target_rows, n, d}, row_from, operand(kOfTarget), column_from, shared, more);
  }

  const double scale = 1 / pairs_of(batch), diagonal = batch.diagonal_weight / n;
  for (int32_t r = 0; r < 4; ++r) {
    const int32_t i = row_from + own_row() + r;
    if (i >= n)
      continue;
    const auto weight_of = [&](int32_t head) {
      const double difference = batch.is_gram ? batch.products[int64_t{head} * n + i] - batch.targets[i] : 0.0;
      return float(difference * scale + diagonal);
    };
    const float norm_weight = float(2 * batch.orthonormality * (batch.norms[i] * scale + 1.0 / n));
#pragma unroll
    for (int32_t c = 0; c < 4; ++c) {
      const int32_t column = column_from + other_row() + c;
      if (column >= d)
        continue;
      const int64_t at = int64_t{i} * d + column;
      const float b = load(static_cast<const T*>(batch.backward) + at);
      float* to = (of_backward ? batch.backward_gradient : batch.forward_gradient + job * matrix) + at;
      // A loop over r that is not unrolled would keep the squares on the stack.
      float value = 0;
#pragma unroll
      for (int32_t row = 0; row < 4; ++row)
        value = row == r ? total.at[row][c] + more.at[row][c] : value;
      if (!batch.is_gram) {
        float sum = *to;
        for (int32_t segment = 1; segment < batch.segments; ++segment)
          sum += of_backward ? batch.backward_sums[int64_t{segment - 1} * matrix + at]
                             : batch.forward_sums[(int64_t{segment - 1} * batch.heads + job) * matrix + at];
        value = fmaf(sum, float(scale), value);
      }
      if (of_backward) {
        for (int32_t e = 0; e < batch.heads; ++e)
          value = fmaf(-weight_of(e), load(static_cast<const T*>(batch.forward) + e * matrix + at), value);
        value = fmaf(-norm_weight, b, value);
      } else {
        value = fmaf(-weight_of(job), b, value);
      }
      *to = value;
    }
  }
}

/// The four parts of the loss, by one block.
__device__ __forceinline__ void sum_loss(const Batch& batch) {
  AUXCORE_SHARED(double, scratch, kThreads);
  double squares = 0, orthogonal = 0, diagonal_squares = 0, diagonal = 0, norms = 0, squared_norms = 0;
  for (int32_t i = int32_t(threadIdx.x); i < batch.square_blocks; i += kThreads)
    squares += batch.sums[i];
  for (int32_t i = int32_t(threadIdx.x); i < batch.gram_blocks; i += kThreads)
    orthogonal += batch.sums[batch.square_blocks + i];
  for (int32_t i = int32_t(threadIdx.x); i < batch.count; i += kThreads) {
    norms += batch.norms[i];
    squared_norms += batch.norms[i] * batch.norms[i];
    for (int32_t e = 0; e < batch.heads; ++e) {
      const double product = batch.products[int64_t{e} * batch.count + i], difference = product - batch.targets[i];
      diagonal_squares += difference * difference;
      diagonal += batch.is_difference ? difference : product;
    }
  }
  squares = block_sum(squares, scratch);
  orthogonal = block_sum(orthogonal, scratch);
  diagonal_squares = block_sum(diagonal_squares, scratch);
  diagonal = block_sum(diagonal, scratch);
  norms = block_sum(norms, scratch);
  squared_norms = block_sum(squared_norms, scratch);
  if (threadIdx.x != 0)
    return;
  const double off_diagonal = batch.is_gram ? squares - diagonal_squares : squares, apart = orthogonal - squared_norms;
  const double pairs = pairs_of(batch);
  batch.loss[0] = (off_diagonal < 0 ? 0 : off_diagonal) / (2 * pairs);  // NaN stays NaN
  batch.loss[1] = -batch.diagonal_weight * diagonal / batch.count;
  batch.loss[2] = batch.orthonormality * (apart < 0 ? 0 : apart) / (2 * pairs);
  batch.loss[3] = -batch.orthonormality * norms / batch.count;
}

#define AUXCORE_FB_KERNEL(name, body)                                                                       \
  extern "C" __global__ void __launch_bounds__(kThreads) auxcore_fb_##name(Batch batch, int32_t grams) {    \
    (void)grams;                                                                                            \
    body;                                                                                                   \
  }                                                                                                         \
  AUXCORE_KERNEL(auxcore_fb_##name)

AUXCORE_FB_KERNEL(prepare_f32, prepare_rows<float>(batch))
AUXCORE_FB_KERNEL(prepare_bf16, prepare_rows<bfloat16>(batch))
AUXCORE_FB_KERNEL(gram_f32, gram_tile<float>(batch, grams))
AUXCORE_FB_KERNEL(gram_bf16, gram_tile<bfloat16>(batch, grams))
AUXCORE_FB_KERNEL(reduce, reduce_grams(batch, grams))
AUXCORE_FB_KERNEL(forward_tiles_f32, (pair_tiles<float, true>(batch)))
AUXCORE_FB_KERNEL(forward_tiles_bf16, (pair_tiles<bfloat16, true>(batch)))
AUXCORE_FB_KERNEL(backward_tiles_f32, (pair_tiles<float, false>(batch)))
AUXCORE_FB_KERNEL(backward_tiles_bf16, (pair_tiles<bfloat16, false>(batch)))
AUXCORE_FB_KERNEL(gradients_f32, gradient_tile<float>(batch))
AUXCORE_FB_KERNEL(gradients_bf16, gradient_tile<bfloat16>(batch))
AUXCORE_FB_KERNEL(loss, sum_loss(batch))

#undef AUXCORE_FB_KERNEL

}  // namespace auxcore::forward_backward
