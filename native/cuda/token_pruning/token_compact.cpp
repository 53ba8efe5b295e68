// TokenCompact: checks, the table of tensors that lie alike, launches. The definitions are in TokenCompact.cs, the kernel in
// token_compact.cu.
#include "token_compact.cuh"

#include <algorithm>
#include <tuple>
#include <vector>

#include "token_arguments.h"

namespace auxcore::token_compact {
namespace {

constexpr const char* kOp = "TokenCompact";

AUXCORE_DECLARE_IMAGE(token_pruning);
const Kernel kRows{kOp, &image_token_pruning, "auxcore_token_rows"};

enum class Direction { kForward, kBackward };

constexpr int64_t kMostBytes = int64_t{1} << 50;  ///< of a tensor: more than there is, and far from overflowing

/// a · b + c, held below what could overflow later.
int64_t reach(const char* what, int64_t tensor, int64_t count, int64_t step, int64_t so_far) {
  if (step < 0 || (count > 1 && step > (kMostBytes - so_far) / (count - 1)))
    fail(AUXCORE_E_ARGUMENT, "tensors[%lld].%s: %lld times a step of %lld bytes is no tensor", static_cast<long long>(tensor), what,
        static_cast<long long>(count), static_cast<long long>(step));
  return so_far + (count > 1 ? (count - 1) * step : 0);
}

bool is_in_place(const auxcore_token_rows& rows) {
  bool alike = rows.source == rows.destination && rows.source_step == rows.destination_step;
  for (int i = 0; i < kDimensions; ++i)
    alike = alike && (rows.sizes[i] <= 1 || rows.source_steps[i] == rows.destination_steps[i]);
  return alike;
}

int64_t strips_of(const auxcore_token_rows& rows) { return rows.sizes[0] * rows.sizes[1] * rows.sizes[2]; }

/// Bytes from the first to the last, both counted; 0 where there is nothing.
int64_t extent(const char* what, int64_t number, const auxcore_token_rows& rows, int64_t tokens, int64_t step, const int64_t* steps) {
  if (tokens == 0 || rows.row_bytes == 0 || strips_of(rows) == 0)
    return 0;
  int64_t last = reach(what, number, tokens, step, rows.row_bytes);
  for (int i = 0; i < kDimensions; ++i)
    last = reach(what, number, rows.sizes[i], steps[i], last);
  return last;
}

/// Refuses a destination with rows in one place: from the least step to the greatest, each must step over all that went before.
void check_no_sharing(int64_t number, const auxcore_token_rows& rows) {
  std::array<std::pair<int64_t, int64_t>, kDimensions + 1> dimensions;  // steps and sizes
  for (int i = 0; i < kDimensions; ++i)
    dimensions[static_cast<std::size_t>(i)] = {rows.destination_steps[i], rows.sizes[i]};
  dimensions[kDimensions] = {rows.destination_step, rows.destination_tokens};
  std::sort(dimensions.begin(), dimensions.end());
  int64_t covered = rows.row_bytes;
  for (const auto& [step, size] : dimensions) {
    if (size <= 1)
      continue;
    if (step < covered)
      fail(AUXCORE_E_ARGUMENT, "tensors[%lld].destination: rows share memory", static_cast<long long>(number));
    covered += (size - 1) * step;
  }
}

void check_tensor(int64_t number, const auxcore_token_rows& rows, const auxcore_token_selection& selection) {
  const auto refuse = [&](const char* what, int64_t value) {
    fail(AUXCORE_E_ARGUMENT, "tensors[%lld].%s is %lld", static_cast<long long>(number), what, static_cast<long long>(value));
  };
  if (rows.row_bytes < 0 || rows.row_bytes > kMostBytes)
    refuse("row_bytes", rows.row_bytes);
  if (rows.source_tokens < 0 || rows.source_tokens > tokens::kMostTokens)
    refuse("source_tokens", rows.source_tokens);
  if (rows.destination_tokens < 0 || rows.destination_tokens > tokens::kMostTokens)
    refuse("destination_tokens", rows.destination_tokens);
  int64_t strips = 1;
  for (int i = 0; i < kDimensions; ++i) {
    if (rows.sizes[i] < 0 || (rows.sizes[i] > 0 && strips > kMostBytes / rows.sizes[i]))
      refuse("sizes", rows.sizes[i]);
    strips *= rows.sizes[i];
  }
  if (rows.segment_dimension < -1 || rows.segment_dimension >= kDimensions)
    refuse("segment_dimension", rows.segment_dimension);
  if (rows.segment_dimension >= 0 && rows.sizes[rows.segment_dimension] != selection.segments)
    fail(AUXCORE_E_ARGUMENT, "tensors[%lld] has %lld segments, not %d", static_cast<long long>(number),
        static_cast<long long>(rows.sizes[rows.segment_dimension]), selection.segments);
  if (rows.clears_rest > 1)
    refuse("clears_rest", rows.clears_rest);
}

void check(const auxcore_token_selection& selection, const auxcore_token_rows* tensors, int64_t count, Direction direction,
    const Context& context) {
  check_not_negative("segments", selection.segments);
  tokens::check_tokens("map_length", selection.map_length);
  check_not_negative("tensor_count", count);
  if (count > 0 && tensors == nullptr)
    fail(AUXCORE_E_ARGUMENT, "tensors is NULL");
  const int64_t bounds = int64_t{selection.segments} + 1;
  Memory memory(context);
  memory.read("bounds", selection.bounds, bounds, 4);
  memory.read("offsets", selection.offsets, bounds, 4);
  memory.read("map", selection.map, selection.map_length, 4);
  tokens::Ranges ranges(context);
  for (const auto& [address, elements] : {std::pair(selection.bounds, bounds), std::pair(selection.offsets, bounds),
           std::pair(selection.map, int64_t{selection.map_length})})
    ranges.add_checked(address, elements * 4);
  for (int64_t i = 0; i < count; ++i) {
    const auxcore_token_rows& rows = tensors[i];
    check_tensor(i, rows, selection);
    const int64_t from = extent("source", i, rows, rows.source_tokens, rows.source_step, rows.source_steps);
    const int64_t to = extent("destination", i, rows, rows.destination_tokens, rows.destination_step, rows.destination_steps);
    if (to > 0)
      check_no_sharing(i, rows);
    const bool in_place = direction == Direction::kForward && is_in_place(rows);
    if (!in_place)
      ranges.add("tensors", i, ".source", rows.source, from, false);
    else if (from > to)  // what only the source reaches is read
      ranges.add("tensors", i, ".source", rows.source + static_cast<uint64_t>(to), from - to, false);
    ranges.add("tensors", i, ".destination", rows.destination, to, true);
  }
  ranges.check_disjoint("tensors");
}

/// The widest access that all rows of a tensor allow.
int vector_bytes_of(const auxcore_token_rows& rows) {
  uint64_t all = rows.source | rows.destination | static_cast<uint64_t>(rows.row_bytes) | static_cast<uint64_t>(rows.source_step) |
      static_cast<uint64_t>(rows.destination_step) | 16u;
  for (int i = 0; i < kDimensions; ++i)
    if (rows.sizes[i] > 1)
      all |= static_cast<uint64_t>(rows.source_steps[i]) | static_cast<uint64_t>(rows.destination_steps[i]);
  return static_cast<int>(all & (~all + 1));
}

Group group_of(const auxcore_token_rows& rows, Direction direction) {
  Group group = {};
  group.row_bytes = rows.row_bytes;
  group.source_step = rows.source_step;
  group.destination_step = rows.destination_step;
  std::copy_n(rows.sizes, kDimensions, group.sizes);
  std::copy_n(rows.source_steps, kDimensions, group.source_steps);
  std::copy_n(rows.destination_steps, kDimensions, group.destination_steps);
  group.strips = strips_of(rows);
  group.source_tokens = static_cast<int32_t>(rows.source_tokens);
  group.destination_tokens = static_cast<int32_t>(rows.destination_tokens);
  group.vector_bytes = static_cast<int8_t>(vector_bytes_of(rows));
  group.segment_dimension = static_cast<int8_t>(rows.segment_dimension);
  group.clears_rest = direction == Direction::kBackward || rows.clears_rest != 0;
  group.is_in_place = direction == Direction::kForward && is_in_place(rows);
  const int64_t vectors = rows.row_bytes / group.vector_bytes;
  group.lanes = 1;
  while (group.lanes < tokens::kWarp && group.lanes < vectors)
    group.lanes = static_cast<int16_t>(group.lanes * 2);
  const int64_t rows_of_block = kTogether * (kThreads / group.lanes);
  const int64_t parts = group.is_in_place ? (vectors + group.lanes - 1) / group.lanes
                                          : (rows.destination_tokens + rows_of_block - 1) / rows_of_block;
  group.parts = static_cast<int32_t>(std::min<int64_t>(parts, INT32_MAX));  // more blocks than a launch takes are refused below
  return group;
}

bool lie_alike(const Group& a, const Group& b) {
  return a.row_bytes == b.row_bytes && a.source_step == b.source_step && a.destination_step == b.destination_step &&
      std::equal(a.sizes, a.sizes + kDimensions, b.sizes) && std::equal(a.source_steps, a.source_steps + kDimensions, b.source_steps) &&
      std::equal(a.destination_steps, a.destination_steps + kDimensions, b.destination_steps) && a.source_tokens == b.source_tokens &&
      a.destination_tokens == b.destination_tokens && a.vector_bytes == b.vector_bytes && a.segment_dimension == b.segment_dimension &&
      a.clears_rest == b.clears_rest && a.is_in_place == b.is_in_place;
}

/// Tensors of a call in launches, each as full as its table allows. Nothing is launched before all of them are known to be possible.
class Launches {
 public:
  explicit Launches(const Selection& selection) : selection_(selection) {}

