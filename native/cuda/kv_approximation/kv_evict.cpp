// KvEvict: checks and launches. What is kept is defined in KvEvict.cs, the kernels are in kv_evict.cu.
#include "kv_evict.cuh"

#include <cstdint>

#include "../token_pruning/token_arguments.h"
#include "kv_arguments.h"

namespace auxcore::kv_evict {
namespace {

constexpr const char* kOp = "KvEvict";

AUXCORE_DECLARE_IMAGE(kv_approximation);
const Kernel kRank{kOp, &image_kv_approximation, "auxcore_kv_evict_rank"};
const Kernel kShare{kOp, &image_kv_approximation, "auxcore_kv_evict_share"};
const Kernel kMove{kOp, &image_kv_approximation, "auxcore_kv_evict_move"};

tokens::Budget budget_of(const auxcore_kv_eviction& given) {
  return {given.value, given.rule, given.count, given.minimum, given.maximum};
}

/// What a head keeps whatever the others have.
tokens::Budget own_budget_of(const auxcore_kv_eviction& given) {
  return {given.head_floor * given.value, given.rule, static_cast<int32_t>(given.head_floor * given.count), 0, INT32_MAX};
}

void check_numbers(const auxcore_kv_cache& cache, const auxcore_kv_eviction& given) {
  kv::check_cache(cache);
  check_struct_size("eviction", given.struct_size, sizeof given);
  tokens::check_budget(budget_of(given));
  if (given.pool_width < 1 || given.pool_width % 2 == 0)
    fail(AUXCORE_E_ARGUMENT, "pool_width is %d; it is odd and at least 1", given.pool_width);
  check_not_negative("sinks", given.sinks);
  check_not_negative("recent", given.recent);
  check_flag("heads_share", given.heads_share);
  if (given.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "reserved is %u, not 0", given.reserved);
  if (given.heads_share == 0 ? given.head_floor != 0 : !(given.head_floor >= 0 && given.head_floor <= 1))  // NaN too
    fail(AUXCORE_E_ARGUMENT, "head_floor is %g; it is within 0 and 1, and 0 where heads do not share", given.head_floor);
  if (given.heads_share != 0 && given.rule != AUXCORE_BUDGET_COUNT && given.rule != AUXCORE_BUDGET_RATIO)
    fail(AUXCORE_E_ARGUMENT, "heads_share: heads share a count or a ratio, not rule %d", given.rule);
  if (given.counts != 0 && (given.rule != AUXCORE_BUDGET_COUNT || given.count != 0 || given.minimum != 0 || given.maximum != INT32_MAX))
    fail(AUXCORE_E_ARGUMENT, "counts: they say how many each head keeps; the rule is %d, with count 0 and no limits", AUXCORE_BUDGET_COUNT);
  check_not_negative("score_positions", given.score_positions);
  check_not_negative("number_positions", given.number_positions);
  if ((given.numbers == 0) != (given.number_positions == 0))
    fail(AUXCORE_E_ARGUMENT, "numbers and number_positions: one of them is 0, and the other is not");
}

/// Where things lie in the workspace.
struct Plan {
  int64_t heads, positions, means, indices, always, of_heads, bytes;

