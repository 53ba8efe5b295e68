// The C functions of token pruning: against formulas, and what they refuse. Runs on the stand-in and on a device.
#include "library_tokens.h"

using namespace auxcore::test;

namespace {

using Integers = std::vector<int32_t>;

void a_selection_is_written() {
  Memory memory;
  for (const bool has_flags : {false, true}) {
    auxcore_token_select_batch batch = select_batch(memory);
    if (!has_flags)
      batch.always = 0;
    OK(auxcore_token_select(context, nullptr, &batch));
    CHECK(read<int32_t>(batch.indices, 6) == (Integers{1, 3, 4, -7, -7, -7}));
    CHECK(read<int32_t>(batch.offsets, 3) == (Integers{0, 1, 3}));
    CHECK(read<int32_t>(batch.slots, 6) == (Integers{-1, 0, -1, 1, 2, -1}));
    CHECK(read<int32_t>(batch.nan_counts, 2) == (Integers{0, 1}));
  }
  auxcore_token_select_batch batch = select_batch(memory);
  batch.rule = AUXCORE_BUDGET_COUNT;
  batch.count = 2;
  batch.always = batch.workspace = batch.slots = batch.nan_counts = 0;
  OK(auxcore_token_select_workspace(&batch, &batch.workspace_bytes));
  CHECK(batch.workspace_bytes == 0);
  OK(auxcore_token_select(context, nullptr, &batch));
  CHECK(read<int32_t>(batch.indices, 6) == (Integers{0, 1, 3, 4, -7, -7}));
  batch.segments = 0;
  OK(auxcore_token_select(context, nullptr, &batch));
  CHECK(read<int32_t>(batch.offsets, 3) == (Integers{0, 2, 4}), "one number is written");
}

void selections_are_checked() {
  Memory memory;
  const auxcore_token_select_batch good = select_batch(memory);
  using Batch = auxcore_token_select_batch;
  const auto refused = [&](const char* text, auto&& change) {
    Batch batch = good;
    change(batch);
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_token_select(context, nullptr, &batch));
  };
  refused("score_type 1 is not", [](Batch& batch) { batch.score_type = 1; });
  refused("tokens is -1", [](Batch& batch) { batch.tokens = -1; });
  refused("tokens is 1073741825", [](Batch& batch) { batch.tokens = (1 << 30) + 1; });
  refused("segments is -1", [](Batch& batch) { batch.segments = -1; });
  refused("index_capacity is -1", [](Batch& batch) { batch.index_capacity = -1; });
  for (const int rule : {0, 6, -1})
    refused("which is no budget", [=](Batch& batch) { batch.rule = rule; });
  refused("count is -1", [](Batch& batch) { batch.rule = AUXCORE_BUDGET_COUNT, batch.count = -1; });
  for (const double value : {-0.1, 1.1, std::nan("")}) {
    refused("a ratio or a mass", [=](Batch& batch) { batch.rule = AUXCORE_BUDGET_RATIO, batch.value = value; });
    refused("a ratio or a mass", [=](Batch& batch) { batch.rule = AUXCORE_BUDGET_TOP_P, batch.value = value; });
  }
  refused("value is NaN", [](Batch& batch) { batch.value = std::nan(""); });
  for (const double value : {-1.0, HUGE_VAL, std::nan("")})
    refused("a factor is finite", [=](Batch& batch) { batch.rule = AUXCORE_BUDGET_OUTLIERS, batch.value = value; });
  refused("minimum is -1", [](Batch& batch) { batch.minimum = -1; });
  refused("maximum is 2, below the minimum 3", [](Batch& batch) { batch.minimum = 3, batch.maximum = 2; });
  refused("scores: 0x0", [](Batch& batch) { batch.scores = 0; });
  refused("scores: 0x", [](Batch& batch) { batch.scores += 2; });
  refused("bounds: 0x0", [](Batch& batch) { batch.bounds = 0; });
  refused("always: 0x", [](Batch& batch) { batch.always = reinterpret_cast<uint64_t>(&batch); });
  refused("indices: 0x0", [](Batch& batch) { batch.indices = 0; });
  refused("offsets: 0x0", [](Batch& batch) { batch.offsets = 0; });
  refused("slots overlaps indices", [](Batch& batch) { batch.slots = batch.indices; });
  refused("nan_counts overlaps offsets", [](Batch& batch) { batch.nan_counts = batch.offsets; });
  refused("offsets overlaps bounds", [](Batch& batch) { batch.offsets = batch.bounds; });
  refused("31 bytes, 32 are needed", [](Batch& batch) { batch.workspace_bytes = 31; });
  refused("is not aligned to 256 bytes", [](Batch& batch) { batch.workspace += 16; });
  refused("workspace overlaps slots", [](Batch& batch) { batch.slots = batch.workspace; });
  Batch batch = good;
  batch.struct_size = 8;
  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_token_select(context, nullptr, &batch));
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_token_select_workspace(&batch, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_token_select(context, nullptr, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "is NULL", auxcore_token_select_workspace(&good, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "is NULL", auxcore_token_select_workspace(nullptr, &bytes));
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_token_select(0, nullptr, &good));
  for (const uint64_t output : {good.indices, good.slots})
    CHECK(read<int32_t>(output, 6) == Integers(6, -7), "what was refused was not done");
}