  void add(const auxcore_token_rows& rows, Direction direction) {
    Group group = group_of(rows, direction);
    if (group.row_bytes == 0 || group.strips == 0 || group.destination_tokens == 0)
      return;
    if (group.strips > INT32_MAX / group.parts)
      fail(AUXCORE_E_ARGUMENT, "%lld strips of %d blocks are more than one launch takes", static_cast<long long>(group.strips),
          group.parts);
    const int64_t blocks = group.strips * group.parts;
    if (launches_.empty() || tensors_ == kTensors || blocks_ + blocks > INT32_MAX ||
        (!is_last(group) && launches_.back().group_count == kGroups))
      begin();
    Table& table = launches_.back();
    if (!is_last(group)) {
      group.first_tensor = tensors_;
      group.first_block = static_cast<int32_t>(blocks_);
      table.groups[table.group_count++] = group;
    }
    table.tensors[tensors_++] = {rows.source, rows.destination};
    block_counts_.back() = static_cast<unsigned>(blocks_ += blocks);
  }

  void run(Context& context, CUstream stream) const {
    for (std::size_t i = 0; i < launches_.size(); ++i)
      context.launch(kRows, Grid{block_counts_[i], kThreads}, stream, launches_[i]);
  }

 private:
  void begin() {
    launches_.emplace_back();
    launches_.back().selection = selection_;
    block_counts_.push_back(0);
    tensors_ = 0;
    blocks_ = 0;
  }

