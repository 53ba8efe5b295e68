// KvDecodeAttention: checks, splits, launches. The formula is in KvDecodeAttention.cs, the kernels in kv_decode_attention.cu.
#include "kv_decode_attention.cuh"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kv_arguments.h"

namespace auxcore::kv_decode_attention {
namespace {

constexpr const char* kOp = "KvDecodeAttention";

AUXCORE_DECLARE_IMAGE(kv_approximation);
const Kernel kAttend1{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_1"};
const Kernel kAttend2{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_2"};
const Kernel kAttend4{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_4"};
const Kernel kAttend8{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_8"};
const Kernel kMerge{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_merge"};

constexpr int64_t kBlocks = 1056;  // eight for each multiprocessor of an H100: enough of them for any device at hand

void check_format(const char* name, int32_t format, int32_t head_dim) {
  kv::check_format(name, format);
  if (format == AUXCORE_KV_E4M3)
    fail(AUXCORE_E_ARGUMENT, "%s is AUXCORE_KV_E4M3, whose scales have no place here yet", name);
  if (head_dim % kv::group_of(format) != 0)
    fail(AUXCORE_E_ARGUMENT, "%s: head_dim %d is not a multiple of %d, the format's groups", name, head_dim, kv::group_of(format));
}

void check_numbers(const auxcore_kv_attention& given) {
  td::check_struct_size("attention", given.struct_size, sizeof given);
  td::check_at_least_one("batch", given.batch);
  td::check_at_least_one("query_heads", given.query_heads);
  td::check_at_least_one("kv_heads", given.kv_heads);
  td::check_at_least_one("capacity", given.capacity);
  if (given.query_heads % given.kv_heads != 0)
    fail(AUXCORE_E_ARGUMENT, "query_heads %d is not a multiple of kv_heads %d", given.query_heads, given.kv_heads);
  if (given.head_dim < kVector || given.head_dim > kMostHeadDim || given.head_dim % kVector != 0)
    fail(AUXCORE_E_ARGUMENT, "head_dim is %d; it may be a multiple of 8 up to 256", given.head_dim);
  check_format("key_format", given.key_format, given.head_dim);
  check_format("value_format", given.value_format, given.head_dim);
  if (!std::isfinite(given.scale))
    fail(AUXCORE_E_ARGUMENT, "scale is %g, not finite", given.scale);
}

/// How the work is parted, by sizes alone, and where things lie in the workspace.
struct Plan {
  int32_t heads, head_blocks, splits;
  int64_t rows, lengths, maxima, sums, partials, bytes;

  explicit Plan(const auxcore_kv_attention& given) {
    const int32_t group = given.query_heads / given.kv_heads;
    head_blocks = (group - 1) / kMostHeads + 1;
    heads = (group - 1) / head_blocks + 1;
    const int64_t units = kv::product("batch", {given.batch, given.kv_heads, head_blocks});
    const int64_t useful = (int64_t{given.capacity} + kLeastPositions - 1) / kLeastPositions;
    splits = static_cast<int32_t>(std::clamp<int64_t>((kBlocks + units - 1) / units, 1, std::min<int64_t>(useful, kMostSplits)));
    rows = kv::product("query_heads", {given.batch, given.query_heads});
    pairs::Layout layout;
    lengths = layout.add(given.batch, sizeof(int32_t));
    const int64_t parts = splits == 1 ? 0 : kv::product("query_heads", {rows, splits});
    maxima = layout.add(parts, sizeof(float));
    sums = layout.add(parts, sizeof(float));
    partials = layout.add(kv::product("query_heads", {parts, given.head_dim}), sizeof(float));
    bytes = layout.bytes();
  }
};

void check_memory(const auxcore_kv_attention& given, const Plan& plan, const Context& context) {
  const auto cache = [&](const char* name, uint64_t address, int32_t format, td::Memory& memory) {
    const int64_t elements = kv::product(name, {given.batch, given.kv_heads, given.capacity, given.head_dim});
    const int unit = kv::alignment_of(format);
    memory.read(name, address, kv::bytes_of(name, format, elements) / unit, unit);
  };
  const int64_t tokens = kv::product("query_heads", {plan.rows, given.head_dim});
  td::Memory memory(context);
  memory.read("query", given.query, tokens, 4);
  cache("keys", given.keys, given.key_format, memory);
  cache("values", given.values, given.value_format, memory);
  if ((given.lengths != 0) == (given.host_lengths != nullptr))
    fail(AUXCORE_E_ARGUMENT, "lengths and host_lengths: one of them is to be given");
  if (given.lengths != 0)
    memory.read("lengths", given.lengths, given.batch, 4);
  for (int32_t b = 0; given.host_lengths != nullptr && b < given.batch; ++b)
    if (given.host_lengths[b] < 0 || given.host_lengths[b] > given.capacity)
      fail(AUXCORE_E_ARGUMENT, "host_lengths[%d] is %d, not within 0 and the capacity, %d", b, given.host_lengths[b], given.capacity);
  memory.write("output", given.output, tokens, 4);
  pairs::add_workspace(memory, given.workspace, given.workspace_bytes, plan.bytes);
  memory.check_disjoint();
}

Arguments arguments_of(const auxcore_kv_attention& given, const Plan& plan) {
  const auto floats = [&](int64_t offset) { return td::pointer<float>(given.workspace + static_cast<uint64_t>(offset)); };
  Arguments arguments = {};
  arguments.query = td::pointer<const float>(given.query);
  arguments.keys = td::pointer<const unsigned char>(given.keys);
  arguments.values = td::pointer<const unsigned char>(given.values);
  arguments.lengths = td::pointer<const int32_t>(given.lengths != 0 ? given.lengths : given.workspace + static_cast<uint64_t>(plan.lengths));
  arguments.output = td::pointer<float>(given.output);
  arguments.maxima = floats(plan.maxima);
  arguments.sums = floats(plan.sums);
  arguments.partials = floats(plan.partials);
  arguments.factor = given.scale * 1.4426950408889634;  // log2 e
  arguments.query_heads = given.query_heads;
  arguments.kv_heads = given.kv_heads;
  arguments.heads = plan.heads;
  arguments.head_blocks = plan.head_blocks;
  arguments.head_dim = given.head_dim;
  arguments.capacity = given.capacity;
  arguments.splits = plan.splits;
  arguments.lanes = given.head_dim <= 64 ? 8 : given.head_dim <= 128 ? 16 : 32;
  arguments.key_format = given.key_format;
  arguments.value_format = given.value_format;
  arguments.key_row = static_cast<int32_t>(kv::bytes_of("keys", given.key_format, given.head_dim));
  arguments.value_row = static_cast<int32_t>(kv::bytes_of("values", given.value_format, given.head_dim));
  return arguments;
}

void run(const auxcore_kv_attention& given, const Plan& plan, Context& context, CUstream stream) {
  const Arguments arguments = arguments_of(given, plan);
  const int32_t heads = plan.heads <= 1 ? 1 : plan.heads <= 2 ? 2 : plan.heads <= 4 ? 4 : 8;
  const Kernel& kernel = heads == 1 ? kAttend1 : heads == 2 ? kAttend2 : heads == 4 ? kAttend4 : kAttend8;
  const Layout layout(arguments.key_row, arguments.value_row, arguments.head_dim, heads);
  const int64_t units = kv::product("batch", {given.batch, given.kv_heads, plan.head_blocks, plan.splits});
  const Grid grid{td::blocks_for(units, 1), kThreads, static_cast<unsigned>(layout.bytes)};
  const unsigned rows = td::blocks_for(plan.rows, 1);
  if (given.host_lengths != nullptr) {
    if (context.is_capturing(stream))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: give lengths in device memory");
    AUXCORE_CUDA(cuMemcpyHtoDAsync_v2, given.workspace + static_cast<uint64_t>(plan.lengths), given.host_lengths,
        static_cast<std::size_t>(given.batch) * sizeof(int32_t), stream);
  }
  context.launch(kernel, grid, stream, arguments);
  if (plan.splits > 1)
    context.launch(kMerge, Grid{rows, kMergeThreads}, stream, arguments);
}

}  // namespace
}  // namespace auxcore::kv_decode_attention

using namespace auxcore;

extern "C" {

auxcore_status auxcore_kv_attention_workspace(const auxcore_kv_attention* attention, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (attention == nullptr || bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "attention or bytes is NULL");
    kv_decode_attention::check_numbers(*attention);
    *bytes = kv_decode_attention::Plan(*attention).bytes;
  });
}

auxcore_status auxcore_kv_decode_attention(auxcore_context context, void* stream, const auxcore_kv_attention* attention) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (attention == nullptr)
      fail(AUXCORE_E_ARGUMENT, "attention is NULL");
    kv_decode_attention::check_numbers(*attention);
    const kv_decode_attention::Plan plan(*attention);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    kv_decode_attention::check_memory(*attention, plan, *opened);
    kv_decode_attention::run(*attention, plan, *opened, on);
  });
}

}  // extern "C"
