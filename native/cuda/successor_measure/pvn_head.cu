// PvnHead on CUDA: grouping by action, predictions and target values with the TD epilogue, and both gradients. The formulas are in
// src/Kernels/SuccessorMeasure/PvnHead.cs.
//
// Rows are put into groups of one action, so a tile of 32 rows meets one head a task. A block multiplies 32 by 32 results over chunks of 32
// in shared memory; predictions and target values of a tile are formed together, so its errors never leave the block before they are
// gradients. Rows whose action is out of range come last, as a group of their own, whose errors are NaN.
#include "pvn_head.cuh"

#include "td_device.cuh"

namespace auxcore::pvn_head {
namespace {

/// A tile of shared memory; a row is one longer, so that a column is not all in one bank.
using Tile = float[kTile][kTile + 1];

/// Where a tile of rows lies.
struct Place {
  int32_t action;  ///< action_count for rows without one
  int32_t from;    ///< the first place of the grouped order
  int32_t count;   ///< 0 where there is no such tile
};

/// The tile-th tile of rows, counted over the groups.
__device__ __forceinline__ Place place_of(const Arguments& arguments, int32_t tile) {
  for (int32_t action = 0; action <= arguments.action_count; ++action) {
    const int32_t from = arguments.offsets[action], end = arguments.offsets[action + 1];
    const int32_t tiles = (end - from + kTile - 1) / kTile;
    if (tile < tiles) {
      const int32_t first = from + tile * kTile;
      return {action, first, end - first < kTile ? end - first : kTile};
    }
    tile -= tiles;
  }
  return {0, 0, 0};
}

/// The four results of a thread: rows r, r + 16 and columns c, c + 16 of a tile.
struct Sums {
  float value[2][2] = {{0, 0}, {0, 0}};
};

__device__ __forceinline__ int own_row() { return int(threadIdx.x) / 16; }
__device__ __forceinline__ int own_column() { return int(threadIdx.x) % 16; }

/// sums += left · rightᵀ of two tiles in shared memory: row by row for left[i][k] and right[j][k].
__device__ __forceinline__ void add_product(const Tile& left, const Tile& right, Sums& sums) {
#pragma unroll 8
  for (int k = 0; k < kTile; ++k) {
    const float l0 = left[own_row()][k], l1 = left[own_row() + 16][k];
    const float r0 = right[own_column()][k], r1 = right[own_column() + 16][k];
    sums.value[0][0] = fmaf(l0, r0, sums.value[0][0]);
    sums.value[0][1] = fmaf(l0, r1, sums.value[0][1]);
    sums.value[1][0] = fmaf(l1, r0, sums.value[1][0]);
    sums.value[1][1] = fmaf(l1, r1, sums.value[1][1]);
  }
}

/// tile[i][k] = element(i, k), neighbouring threads taking neighbouring k.
template <class Element>
__device__ __forceinline__ void fill_rows(Tile& tile, Element element) {
  for (int i = int(threadIdx.x); i < kTile * kTile; i += kThreads)
    tile[i / kTile][i % kTile] = element(i / kTile, i % kTile);
}

/// tile[i][k] = element(i, k), neighbouring threads taking neighbouring i: for matrices that lie the other way.
template <class Element>
__device__ __forceinline__ void fill_columns(Tile& tile, Element element) {
  for (int i = int(threadIdx.x); i < kTile * kTile; i += kThreads)
    tile[i % kTile][i / kTile] = element(i % kTile, i / kTile);
}

struct IndicatorBody {
  const td::Sets& sets;
  int64_t row;
  int32_t tasks, task;