  bool is_last(const Group& group) const {
    const Table& table = launches_.back();
    return table.group_count > 0 && lie_alike(table.groups[table.group_count - 1], group);
  }

  Selection selection_;
  std::vector<Table> launches_;
  std::vector<unsigned> block_counts_;
  int32_t tensors_ = 0;
  int64_t blocks_ = 0;
};

auxcore_status run(const char* function, auxcore_context context, void* stream, const auxcore_token_selection* selection,
    const auxcore_token_rows* tensors, int64_t count, Direction direction) {
  return tokens::with_batch(function, context, stream, selection, [&](Context& opened, CUstream on) {
    check(*selection, tensors, count, direction, opened);
    const bool forward = direction == Direction::kForward;
    const auto bounds = pointer<const int32_t>(selection->bounds), offsets = pointer<const int32_t>(selection->offsets);
    Launches launches({pointer<const int32_t>(selection->map), forward ? offsets : bounds, forward ? bounds : offsets,
        selection->map_length, selection->segments});
    std::vector<const auxcore_token_rows*> order;
    for (int64_t i = 0; i < count; ++i)
      order.push_back(tensors + i);
    // Keys and values of all layers lie alike, and come together whatever is between them.
    std::sort(order.begin(), order.end(), [](const auxcore_token_rows* a, const auxcore_token_rows* b) {
      return std::tuple(a->row_bytes, a->destination_tokens, a) < std::tuple(b->row_bytes, b->destination_tokens, b);
    });
    for (const auxcore_token_rows* rows : order)
      launches.add(*rows, direction);
    launches.run(opened, on);
  });
}

}  // namespace
}  // namespace auxcore::token_compact

using namespace auxcore;

extern "C" {

auxcore_status auxcore_token_compact(auxcore_context context, void* stream, const auxcore_token_selection* selection,
    const auxcore_token_rows* tensors, int64_t tensor_count) {
  return token_compact::run(__func__, context, stream, selection, tensors, tensor_count, token_compact::Direction::kForward);
}

auxcore_status auxcore_token_compact_backward(auxcore_context context, void* stream, const auxcore_token_selection* selection,
    const auxcore_token_rows* tensors, int64_t tensor_count) {
  return token_compact::run(__func__, context, stream, selection, tensors, tensor_count, token_compact::Direction::kBackward);
}

}  // extern "C"
