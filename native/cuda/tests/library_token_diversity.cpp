// The C function of greedy max-min: against the formula, and what it refuses. Runs on the stand-in and on a device.
#include "library_tokens.h"
#include "token_formulas.h"

using namespace auxcore::test;

namespace {

void the_most_diverse_are_kept() {
  Memory memory;
  const auxcore_token_diversity_batch batch = diversity_batch(memory);
  OK(auxcore_token_diversity(context, nullptr, &batch));
  const std::vector<float> rows = read<float>(batch.source, 11 * 5);
  std::vector<int32_t> expected = most_diverse(rows, 5, 0, 7, 3), slots(11, -1);
  const std::vector<int32_t> second = most_diverse(rows, 5, 7, 11, 3);
  expected.insert(expected.end(), second.begin(), second.end());
  for (std::size_t place = 0; place < 6; ++place)
    slots[static_cast<std::size_t>(expected[place])] = static_cast<int32_t>(place);
  CHECK(read<int32_t>(batch.indices, 6) == expected);
  CHECK(read<int32_t>(batch.offsets, 3) == std::vector<int32_t>({0, 3, 6}));
  CHECK(read<int32_t>(batch.slots, 11) == slots);
  CHECK(read<int32_t>(batch.nan_counts, 2) == std::vector<int32_t>({0, 1}));

  auxcore_token_diversity_batch other = batch;
  other.longest = 2;  // tokens 0, 1 and 7, 8
  other.slots = other.nan_counts = 0;
  OK(auxcore_token_diversity(context, nullptr, &other));
  CHECK(read<int32_t>(batch.indices, 4) == std::vector<int32_t>({0, 1, 7, 8}));
  CHECK(read<int32_t>(batch.offsets, 3) == std::vector<int32_t>({0, 2, 4}));
  CHECK(read<int32_t>(batch.slots, 11) == slots, "slots that are not wanted are not written");
  for (int32_t* const none : {&other.longest, &other.count, &other.tokens, &other.segments}) {
    const int32_t before = *none;
    *none = 0;
    OK(auxcore_token_diversity(context, nullptr, &other));
    const auto ends = static_cast<std::size_t>(other.segments + 1);
    CHECK(read<int32_t>(batch.offsets, ends) == std::vector<int32_t>(ends));
    *none = before;
  }
}

void batches_are_checked() {
  Memory memory;
  const auxcore_token_diversity_batch good = diversity_batch(memory);
  using Batch = auxcore_token_diversity_batch;
  const auto refused = [&](const char* text, auto&& change) {
    Batch batch = good;
    change(batch);
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_token_diversity(context, nullptr, &batch));
  };
  refused("type 4 is not", [](Batch& batch) { batch.type = AUXCORE_UINT8; });
  refused("tokens is -1", [](Batch& batch) { batch.tokens = -1; });
  refused("width is 0", [](Batch& batch) { batch.width = 0; });
  refused("segments is -1", [](Batch& batch) { batch.segments = -1; });
  refused("count is -1", [](Batch& batch) { batch.count = -1; });
  refused("longest is -1", [](Batch& batch) { batch.longest = -1; });
  refused("index_capacity is -1", [](Batch& batch) { batch.index_capacity = -1; });
  refused("index_capacity is 5, for 6 tokens", [](Batch& batch) { batch.index_capacity = 5; });
  refused("index_capacity is 6, for 11 tokens", [](Batch& batch) { batch.count = INT32_MAX; });
  refused("similarities of 1073741824 tokens", [](Batch& batch) { batch.tokens = batch.longest = 1 << 30; });
  refused("more than memory holds", [](Batch& batch) { batch.tokens = 1 << 30, batch.width = INT32_MAX, batch.longest = 1; });
  refused("source: 0x0", [](Batch& batch) { batch.source = 0; });
  refused("source: 0x", [](Batch& batch) { batch.source += 2; });
  refused("bounds: 0x", [](Batch& batch) { batch.bounds = reinterpret_cast<uint64_t>(&batch); });
  refused("indices: 0x0", [](Batch& batch) { batch.indices = 0; });
  refused("offsets: 0x0", [](Batch& batch) { batch.offsets = 0; });
  refused("slots: 0x", [](Batch& batch) { batch.slots += 1; });
  refused("nan_counts: 0x", [](Batch& batch) { batch.nan_counts += 1; });
  refused("indices overlaps source", [](Batch& batch) { batch.indices = batch.source; });
  refused("overlaps", [](Batch& batch) { batch.offsets = batch.slots; });
  refused("workspace overlaps", [](Batch& batch) { batch.slots = batch.workspace; });
  refused("are needed", [](Batch& batch) { --batch.workspace_bytes; });
  refused("is not aligned to 256 bytes", [](Batch& batch) { batch.workspace += 16; });
  Batch batch = good;
  batch.struct_size = 8;
  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_token_diversity(context, nullptr, &batch));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_token_diversity(context, nullptr, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "bytes is NULL", auxcore_token_diversity_workspace(1, 1, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "tokens is -1", auxcore_token_diversity_workspace(-1, 1, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "longest is -1", auxcore_token_diversity_workspace(1, -1, &bytes));
  CHECK(read<int32_t>(good.indices, 6) == std::vector<int32_t>(6, -7) && read<int32_t>(good.slots, 11) == std::vector<int32_t>(11, -7));
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  the_most_diverse_are_kept();
  batches_are_checked();
  OK(auxcore_close(context));
  return result();
}
