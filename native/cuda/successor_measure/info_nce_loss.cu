// InfoNceLoss on CUDA: tiles of logits with a running maximum and sum, then tiles of weights, formed anew. InfoNceLoss.cs has the formulas.
#include "info_nce_loss.cuh"

#include "../device/math.cuh"
#include "pair_tiles.cuh"

namespace auxcore::info_nce {
namespace {

using namespace pairs;

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ bool is_distance(const Batch& batch) { return batch.similarity <= kNegativeSquaredDistance; }

/// The greater of two, NaN where either is.
__device__ __forceinline__ float greater(float a, float b) { return b > a || b != b ? b : a; }

template <class T>
__device__ __forceinline__ pairs::Rows<T> rows_of(const Batch& batch, const void* first) {
  pairs::Rows<T> rows{static_cast<const T*>(first), batch.count, batch.dimension};
  if (is_distance(batch))
    rows.centre = batch.centre;
  return rows;
}

__device__ __forceinline__ float logit_of(const Batch& batch, float dot, float own, float other) {
  if (batch.similarity == kDot)
    return dot * batch.scale;
  if (batch.similarity == kCosine)
    return dot * own * other * batch.scale;
  const float square = fmaf(-2.0f, dot, own + other), held = square < 0 ? 0.0f : square;  // NaN stays NaN
  return batch.similarity == kNegativeDistance ? -sqrtf(held + batch.distance_offset) * batch.scale : -held * batch.scale;
}

/// w such that the own row's gradient gets w · (other - own) of distances, else w · other; of cosines before it is projected.
__device__ __forceinline__ float weight_of(const Batch& batch, float slope, float logit, float other) {
  if (batch.similarity == kNegativeDistance)
    return logit == 0 ? 0.0f : -slope * batch.scale * batch.scale / logit;
  if (batch.similarity == kNegativeSquaredDistance)
    return 2 * slope * batch.scale;
  return batch.similarity == kCosine ? slope * batch.scale * other : slope * batch.scale;
}

/// A sum over the lanes of a warp, in the order of a fixed tree; for every lane. scratch: kWarp places of the warp.
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

/// Over the sixteen threads that have the same own rows.
template <class Combine>
__device__ __forceinline__ float over_others(float value, Combine combine) {
#pragma unroll
  for (int with = kPart / 2; with > 0; with /= 2)
    value = combine(value, __shfl_xor_sync(kAllLanes, value, with));
  return value;
}

}  // namespace

/// The mean of the keys: a block takes kWarp columns, its warps the rows in turn.
template <class T>
__device__ __forceinline__ void centre_columns(const Batch& batch) {
  AUXCORE_SHARED(double, scratch, kThreads);
  const int32_t warp = int32_t(threadIdx.x) / kWarp, lane = int32_t(threadIdx.x) % kWarp;
  const int32_t column = int32_t(blockIdx.x) * kWarp + lane;
  double sum = 0;
  for (int32_t i = warp; i < batch.count && column < batch.dimension; i += kThreads / kWarp)
    sum += load(static_cast<const T*>(batch.keys) + int64_t{i} * batch.dimension + column);
  scratch[threadIdx.x] = sum;
  __syncthreads();
  for (int32_t half = kThreads / kWarp / 2; half > 0; half /= 2) {
    if (warp < half)
      scratch[threadIdx.x] += scratch[threadIdx.x + unsigned(half) * kWarp];
    __syncthreads();
  }
  if (warp == 0 && column < batch.dimension)
    batch.centre[column] = float(scratch[lane] / batch.count);
}

/// A warp a pair (i, i): the terms of its query and its key, and its logit.
template <class T>
__device__ __forceinline__ void prepare_rows(const Batch& batch) {
  AUXCORE_SHARED(double, scratch, kThreads);
  const int32_t warp = int32_t(threadIdx.x) / kWarp, lane = int32_t(threadIdx.x) % kWarp;
  const int32_t i = int32_t(blockIdx.x) * (kThreads / kWarp) + warp;
  if (i >= batch.count)
    return;
  const pairs::Rows<T> queries = rows_of<T>(batch, batch.queries), keys = rows_of<T>(batch, batch.keys);
  const T* query = static_cast<const T*>(batch.queries) + int64_t{i} * batch.dimension;
  const T* key = static_cast<const T*>(batch.keys) + int64_t{i} * batch.dimension;
  double query_norm = 0, key_norm = 0, dot = 0, distance = 0;
  for (int32_t k = lane; k < batch.dimension; k += kWarp) {
    const double q = queries.at(i, k), p = keys.at(i, k), difference = double(load(query + k)) - load(key + k);
    query_norm += q * q;
    key_norm += p * p;
    dot += q * p;
    distance += difference * difference;
  }
  double* own = scratch + warp * kWarp;
  query_norm = warp_sum(query_norm, own, lane);
  key_norm = warp_sum(key_norm, own, lane);
  dot = warp_sum(dot, own, lane);
  distance = warp_sum(distance, own, lane);
  if (lane != 0)
    return;
  const double scale = batch.scale, norms = __dsqrt_rn(query_norm) * __dsqrt_rn(key_norm);
  if (is_distance(batch)) {
    batch.query_terms[i] = float(query_norm);
    batch.key_terms[i] = float(key_norm);
    batch.positives[i] =
        batch.similarity == kNegativeDistance ? -__dsqrt_rn(distance + batch.distance_offset) * scale : -distance * scale;
  } else {
    batch.query_terms[i] = query_norm == 0 ? 0.0f : float(1 / __dsqrt_rn(query_norm));
    batch.key_terms[i] = key_norm == 0 ? 0.0f : float(1 / __dsqrt_rn(key_norm));
    batch.positives[i] = batch.similarity == kDot ? dot * scale : norms == 0 ? 0.0 : dot / norms * scale;
  }
}

/// Maxima and sums of exp(logit - maximum) of a tile of own rows over a segment of the others.
template <class T, bool kOwnQueries>
__device__ __forceinline__ void log_sum_tile(const Batch& batch) {
  AUXCORE_SHARED(float, own_block, kDepth * kPitch);
  AUXCORE_SHARED(float, other_block, kDepth * kPitch);
  const Shared shared = {own_block, other_block, nullptr, nullptr};
  const int32_t n = batch.count;
  const int32_t tile = int32_t(blockIdx.x) / batch.segments, segment = int32_t(blockIdx.x) % batch.segments, own_from = tile * kTile;
  const pairs::Rows<T> own = rows_of<T>(batch, kOwnQueries ? batch.queries : batch.keys);
  const pairs::Rows<T> other = rows_of<T>(batch, kOwnQueries ? batch.keys : batch.queries);
  const float* own_terms = kOwnQueries ? batch.query_terms : batch.key_terms;
  const float* other_terms = kOwnQueries ? batch.key_terms : batch.query_terms;
  float maximum[4], sum[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    maximum[r] = -infinity();
    sum[r] = 0;
  }
  const Segment others(segment, batch.segments, n);
  for (int32_t other_tile = others.begin; other_tile < others.end; ++other_tile) {
    const int32_t other_from = other_tile * kTile;
    Square logits;
    dot_products(own, own_from, other, other_from, shared, logits);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int32_t i = own_from + own_row() + r;
      float largest = -infinity();
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int32_t j = other_from + other_row() + c;
        float logit = -infinity();
        if (i < n && j < n) {
          if (i != j)
            logit = logit_of(batch, logits.at[r][c], own_terms[i], other_terms[j]);
          else if (!batch.excludes_positives)
            logit = float(batch.positives[i]);
        }
        logits.at[r][c] = logit;
        largest = greater(largest, logit);
      }
      largest = greater(maximum[r], over_others(largest, [](float a, float b) { return greater(a, b); }));
      const float shift = largest == -infinity() ? 0.0f : largest;
      float added = sum[r] * exp_of(maximum[r] - shift);
#pragma unroll
      for (int c = 0; c < 4; ++c)
        added += exp_of(logits.at[r][c] - shift);
      sum[r] = added;
      maximum[r] = largest;
    }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int32_t i = own_from + own_row() + r;
    const float all = over_others(sum[r], [](float a, float b) { return a + b; });
    if (i < n && other_row() == 0) {
      batch.maxima[int64_t{segment} * n + i] = maximum[r];
      batch.sums[int64_t{segment} * n + i] = all;
    }
  }
}

