// KvAppend: checks and launch. The formulas are in KvAppend.cs, the kernel in kv_append.cu.
#include "kv_append.cuh"

#include <cmath>

#include "kv_append_arguments.h"

namespace auxcore::kv_append {
namespace {

constexpr const char* kOp = "KvAppend";

AUXCORE_DECLARE_IMAGE(kv_approximation);
const Kernel kAppend{kOp, &image_kv_approximation, "auxcore_kv_append"};
const Kernel kLeaving{kOp, &image_kv_approximation, "auxcore_kv_append_leaving"};

int size_of(auxcore_dtype type) { return type == AUXCORE_FLOAT32 ? 4 : 2; }

/// Bytes of a token's heads.
int64_t token_bytes(const char* name, const auxcore_kv_cache& cache, int32_t heads, int size) {
  return kv::product(name, {heads, cache.head_dim, size});
}

int64_t extent(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_append& given, int64_t step, int32_t heads, int size) {
  return kv::sum(name, kv::product(name, {given.tokens - 1, step}), token_bytes(name, cache, heads, size));
}

void check_step(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_append& given, int64_t step, int32_t heads, int size) {
  if (step % size != 0 || (given.tokens > 1 && step < token_bytes(name, cache, heads, size)))
    fail(AUXCORE_E_ARGUMENT, "%s: a step of %lld bytes from one token to the next", name, static_cast<long long>(step));
}

void check_rows(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_append& given, const auxcore_kv_rows& rows) {
  if (rows.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "%s.reserved is %u, not 0", name, rows.reserved);
  if (rows.heads > 0)
    check_step(name, cache, given, rows.step, rows.heads, size_of(given.type));
}

}  // namespace

void check_numbers(const auxcore_kv_cache& cache, const auxcore_kv_append& given) {
  kv::check_cache(cache, true);
  check_struct_size("append", given.struct_size, sizeof given);
  if (given.tokens < 0)
    fail(AUXCORE_E_ARGUMENT, "tokens is %d", given.tokens);
  if (given.type != AUXCORE_FLOAT32 && given.type != AUXCORE_FLOAT16 && given.type != AUXCORE_BFLOAT16)
    fail(AUXCORE_E_ARGUMENT, "type %d is not float32, float16 or bfloat16", given.type);
  check_flag("slots_are_of_heads", given.slots_are_of_heads);
  if (given.query.heads < 0 || given.query.heads % cache.kv_heads != 0)
    fail(AUXCORE_E_ARGUMENT, "query.heads is %d, not a multiple of kv_heads %d", given.query.heads, cache.kv_heads);
  for (const auto& [name, rows] : {std::pair("keys", &given.keys), {"values", &given.values}})
    if (rows->heads != cache.kv_heads)
      fail(AUXCORE_E_ARGUMENT, "%s.heads is %d, but the cache has %d", name, rows->heads, cache.kv_heads);
  check_rows("query", cache, given, given.query);
  check_rows("keys", cache, given, given.keys);
  check_rows("values", cache, given, given.values);
  if (given.query.heads > 0)
    check_step("rotated_query", cache, given, given.rotated_step, given.query.heads, 4);
  else if (given.query.first != 0 || given.query.bias != 0 || given.query.norm != 0 || given.rotated_query != 0)
    fail(AUXCORE_E_ARGUMENT, "query.heads is 0, but there is a query, its bias or norm, or rotated_query");
  if (given.values.norm != 0)
    fail(AUXCORE_E_ARGUMENT, "values.norm is there; values have none");
  if (given.sequences == 0 && given.tokens % cache.batch != 0)
    fail(AUXCORE_E_ARGUMENT, "sequences is 0, but %d tokens are not as many of each of %d sequences", given.tokens, cache.batch);
  if (!(given.norm_epsilon >= 0 && std::isfinite(given.norm_epsilon)))  // NaN too
    fail(AUXCORE_E_ARGUMENT, "norm_epsilon is %g, not finite and at least 0", given.norm_epsilon);
  if (given.rotated < 0 || given.rotated > cache.head_dim || given.rotated % 2 != 0)
    fail(AUXCORE_E_ARGUMENT, "rotated is %d; it may be an even number up to head_dim %d", given.rotated, cache.head_dim);
  check_flag("is_in_pairs", static_cast<uint32_t>(given.is_in_pairs));
  if (given.rotated > 0 && given.frequencies == nullptr)
    fail(AUXCORE_E_ARGUMENT, "frequencies is NULL");
  for (int32_t pair = 0; pair < given.rotated / 2; ++pair)
    if (!(std::fabs(given.frequencies[pair]) <= 1024))  // NaN too
      fail(AUXCORE_E_ARGUMENT, "frequencies[%d] is %g, not within -1024 and 1024", pair, given.frequencies[pair]);
}

namespace {

/// Whether rows lie in the gaps that the query's heads leave between tokens, as in one projection of all.
bool is_beside(const auxcore_kv_cache& cache, const auxcore_kv_append& given, const auxcore_kv_rows& rows) {
  const int64_t step = given.query.step;
  int64_t apart = step == 0 ? 0 : static_cast<int64_t>(rows.first - given.query.first) % step;
  apart += apart < 0 ? step : 0;
  return rows.step == step && apart >= token_bytes("query", cache, given.query.heads, 4) &&
         apart + token_bytes("keys", cache, rows.heads, 4) <= step;
}

}  // namespace

kv::Cache check_memory(const auxcore_kv_cache& cache, const auxcore_kv_append& given, const Context& context) {
  const int size = size_of(given.type);
  const bool is_in_place = given.query.heads > 0 && given.rotated_query == given.query.first &&
                           given.rotated_step == given.query.step && given.type == AUXCORE_FLOAT32;
  Memory memory(context), of_query(context);
  const auto read = [&](const char* name, uint64_t address, int64_t count, int bytes) {
    memory.read(name, address, count, bytes);
    of_query.read(name, address, count, bytes);
  };
  const auto read_rows = [&](const char* name, const auxcore_kv_rows& rows, bool apart) {
    const int64_t count = extent(name, cache, given, rows.step, rows.heads, size) / size;
    memory.read(name, rows.first, count, size);
    if (apart)
      of_query.read(name, rows.first, count, size);
  };
  const kv::Cache seen = kv::cache_of(cache, true, memory, context);
  if (given.query.heads > 0) {
    read_rows("query", given.query, !is_in_place);
    const int64_t count = extent("rotated_query", cache, given, given.rotated_step, given.query.heads, 4) / 4;
    memory.read("rotated_query", given.rotated_query, count, 4);
    of_query.write("rotated_query", given.rotated_query, count, 4);
  }
  read_rows("keys", given.keys, !(is_in_place && is_beside(cache, given, given.keys)));
  read_rows("values", given.values, !(is_in_place && is_beside(cache, given, given.values)));
  for (const auto& [name, rows] : {std::pair("query.norm", &given.query), {"keys.norm", &given.keys}})
    if (rows->norm != 0)
      read(name, rows->norm, cache.head_dim, 4);
  for (const auto& [name, rows] : {std::pair("query.bias", &given.query), {"keys.bias", &given.keys}, {"values.bias", &given.values}})
    if (rows->bias != 0)
      read(name, rows->bias, kv::product(name, {rows->heads, cache.head_dim}), 4);
  if (given.sequences != 0)
    read("sequences", given.sequences, given.tokens, 4);
  read("slots", given.slots, kv::product("slots", {given.tokens, given.slots_are_of_heads != 0 ? cache.kv_heads : 1}), 4);
  if (given.rotated > 0)
    read("positions", given.positions, given.tokens, 4);
  memory.check_disjoint();
  of_query.check_disjoint();
  return seen;
}

kv::TokenRows rows_of(const auxcore_kv_rows& given) {
  return {given.first, given.step, pointer<const float>(given.bias), pointer<const float>(given.norm)};
}

kv::Tokens tokens_of(const auxcore_kv_append& given) {
  kv::Tokens tokens = {};
  tokens.sequences = pointer<const int32_t>(given.sequences);
  tokens.slots = pointer<const int32_t>(given.slots);
  tokens.positions = pointer<const int32_t>(given.positions);
  tokens.norm_epsilon = given.norm_epsilon;
  tokens.count = given.tokens;
  tokens.type = given.type;
  tokens.slots_are_of_heads = static_cast<int32_t>(given.slots_are_of_heads);
  tokens.pairs = given.rotated / 2;
  tokens.is_in_pairs = given.is_in_pairs;
  for (int32_t pair = 0; pair < tokens.pairs; ++pair)
    tokens.frequencies[pair] = given.frequencies[pair];
  return tokens;
}

unsigned leaving_blocks(const kv::Cache& cache, int32_t tokens) {
  if (cache.keys.format != kv::kKivi && cache.values.format != kv::kKivi)
    return 0;
  return blocks_for(kv::product("tokens", {tokens, cache.kv_heads}), 1);
}

void store_leaving(const kv::Cache& cache, const auxcore_kv_append& given, Context& context, CUstream stream) {
  const unsigned blocks = leaving_blocks(cache, given.tokens);
  if (blocks == 0)
    return;
  Arguments arguments = {};
  arguments.cache = cache;
  arguments.keys = rows_of(given.keys);
  arguments.values = rows_of(given.values);
  arguments.tokens = tokens_of(given);
  const auto shared = static_cast<unsigned>(kv::kGroup * (cache.head_dim + 1)) * 4u;
  context.launch(kLeaving, Grid{blocks, kv::kHeadThreads, shared}, stream, arguments);
}

namespace {

void run(const kv::Cache& cache, const auxcore_kv_append& given, Context& context, CUstream stream) {
  Arguments arguments = {};
  arguments.cache = cache;
  arguments.query = rows_of(given.query);
  arguments.keys = rows_of(given.keys);
  arguments.values = rows_of(given.values);
  arguments.rotated_query = given.rotated_query;
  arguments.rotated_step = given.rotated_step;
  arguments.query_heads = given.query.heads;
  arguments.tokens = tokens_of(given);
  const int64_t heads = int64_t{given.query.heads} + 2 * int64_t{cache.kv_heads};
  const int64_t blocks = kv::product("tokens", {given.tokens, kv::blocks_of_token(heads)});
  const Grid grid{blocks_for(blocks, 1), kv::kHeadThreads};
  store_leaving(cache, given, context, stream);
  context.launch(kAppend, grid, stream, arguments);
}

static_assert(int{kv::kFloat32} == AUXCORE_FLOAT32 && int{kv::kFloat16} == AUXCORE_FLOAT16 && int{kv::kBFloat16} == AUXCORE_BFLOAT16);

}  // namespace
}  // namespace auxcore::kv_append

using namespace auxcore;

extern "C" auxcore_status auxcore_kv_append_tokens(
    auxcore_context context, void* stream, const auxcore_kv_cache* cache, const auxcore_kv_append* append) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (cache == nullptr || append == nullptr)
      fail(AUXCORE_E_ARGUMENT, "cache or append is NULL");
    kv_append::check_numbers(*cache, *append);
    if (append->tokens == 0)
      return;
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    const kv::Cache seen = kv_append::check_memory(*cache, *append, *opened);
    kv_append::run(seen, *append, *opened, on);
  });
}