  template <class Indicator>
  __device__ __forceinline__ float operator()() const {
    return Indicator(sets, row, tasks)(task);
  }
};

__device__ __forceinline__ float indicator_of(const Arguments& arguments, int64_t row, int32_t task) {
  return td::with_indicators(arguments.sets.type, IndicatorBody{arguments.sets, row, arguments.tasks, task});
}

}  // namespace

/// A stable sort by counting: a row's place is the number of rows of lesser actions, and of those of its own before it. Also the offsets.
extern "C" __global__ void __launch_bounds__(kGroupThreads)
    auxcore_pvn_group(const int32_t* actions, int32_t rows, int32_t action_count, int32_t* order, int32_t* offsets) {
  AUXCORE_SHARED(int32_t, keys, kGroupThreads);
  const int64_t own = int64_t{blockIdx.x} * kGroupThreads + threadIdx.x;
  const auto key_of = [&](int64_t row) {
    const int32_t action = actions[row];
    return unsigned(action) < unsigned(action_count) ? action : action_count;
  };
  const int32_t key = own < rows ? key_of(own) : 0;
  int32_t place = 0, begin = 0;
  for (int32_t from = 0; from < rows; from += kGroupThreads) {
    const int32_t row = from + int32_t(threadIdx.x);
    __syncthreads();
    keys[threadIdx.x] = row < rows ? key_of(row) : 0;
    __syncthreads();
    const int32_t count = rows - from < kGroupThreads ? rows - from : kGroupThreads;
    for (int32_t i = 0; i < count; ++i) {
      place += keys[i] < key || (keys[i] == key && from + i < own);
      begin += keys[i] < own;  // for the action whose number is the thread's
    }
  }
  if (own < rows)
    order[place] = int32_t(own);
  if (own <= action_count + 1)
    offsets[own] = begin;
}
AUXCORE_KERNEL(auxcore_pvn_group)

/// Predictions, target values, errors, losses. A block a tile of rows and of tasks.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_pvn_errors(Arguments arguments, int32_t task_tiles) {
  AUXCORE_SHARED(Tile, tiles, 4);
  AUXCORE_SHARED(double, squares, kTile * kTile);
  const int32_t task_tile = int32_t(blockIdx.x) % task_tiles;
  const Place place = place_of(arguments, int32_t(blockIdx.x) / task_tiles);
  if (place.count == 0)
    return;
  const int32_t first_task = task_tile * kTile, features = arguments.feature_count;
  const bool has_action = place.action < arguments.action_count;
  Sums now, next;
  for (int32_t from = 0; from < features && has_action; from += kTile) {
    const auto row_of = [&](const float* matrix, int i, int k) {
      return i < place.count && from + k < features
                 ? matrix[int64_t{arguments.order[place.from + i]} * features + from + k]
                 : 0.0f;
    };
    const auto head_of = [&](const float* matrix, int64_t step, int32_t head, int i, int k) {
      return first_task + i < arguments.tasks && from + k < features
                 ? matrix[((first_task + i) * step + head) * features + from + k]
                 : 0.0f;
    };
    fill_rows(tiles[0], [&](int i, int k) { return row_of(arguments.features, i, k); });
    fill_rows(tiles[1], [&](int i, int k) { return head_of(arguments.weights, arguments.action_count, place.action, i, k); });
    fill_rows(tiles[2], [&](int i, int k) { return row_of(arguments.next_features, i, k); });
    fill_rows(tiles[3], [&](int i, int k) { return head_of(arguments.target_mean, 1, 0, i, k); });
    __syncthreads();
    add_product(tiles[0], tiles[1], now);
    add_product(tiles[2], tiles[3], next);
    __syncthreads();
  }

  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < 2; ++c) {
      const int i = own_row() + 16 * r, j = own_column() + 16 * c;
      float error = 0;
      if (i < place.count && first_task + j < arguments.tasks) {
        const int32_t row = arguments.order[place.from + i], task = first_task + j;
        const float reward = indicator_of(arguments, row, task) * arguments.height;
        const float target = arguments.done[row] == 0 ? fmaf(arguments.discount, next.value[r][c], reward) : reward;
        error = has_action ? now.value[r][c] - target : td::nan();
        arguments.error[int64_t{place.from + i} * arguments.tasks + task] = error * arguments.scale;
      }
      squares[i * kTile + j] = double(error) * double(error);
    }
  __syncthreads();
  const int i = int(threadIdx.x);
  if (i >= place.count)
    return;
  double sum = 0;
  for (int j = 0; j < kTile; ++j)
    sum += squares[i * kTile + j];
  arguments.losses[int64_t{arguments.order[place.from + i]} * task_tiles + task_tile] = sum;
}
AUXCORE_KERNEL(auxcore_pvn_errors)

/// row_losses[b] = share · the sum over a row's tiles.
extern "C" __global__ void __launch_bounds__(kThreads)
    auxcore_pvn_row_losses(const double* losses, int32_t rows, int32_t task_tiles, double share, double* row_losses) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= rows)
    return;
  double sum = 0;
  for (int32_t tile = 0; tile < task_tiles; ++tile)
    sum += losses[row * task_tiles + tile];
  row_losses[row] = sum * share;
}
AUXCORE_KERNEL(auxcore_pvn_row_losses)

/// feature_gradient[row, f] = the sum over tasks of error · W[task, action of the row, f]. A block a tile of rows and of features.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_pvn_feature_gradient(Arguments arguments, int32_t feature_tiles) {
  AUXCORE_SHARED(Tile, tiles, 2);
  const int32_t first = int32_t(blockIdx.x) % feature_tiles * kTile, features = arguments.feature_count;
  const Place place = place_of(arguments, int32_t(blockIdx.x) / feature_tiles);
  if (place.count == 0)
    return;
  const bool has_action = place.action < arguments.action_count;
  Sums sums;
  for (int32_t from = 0; from < arguments.tasks && has_action; from += kTile) {
    fill_rows(tiles[0], [&](int i, int k) {
      return i < place.count && from + k < arguments.tasks
                 ? arguments.error[int64_t{place.from + i} * arguments.tasks + from + k]
                 : 0.0f;
    });
    fill_columns(tiles[1], [&](int j, int k) {
      return first + j < features && from + k < arguments.tasks
                 ? arguments.weights[(int64_t{from + k} * arguments.action_count + place.action) * features + first + j]
                 : 0.0f;
    });
    __syncthreads();
    add_product(tiles[0], tiles[1], sums);
    __syncthreads();
  }
  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < 2; ++c) {
      const int i = own_row() + 16 * r, j = own_column() + 16 * c;
      if (i < place.count && first + j < features)
        arguments.feature_gradient[int64_t{arguments.order[place.from + i]} * features + first + j] =
            has_action ? sums.value[r][c] : td::nan();
    }
}
AUXCORE_KERNEL(auxcore_pvn_feature_gradient)

