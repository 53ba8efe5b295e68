// The C functions of merging: against formulas, and what they refuse. Runs on the stand-in and on a device.
#include "library_tokens.h"

using namespace auxcore::test;

namespace {

double cosine(const std::vector<float>& metric, int left, int right) {
  double dot = 0, own = 0, other = 0;
  for (int k = 0; k < 5; ++k) {
    const double a = metric[static_cast<std::size_t>(left * 5 + k)], b = metric[static_cast<std::size_t>(right * 5 + k)];
    dot += a * b, own += a * a, other += b * b;
  }
  return dot / std::sqrt(own * other);
}

int nearest_of(const std::vector<float>& metric, int token, const std::vector<int>& among) {
  return *std::max_element(
      among.begin(), among.end(), [&](int a, int b) { return cosine(metric, token, a) < cosine(metric, token, b); });
}

void tokens_are_matched() {
  Memory memory;
  const auxcore_token_match_batch batch = match_batch(memory);
  const std::vector<float> metric = pattern(11 * 5, 1);
  const std::vector<int32_t> before = read<int32_t>(batch.slots, 11);
  OK(auxcore_token_match_assign(context, nullptr, &batch));
  const std::vector<int32_t> assigned = read<int32_t>(batch.slots, 11);
  for (int token = 0; token < 11; ++token) {
    const auto at = static_cast<std::size_t>(token);
    const int target = token < 7 ? nearest_of(metric, token, {1, 4}) : 10;
    CHECK(assigned[at] == (before[at] >= 0 ? before[at] : before[static_cast<std::size_t>(target)]), "token %d", token);
  }

  OK(auxcore_token_match_bipartite(context, nullptr, &batch));
  const std::vector<int32_t> slots = read<int32_t>(batch.slots, 11);
  CHECK(read<int32_t>(batch.offsets, 3) == std::vector<int32_t>({0, 5, 8}), "two of the first are merged; of the second the only one");
  CHECK(slots[10] == 7 && slots[9] == slots[static_cast<std::size_t>(nearest_of(metric, 9, {8, 10}))]);
  int gone = 0;
  for (const int token : {2, 4, 6}) {
    const auto at = static_cast<std::size_t>(token);
    gone += slots[at] == slots[static_cast<std::size_t>(nearest_of(metric, token, {1, 3, 5}))];
  }
  CHECK(slots[0] == 0 && gone == 2, "the first is protected, and %d are gone", gone);

  auxcore_token_match_batch none = batch;
  none.segments = 0;
  OK(auxcore_token_match_bipartite(context, nullptr, &none));
  CHECK(read<int32_t>(none.offsets, 1) == std::vector<int32_t>{0});
  none.tokens = 0;
  none.segments = 2;
  OK(auxcore_token_match_bipartite(context, nullptr, &none));
  CHECK(read<int32_t>(none.offsets, 3) == std::vector<int32_t>(3));
}

void rows_are_merged_and_spread() {
  Memory memory;
  const auxcore_token_merge_batch batch = merge_batch(memory);
  const std::vector<float> rows = pattern(18, 1);
  const auto row = [&](int token, int k) { return double{rows[static_cast<std::size_t>(3 * token + k)]}; };
  OK(auxcore_token_merge(context, nullptr, &batch));
  const std::vector<float> merged = read<float>(batch.destination, 18);
  for (int k = 0; k < 3; ++k) {
    const auto at = static_cast<std::size_t>(k);
    CHECK(merged[at] == row(1, k) && merged[6 + at] == row(3, k) && merged[9 + at] == 0 && merged[12 + at] == -7);
    CHECK(std::fabs(merged[3 + at] - (row(0, k) + 3 * row(2, k) + 6 * row(5, k)) / 10) < 1e-6);
  }
  CHECK(read<float>(batch.merged_sizes, 4) == std::vector<float>({2, 10, 4, 0}));

  OK(auxcore_token_merge_backward(context, nullptr, &batch));
  const std::vector<float> spread = read<float>(batch.destination, 18);
  const int slots[] = {1, 0, 1, 2, -1, 1};
  const double shares[] = {0.1, 1, 0.3, 1, 0, 0.6};
  for (int token = 0; token < 6; ++token)
    for (int k = 0; k < 3; ++k) {
      const double expected = slots[token] < 0 ? 0 : shares[token] * row(slots[token], k);
      CHECK(std::fabs(spread[static_cast<std::size_t>(3 * token + k)] - expected) < 1e-6, "token %d", token);
    }
}

void matchings_are_checked() {
  Memory memory;
  const auxcore_token_match_batch good = match_batch(memory);
  const std::vector<int32_t> before = read<int32_t>(good.slots, 11);
  using Batch = auxcore_token_match_batch;
  const auto refused_by = [&](auto&& function, const char* text, auto&& change) {
    Batch batch = good;
    change(batch);
    REFUSED(AUXCORE_E_ARGUMENT, text, function(context, nullptr, &batch));
  };
  const auto refused = [&](const char* text, auto&& change) {
    refused_by(auxcore_token_match_bipartite, text, change);
    refused_by(auxcore_token_match_assign, text, change);
  };
  refused("type 4 is not", [](Batch& batch) { batch.type = AUXCORE_UINT8; });
  refused("tokens is -1", [](Batch& batch) { batch.tokens = -1; });
  refused("segments is -1", [](Batch& batch) { batch.segments = -1; });
  refused("depth is 0", [](Batch& batch) { batch.depth = 0; });
  refused("merged is -1", [](Batch& batch) { batch.merged = -1; });
  refused("protect is -1", [](Batch& batch) { batch.protect = -1; });
  refused("more than memory holds", [](Batch& batch) { batch.tokens = 1 << 30, batch.depth = INT32_MAX; });
  refused("metric: 0x0", [](Batch& batch) { batch.metric = 0; });
  refused("metric: 0x", [](Batch& batch) { batch.metric += 2; });
  refused("bounds: 0x", [](Batch& batch) { batch.bounds = reinterpret_cast<uint64_t>(&batch); });
  refused("slots: 0x0", [](Batch& batch) { batch.slots = 0; });
  refused("slots overlaps metric", [](Batch& batch) { batch.slots = batch.metric; });
  refused("workspace overlaps slots", [](Batch& batch) { batch.slots = batch.workspace; });
  refused("are needed", [](Batch& batch) { --batch.workspace_bytes; });
  refused("is not aligned to 256 bytes", [](Batch& batch) { batch.workspace += 16; });
  refused_by(auxcore_token_match_bipartite, "offsets: 0x0", [](Batch& batch) { batch.offsets = 0; });
  refused_by(auxcore_token_match_bipartite, "offsets overlaps slots", [](Batch& batch) { batch.offsets = batch.slots; });
  refused_by(auxcore_token_match_assign, "targets: 0x", [](Batch& batch) { batch.targets = reinterpret_cast<uint64_t>(&batch); });
  refused_by(auxcore_token_match_assign, "targets overlaps slots", [](Batch& batch) { batch.targets = batch.slots; });
  Batch batch = good;
  batch.struct_size = 8;
  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_token_match_bipartite(context, nullptr, &batch));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_token_match_assign(context, nullptr, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "bytes is NULL", auxcore_token_match_workspace(1, 1, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "tokens is -1", auxcore_token_match_workspace(-1, 1, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "segments is -1", auxcore_token_match_workspace(1, -1, &bytes));
  CHECK(read<int32_t>(good.slots, 11) == before && read<int32_t>(good.offsets, 3) == std::vector<int32_t>(3, -7));
}

void merges_are_checked() {
  Memory memory;
  const auxcore_token_merge_batch good = merge_batch(memory);
  using Batch = auxcore_token_merge_batch;
  const auto refused_by = [&](auto&& function, const char* text, auto&& change) {
    Batch batch = good;
    change(batch);
    REFUSED(AUXCORE_E_ARGUMENT, text, function(context, nullptr, &batch));
  };
  const auto refused = [&](const char* text, auto&& change) {
    refused_by(auxcore_token_merge, text, change);
    refused_by(auxcore_token_merge_backward, text, change);
  };
  refused("type 4 is not", [](Batch& batch) { batch.type = AUXCORE_UINT8; });
  refused("tokens is -1", [](Batch& batch) { batch.tokens = -1; });
  refused("kept is -1", [](Batch& batch) { batch.kept = -1; });
  refused("width is 0", [](Batch& batch) { batch.width = 0; });
  refused("more than memory holds", [](Batch& batch) { batch.kept = 1 << 30, batch.width = INT32_MAX; });
  refused("source: 0x0", [](Batch& batch) { batch.source = 0; });
  refused("destination: 0x", [](Batch& batch) { batch.destination += 2; });
  refused("slots: 0x", [](Batch& batch) { batch.slots = reinterpret_cast<uint64_t>(&batch); });
  refused("sizes: 0x", [](Batch& batch) { batch.sizes += 1; });
  refused("destination overlaps source", [](Batch& batch) { batch.destination = batch.source; });
  refused("workspace overlaps", [](Batch& batch) { batch.destination = batch.workspace; });
  refused("are needed", [](Batch& batch) { --batch.workspace_bytes; });
  refused("is not aligned to 256 bytes", [](Batch& batch) { batch.workspace += 16; });
  refused_by(auxcore_token_merge, "merged_sizes: 0x", [](Batch& batch) { batch.merged_sizes += 2; });
  refused_by(auxcore_token_merge, "merged_sizes overlaps sizes", [](Batch& batch) { batch.merged_sizes = batch.sizes; });
  Batch batch = good;
  batch.struct_size = 8;
  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_token_merge(context, nullptr, &batch));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_token_merge_backward(context, nullptr, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "bytes is NULL", auxcore_token_merge_workspace(1, 1, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "tokens is -1", auxcore_token_merge_workspace(-1, 1, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "kept is -1", auxcore_token_merge_workspace(1, -1, &bytes));
  CHECK(read<float>(good.destination, 18) == std::vector<float>(18, -7), "what was refused was not done");
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  tokens_are_matched();
  rows_are_merged_and_spread();
  matchings_are_checked();
  merges_are_checked();
  OK(auxcore_close(context));
  return result();
}