/// A thread a row: segments' maxima and sums become a logsumexp.
__device__ __forceinline__ void merge_log_sums(const Batch& batch, double* log_sums) {
  const int32_t i = int32_t(blockIdx.x) * kThreads + int32_t(threadIdx.x);
  if (i >= batch.count)
    return;
  float largest = -infinity();
  for (int32_t segment = 0; segment < batch.segments; ++segment)
    largest = greater(largest, batch.maxima[int64_t{segment} * batch.count + i]);
  double sum = 0;
  for (int32_t segment = 0; segment < batch.segments; ++segment) {
    const int64_t at = int64_t{segment} * batch.count + i;
    sum += double(batch.sums[at]) * exp_of(batch.maxima[at] - largest);
  }
  log_sums[i] = largest + log_of(sum);
}

/// A thread a pair (i, i): the weight of its logit; and logsumexps as tiles of weights take them.
__device__ __forceinline__ void weigh_positive(const Batch& batch) {
  const int32_t i = int32_t(blockIdx.x) * kThreads + int32_t(threadIdx.x);
  if (i >= batch.count)
    return;
  const double logit = batch.positives[i], row = batch.row_log_sums[i], factor = (1 + 2 * batch.penalty * row) / batch.count;
  double slope = -(batch.is_symmetric ? 2.0 : 1.0) / batch.count;
  if (!batch.excludes_positives)
    slope += double(exp_of(float(logit - row))) * factor;
  if (batch.is_symmetric) {
    const double column = batch.column_log_sums[i];
    if (!batch.excludes_positives)
      slope += double(exp_of(float(logit - column))) / batch.count;
    batch.column_logs[i] = float(column);
  }
  batch.positive_weights[i] = weight_of(batch, float(slope), float(logit), 1.0f);
  batch.row_logs[i] = float(row);
  batch.row_factors[i] = float(factor);
}