void rows_are_moved() {
  Memory memory;
  const CompactCase given = compact_case(memory);
  const auxcore_token_rows both[] = {given.rows, given.in_place};
  const std::vector<float> source = pattern(18, 1), cache = pattern(48, 2), above = pattern(12, 3);
  OK(auxcore_token_compact(context, nullptr, &given.indices, both, 2));
  const std::vector<float> kept = read<float>(given.rows.destination, 12), moved = read<float>(given.in_place.destination, 48);
  const int indices[] = {1, 3, 4};
  for (int j = 0; j < 3; ++j)
    for (int k = 0; k < 3; ++k)
      CHECK(kept[static_cast<std::size_t>(j * 3 + k)] == source[static_cast<std::size_t>(indices[j] * 3 + k)]);
  CHECK(kept[9] == -7 && kept[11] == -7, "the row behind the kept ones");
  for (int head = 0; head < 2; ++head)
    for (int j = 0; j < 6; ++j)
      for (int k = 0; k < 4; ++k) {
        const int from = j < 3 ? indices[j] : j;
        CHECK(moved[static_cast<std::size_t>((head * 6 + j) * 4 + k)] == cache[static_cast<std::size_t>((head * 6 + from) * 4 + k)]);
      }
  OK(auxcore_token_compact_backward(context, nullptr, &given.slots, &given.spread, 1));
  const std::vector<float> spread = read<float>(given.spread.destination, 18);
  const int slots[] = {-1, 0, -1, 1, 2, -1};
  for (int i = 0; i < 6; ++i)
    for (int k = 0; k < 3; ++k)
      CHECK(spread[static_cast<std::size_t>(i * 3 + k)] == (slots[i] < 0 ? 0 : above[static_cast<std::size_t>(slots[i] * 3 + k)]));
  OK(auxcore_token_compact(context, nullptr, &given.indices, nullptr, 0));
}

void moves_are_checked() {
  Memory memory;
  const CompactCase given = compact_case(memory);
  using Selection = auxcore_token_selection;
  using Rows = auxcore_token_rows;
  const auto refused = [&](const char* text, auto&& change) {
    Selection selection = given.indices;
    Rows rows[] = {given.rows, given.in_place};
    change(selection, rows[0]);
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_token_compact(context, nullptr, &selection, rows, 2));
  };
  refused("segments is -1", [](Selection& selection, Rows&) { selection.segments = -1; });
  refused("map_length is -1", [](Selection& selection, Rows&) { selection.map_length = -1; });
  refused("bounds: 0x0", [](Selection& selection, Rows&) { selection.bounds = 0; });
  refused("offsets: 0x0", [](Selection& selection, Rows&) { selection.offsets = 0; });
  refused("map: 0x", [](Selection& selection, Rows&) { selection.map += 1; });
  refused("tensors[0].row_bytes is -1", [](Selection&, Rows& rows) { rows.row_bytes = -1; });
  refused("tensors[0].source_tokens is -1", [](Selection&, Rows& rows) { rows.source_tokens = -1; });
  refused("tensors[0].destination_tokens is -1", [](Selection&, Rows& rows) { rows.destination_tokens = -1; });
  refused("tensors[0].sizes is -1", [](Selection&, Rows& rows) { rows.sizes[1] = -1; });
  refused("tensors[0].segment_dimension is 3", [](Selection&, Rows& rows) { rows.segment_dimension = 3; });
  refused("tensors[0].segment_dimension is -2", [](Selection&, Rows& rows) { rows.segment_dimension = -2; });
  refused("tensors[0] has 1 segments, not 2", [](Selection&, Rows& rows) { rows.segment_dimension = 0; });
  refused("tensors[0].clears_rest is 2", [](Selection&, Rows& rows) { rows.clears_rest = 2; });
  refused("is no tensor", [](Selection&, Rows& rows) { rows.source_step = -12; });
  refused("is no tensor", [](Selection&, Rows& rows) { rows.destination_step = INT64_MAX / 2; });
  refused("tensors[0].destination: rows share memory", [](Selection&, Rows& rows) { rows.destination_step = 8; });
  refused("tensors[0].source: 0x0", [](Selection&, Rows& rows) { rows.source = 0; });
  refused("tensors[0].destination: 0x", [](Selection&, Rows& rows) { rows.destination = reinterpret_cast<uint64_t>(&rows); });
  refused("tensors[0] overlaps tensors[-1]", [](Selection& selection, Rows& rows) {
    rows.destination = selection.map;
    rows.destination_tokens = 1;
  });
  refused("tensors[0] overlaps tensors[0]", [](Selection&, Rows& rows) { rows.destination = rows.source + 12; });
  refused("tensors[1] overlaps tensors[0]", [&](Selection&, Rows& rows) { rows.destination = given.in_place.source + 96; });
  REFUSED(AUXCORE_E_ARGUMENT, "tensor_count is -1", auxcore_token_compact(context, nullptr, &given.indices, &given.rows, -1));
  REFUSED(AUXCORE_E_ARGUMENT, "tensors is NULL", auxcore_token_compact(context, nullptr, &given.indices, nullptr, 1));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_token_compact(context, nullptr, nullptr, &given.rows, 1));
  REFUSED(AUXCORE_E_ARGUMENT, "overlaps", auxcore_token_compact_backward(context, nullptr, &given.slots, &given.in_place, 1));
  Selection selection = given.indices;
  selection.struct_size = 4;
  REFUSED(AUXCORE_E_ABI, "struct_size is 4", auxcore_token_compact(context, nullptr, &selection, &given.rows, 1));
  CHECK(read<float>(given.rows.destination, 12) == std::vector<float>(12, -7), "what was refused was not done");
}