  Plan(int32_t batch, int32_t kv_heads, int32_t score_positions) {
    tokens::check_tokens("kv_heads * score_positions", kv::product("score_positions", {kv_heads, score_positions}));
    heads = kv::product("batch", {batch, kv_heads});
    positions = kv::product("score_positions", {heads, score_positions});
    WorkspaceLayout layout;
    means = layout.add(positions, sizeof(float));
    indices = layout.add(positions, sizeof(int32_t));
    always = layout.add(positions, 1);
    of_heads = layout.add(heads, sizeof(Head));
    bytes = layout.bytes();
  }
};

/// Checks memory, and gives the cache as kernels see it.
kv::Cache check_memory(const auxcore_kv_cache& cache, const auxcore_kv_eviction& given, const Plan& plan, const Context& context) {
  Memory memory(context);
  memory.read("scores", given.scores, plan.positions, 4);
  memory.write("lengths", given.lengths, plan.heads, 4);
  if (given.counts != 0)
    memory.read("counts", given.counts, plan.heads, 4);
  memory.write_if_wanted("numbers", given.numbers, kv::product("number_positions", {plan.heads, given.number_positions}), 4);
  const kv::Cache seen = kv::cache_of(cache, true, memory, context);
  add_workspace(memory, given.workspace, given.workspace_bytes, plan.bytes);
  memory.check_disjoint();
  return seen;
}

/// The widest access that all rows of a plane allow.
int32_t access_of(const kv::Plane& plane) {
  const uint64_t all = plane.first | static_cast<uint64_t>(plane.outer_step) | static_cast<uint64_t>(plane.head_step) |
                       static_cast<uint64_t>(plane.row_bytes) | 16u;
  return static_cast<int32_t>(all & (~all + 1));
}

Arguments arguments_of(const kv::Cache& cache, const auxcore_kv_eviction& given, const Plan& plan) {
  const auto part = [&](int64_t offset) { return given.workspace + static_cast<uint64_t>(offset); };
  Arguments arguments = {};
  arguments.cache = cache;
  arguments.scores = pointer<const float>(given.scores);
  arguments.lengths = pointer<int32_t>(given.lengths);
  arguments.numbers = pointer<int32_t>(given.numbers);
  arguments.counts = pointer<const int32_t>(given.counts);
  arguments.means = pointer<float>(part(plan.means));
  arguments.indices = pointer<int32_t>(part(plan.indices));
  arguments.always = pointer<uint8_t>(part(plan.always));
  arguments.heads = pointer<Head>(part(plan.of_heads));
  arguments.budget = budget_of(given);
  arguments.own = own_budget_of(given);
  arguments.head_floor = given.head_floor;
  arguments.score_positions = given.score_positions;
  arguments.number_positions = given.number_positions;
  arguments.pool_width = given.pool_width;
  arguments.sinks = given.sinks;
  arguments.recent = given.recent;
  arguments.heads_share = static_cast<int32_t>(given.heads_share);
  arguments.key_bytes = access_of(cache.keys);
  arguments.value_bytes = access_of(cache.values);
  return arguments;
}

void run(const kv::Cache& cache, const auxcore_kv_eviction& given, const Plan& plan, Context& context, CUstream stream) {
  const Arguments arguments = arguments_of(cache, given, plan);
  const unsigned heads = blocks_for(plan.heads, 1);
  const int64_t parts = int64_t{columns_of(cache.keys)} + columns_of(cache.values) + 1;
  const Grid moves{blocks_for(kv::product("batch", {plan.heads, parts}), 1), kMoveThreads};
  context.launch(kRank, Grid{heads, tokens::kRankThreads}, stream, arguments);
  if (given.heads_share != 0)
    context.launch(kShare, Grid{static_cast<unsigned>(cache.batch), tokens::kRankThreads}, stream, arguments);
  context.launch(kMove, moves, stream, arguments);
}

}  // namespace
}  // namespace auxcore::kv_evict

using namespace auxcore;

extern "C" {

auxcore_status auxcore_kv_evict_workspace(int32_t batch, int32_t kv_heads, int32_t score_positions, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "bytes is NULL");
    check_at_least_one("batch", batch);
    check_at_least_one("kv_heads", kv_heads);
    check_not_negative("score_positions", score_positions);
    *bytes = kv_evict::Plan(batch, kv_heads, score_positions).bytes;
  });
}

auxcore_status auxcore_kv_evict(
    auxcore_context context, void* stream, const auxcore_kv_cache* cache, const auxcore_kv_eviction* eviction) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (cache == nullptr || eviction == nullptr)
      fail(AUXCORE_E_ARGUMENT, "cache or eviction is NULL");
    kv_evict::check_numbers(*cache, *eviction);
    const kv_evict::Plan plan(cache->batch, cache->kv_heads, eviction->score_positions);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    const kv::Cache seen = kv_evict::check_memory(*cache, *eviction, plan, *opened);
    kv_evict::run(seen, *eviction, plan, *opened, on);
  });
}

}  // extern "C"