/// Weights of a tile of own rows and a segment of the others, and what they add to the own rows' gradients. Positive pairs are left out.
template <class T, bool kOwnQueries>
__device__ __forceinline__ void weight_tile(const Batch& batch) {
  AUXCORE_PAIR_SHARED(shared);
  const int32_t n = batch.count;
  const int32_t tile = int32_t(blockIdx.x) / batch.segments, segment = int32_t(blockIdx.x) % batch.segments, own_from = tile * kTile;
  const int64_t matrix = int64_t{n} * batch.dimension;
  const pairs::Rows<T> own = rows_of<T>(batch, kOwnQueries ? batch.queries : batch.keys);
  const pairs::Rows<T> other = rows_of<T>(batch, kOwnQueries ? batch.keys : batch.queries);
  const float* own_terms = kOwnQueries ? batch.query_terms : batch.key_terms;
  const float* other_terms = kOwnQueries ? batch.key_terms : batch.query_terms;
  float* gradient = kOwnQueries ? batch.query_gradient : batch.key_gradient;
  float* sums = segment == 0 ? gradient : (kOwnQueries ? batch.query_sums : batch.key_sums) + int64_t{segment - 1} * matrix;
  const float each = 1.0f / float(n);
  float total[4] = {0, 0, 0, 0};
  const Segment others(segment, batch.segments, n);
  for (int32_t other_tile = others.begin; other_tile < others.end; ++other_tile) {
    const int32_t other_from = other_tile * kTile;
    Square weights;
    dot_products(own, own_from, other, other_from, shared, weights);
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int32_t at_own = own_from + own_row() + r, at_other = other_from + other_row() + c;
        float weight = 0;
        if (at_own < n && at_other < n && at_own != at_other) {
          const int32_t query = kOwnQueries ? at_own : at_other, key = kOwnQueries ? at_other : at_own;
          const float logit = logit_of(batch, weights.at[r][c], own_terms[at_own], other_terms[at_other]);
          float slope = exp_of(logit - batch.row_logs[query]) * batch.row_factors[query];
          if (batch.is_symmetric)
            slope = fmaf(exp_of(logit - batch.column_logs[key]), each, slope);
          weight = weight_of(batch, slope, logit, other_terms[at_other]);
        }
        weights.at[r][c] = weight;
        total[r] += weight;
      }
    share_weights(weights, shared);
    add_weighted(other, other_from, sums, own_from, n, other_tile == others.begin, shared);
  }
  float* weight_sums = (kOwnQueries ? batch.query_weights : batch.key_weights) + int64_t{segment} * n;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int32_t i = own_from + own_row() + r;
    const float all = over_others(total[r], [](float a, float b) { return a + b; });
    if (i < n && other_row() == 0)
      weight_sums[i] = all;
  }
}