void cells_are_pooled() {
  Memory memory;
  auxcore_token_pool_batch batch = pool_batch(memory);
  OK(auxcore_token_pool(context, nullptr, &batch));
  const std::vector<float> given = pattern(2 * 3 * 4 * 8, 1), pooled = read<float>(batch.destination, 2 * 2 * 2 * 8 + 1);
  const auto token = [&](int image, int row, int column, int c) {
    return given[static_cast<std::size_t>(((image * 3 + row) * 4 + column) * 8 + c)];
  };
  for (int c = 0; c < 8; ++c) {
    CHECK(pooled[static_cast<std::size_t>(c)] == (token(0, 0, 0, c) + token(0, 0, 1, c) + token(0, 1, 0, c) + token(0, 1, 1, c)) / 4);
    CHECK(pooled[static_cast<std::size_t>(((1 * 2 + 1) * 2 + 1) * 8 + c)] == (token(1, 2, 2, c) + token(1, 2, 3, c)) / 2);
  }
  CHECK(pooled.back() == -7);
  OK(auxcore_token_pool_backward(context, nullptr, &batch));
  const std::vector<float> spread = read<float>(batch.destination, given.size());
  CHECK(spread[8 + 3] == given[3] / 4 && spread[(2 * 4 + 3) * 8 + 1] == given[3 * 8 + 1] / 2);
}

void pools_are_checked() {
  Memory memory;
  const auxcore_token_pool_batch good = pool_batch(memory);
  using Batch = auxcore_token_pool_batch;
  const auto refused = [&](const char* text, auto&& change) {
    Batch batch = good;
    change(batch);
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_token_pool(context, nullptr, &batch));
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_token_pool_backward(context, nullptr, &batch));
  };
  refused("type 4 is not", [](Batch& batch) { batch.type = AUXCORE_UINT8; });
  refused("batch is -1", [](Batch& batch) { batch.batch = -1; });
  refused("height is 0", [](Batch& batch) { batch.height = 0; });
  refused("width is -3", [](Batch& batch) { batch.width = -3; });
  refused("channels is 0", [](Batch& batch) { batch.channels = 0; });
  refused("rows is 3, with height 3 and window_height 2", [](Batch& batch) { batch.rows = 3; });
  refused("columns is 1, with width 4", [](Batch& batch) { batch.columns = 1; });
  refused("window_width is -1", [](Batch& batch) { batch.window_width = -1; });
  refused("rows is 4, with height 3 and window_height 0", [](Batch& batch) {
    batch.window_height = batch.window_width = 0;
    batch.rows = 4;
  });
  refused("both are 0 or none is", [](Batch& batch) { batch.window_height = 0; });
  refused("more than 32 bits count", [](Batch& batch) {
    batch.height = batch.width = batch.rows = batch.columns = 1 << 20;
    batch.window_height = batch.window_width = 1;
  });
  refused("source: 0x0", [](Batch& batch) { batch.source = 0; });
  refused("destination overlaps source", [](Batch& batch) { batch.destination = batch.source; });
  Batch batch = good;
  batch.batch = 0;
  OK(auxcore_token_pool(context, nullptr, &batch));
  batch.struct_size = 1;
  REFUSED(AUXCORE_E_ABI, "struct_size is 1", auxcore_token_pool(context, nullptr, &batch));
  CHECK(read<float>(good.destination, 8) == std::vector<float>(8, -7), "what was refused was not done");
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  a_selection_is_written();
  selections_are_checked();
  rows_are_moved();
  moves_are_checked();
  cells_are_pooled();
  pools_are_checked();
  OK(auxcore_close(context));
  return result();
}