/// weight_gradient[task, action, f] = the sum over the action's rows of error · feature. A block an action, a tile of tasks and of
/// features.
extern "C" __global__ void __launch_bounds__(kThreads)
    auxcore_pvn_weight_gradient(Arguments arguments, int32_t task_tiles, int32_t feature_tiles) {
  AUXCORE_SHARED(Tile, tiles, 2);
  const int32_t first_feature = int32_t(blockIdx.x) % feature_tiles * kTile, features = arguments.feature_count;
  const int32_t rest = int32_t(blockIdx.x) / feature_tiles;
  const int32_t first_task = rest % task_tiles * kTile, action = rest / task_tiles;
  const int32_t begin = arguments.offsets[action], end = arguments.offsets[action + 1];
  Sums sums;
  for (int32_t from = begin; from < end; from += kTile) {
    fill_columns(tiles[0], [&](int i, int k) {
      return first_task + i < arguments.tasks && from + k < end
                 ? arguments.error[int64_t{from + k} * arguments.tasks + first_task + i]
                 : 0.0f;
    });
    fill_columns(tiles[1], [&](int j, int k) {
      return first_feature + j < features && from + k < end
                 ? arguments.features[int64_t{arguments.order[from + k]} * features + first_feature + j]
                 : 0.0f;
    });
    __syncthreads();
    add_product(tiles[0], tiles[1], sums);
    __syncthreads();
  }
  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < 2; ++c) {
      const int i = own_row() + 16 * r, j = own_column() + 16 * c;
      if (first_task + i < arguments.tasks && first_feature + j < features)
        arguments.weight_gradient[(int64_t{first_task + i} * arguments.action_count + action) * features + first_feature + j] =
            sums.value[r][c];
    }
}
AUXCORE_KERNEL(auxcore_pvn_weight_gradient)

/// Counts and mean errors, by column; errors are taken back from the gradient.
extern "C" __global__ void __launch_bounds__(kThreads)
    auxcore_pvn_columns(Arguments arguments, int32_t* active_counts, float* mean_absolute_errors) {
  AUXCORE_SHARED(double, magnitudes, kThreads);
  AUXCORE_SHARED(float, actives, kThreads);
  constexpr int kStep = kThreads / td::kColumns;
  const int column = int(threadIdx.x) % td::kColumns, part = int(threadIdx.x) / td::kColumns;
  const int64_t task = int64_t{blockIdx.x} * td::kColumns + column;
  double magnitude = 0;
  float active = 0;
  for (int32_t row = part; row < arguments.rows && task < arguments.tasks; row += kStep) {
    active += indicator_of(arguments, row, int32_t(task));
    magnitude += fabsf(arguments.error[int64_t{row} * arguments.tasks + task]);
  }
  magnitudes[threadIdx.x] = magnitude;
  actives[threadIdx.x] = active;
  __syncthreads();
  if (part != 0 || task >= arguments.tasks)
    return;
  double magnitude_sum = 0, active_sum = 0;
  for (int i = 0; i < kStep; ++i) {
    magnitude_sum += magnitudes[i * td::kColumns + column];
    active_sum += actives[i * td::kColumns + column];
  }
  if (active_counts != nullptr)
    active_counts[task] = active_sum != active_sum ? -1 : int32_t(active_sum);
  if (mean_absolute_errors != nullptr)
    mean_absolute_errors[task] = float(magnitude_sum * arguments.tasks);  // mean |error| = sum |gradient| · rows · tasks / rows
}
AUXCORE_KERNEL(auxcore_pvn_columns)

/// mean[task, f] = the mean over actions of weights[task, action, f].
extern "C" __global__ void __launch_bounds__(kThreads)
    auxcore_pvn_mean(const float* weights, int32_t tasks, int32_t actions, int32_t features, float* mean) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= int64_t{tasks} * features)
    return;
  const float* head = weights + at / features * actions * features + at % features;
  float sum = head[0];
  for (int32_t action = 1; action < actions; ++action)
    sum += head[int64_t{action} * features];
  mean[at] = sum * (1.0f / actions);
}
AUXCORE_KERNEL(auxcore_pvn_mean)

}  // namespace auxcore::pvn_head