/// A warp a row of one gradient: what segments left, the positive pair, and what the similarity asks for.
template <class T, bool kOwnQueries>
__device__ __forceinline__ void finish_row(const Batch& batch) {
  AUXCORE_SHARED(double, scratch, kThreads);
  const int32_t warp = int32_t(threadIdx.x) / kWarp, lane = int32_t(threadIdx.x) % kWarp;
  const int32_t i = int32_t(blockIdx.x) * (kThreads / kWarp) + warp, n = batch.count, d = batch.dimension;
  if (i >= n)
    return;
  const int64_t matrix = int64_t{n} * d, row = int64_t{i} * d;
  const T* own = static_cast<const T*>(kOwnQueries ? batch.queries : batch.keys) + row;
  const T* other = static_cast<const T*>(kOwnQueries ? batch.keys : batch.queries) + row;
  float* gradient = (kOwnQueries ? batch.query_gradient : batch.key_gradient) + row;
  const float* sums = kOwnQueries ? batch.query_sums : batch.key_sums;
  const float* weights = kOwnQueries ? batch.query_weights : batch.key_weights;
  const float own_term = (kOwnQueries ? batch.query_terms : batch.key_terms)[i];
  const float other_term = (kOwnQueries ? batch.key_terms : batch.query_terms)[i];
  float weight = 0;
  for (int32_t segment = 0; segment < batch.segments; ++segment)
    weight += weights[int64_t{segment} * n + i];
  const bool of_distance = is_distance(batch), of_cosine = batch.similarity == kCosine;
  const float positive = batch.positive_weights[i] * (of_cosine ? other_term : 1.0f);

  double along = 0;
  for (int32_t k = lane; k < d; k += kWarp) {
    float sum = gradient[k];
    for (int32_t segment = 1; segment < batch.segments; ++segment)
      sum += sums[int64_t{segment - 1} * matrix + row + k];
    const float here = load(own + k), there = load(other + k);
    if (of_distance)
      sum = fmaf(positive, there - here, fmaf(-weight, here - batch.centre[k], sum));
    else
      sum = fmaf(positive, there, sum);
    gradient[k] = sum;
    along += double(sum) * here * own_term;
  }
  if (!of_cosine)
    return;
  // What is along the row itself changes its length only.
  const float projection = float(warp_sum(along, scratch + warp * kWarp, lane));
  for (int32_t k = lane; k < d; k += kWarp)
    gradient[k] = own_term * fmaf(-projection * own_term, load(own + k), gradient[k]);
}

/// Both parts of the loss, by one block.
__device__ __forceinline__ void sum_loss(const Batch& batch) {
  AUXCORE_SHARED(double, scratch, kThreads);
  double contrast = 0, penalty = 0;
  for (int32_t i = int32_t(threadIdx.x); i < batch.count; i += kThreads) {
    const double log_sum = batch.row_log_sums[i];
    contrast += log_sum - batch.positives[i];
    if (batch.is_symmetric)
      contrast += batch.column_log_sums[i] - batch.positives[i];
    penalty += batch.penalty * log_sum * log_sum;
  }
  contrast = block_sum(contrast, scratch);
  penalty = block_sum(penalty, scratch);
  if (threadIdx.x == 0) {
    batch.loss[0] = contrast / batch.count;
    batch.loss[1] = penalty / batch.count;
  }
}

#define AUXCORE_INFO_NCE_KERNEL(name, body)                                                                   \
  extern "C" __global__ void __launch_bounds__(kThreads) auxcore_info_nce_##name(Batch batch) { body; }       \
  AUXCORE_KERNEL(auxcore_info_nce_##name)

#define AUXCORE_INFO_NCE_KERNELS(suffix, T)                                                 \
  AUXCORE_INFO_NCE_KERNEL(centre_##suffix, centre_columns<T>(batch))                        \
  AUXCORE_INFO_NCE_KERNEL(prepare_##suffix, prepare_rows<T>(batch))                         \
  AUXCORE_INFO_NCE_KERNEL(row_sums_##suffix, (log_sum_tile<T, true>(batch)))                \
  AUXCORE_INFO_NCE_KERNEL(column_sums_##suffix, (log_sum_tile<T, false>(batch)))            \
  AUXCORE_INFO_NCE_KERNEL(query_weights_##suffix, (weight_tile<T, true>(batch)))            \
  AUXCORE_INFO_NCE_KERNEL(key_weights_##suffix, (weight_tile<T, false>(batch)))             \
  AUXCORE_INFO_NCE_KERNEL(finish_queries_##suffix, (finish_row<T, true>(batch)))            \
  AUXCORE_INFO_NCE_KERNEL(finish_keys_##suffix, (finish_row<T, false>(batch)))

AUXCORE_INFO_NCE_KERNELS(f32, float)
AUXCORE_INFO_NCE_KERNELS(bf16, bfloat16)
AUXCORE_INFO_NCE_KERNEL(merge_rows, merge_log_sums(batch, batch.row_log_sums))
AUXCORE_INFO_NCE_KERNEL(merge_columns, merge_log_sums(batch, batch.column_log_sums))
AUXCORE_INFO_NCE_KERNEL(positives, weigh_positive(batch))
AUXCORE_INFO_NCE_KERNEL(loss, sum_loss(batch))

#undef AUXCORE_INFO_NCE_KERNELS
#undef AUXCORE_INFO_NCE_KERNEL

}  // namespace auxcore::info_nce
