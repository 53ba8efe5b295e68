// KvQuantise: checks and launches. The formulas are in KvQuantise.cs, the kernels in kv_quantise.cu.
#include "kv_quantise.cuh"

#include <cmath>

#include "kv_arguments.h"

namespace auxcore::kv_quantise {
namespace {

constexpr const char* kOp = "KvQuantise";

AUXCORE_DECLARE_IMAGE(kv_approximation);

// By format; float32 is copied.
const Kernel kQuantise[kv::kFormats] = {{}, {kOp, &image_kv_approximation, "auxcore_kv_quantise_f16"},
    {kOp, &image_kv_approximation, "auxcore_kv_quantise_bf16"}, {kOp, &image_kv_approximation, "auxcore_kv_quantise_e4m3"},
    {kOp, &image_kv_approximation, "auxcore_kv_quantise_q8"}, {kOp, &image_kv_approximation, "auxcore_kv_quantise_q4"},
    {kOp, &image_kv_approximation, "auxcore_kv_quantise_kivi"}};
const Kernel kDequantise[kv::kFormats] = {{}, {kOp, &image_kv_approximation, "auxcore_kv_dequantise_f16"},
    {kOp, &image_kv_approximation, "auxcore_kv_dequantise_bf16"}, {kOp, &image_kv_approximation, "auxcore_kv_dequantise_e4m3"},
    {kOp, &image_kv_approximation, "auxcore_kv_dequantise_q8"}, {kOp, &image_kv_approximation, "auxcore_kv_dequantise_q4"},
    {kOp, &image_kv_approximation, "auxcore_kv_dequantise_kivi"}};

void check(const auxcore_kv_elements& given, const Context& context, bool restores) {
  check_struct_size("elements", given.struct_size, sizeof given);
  kv::check_format("format", given.format);
  if (given.count < 0)
    fail(AUXCORE_E_ARGUMENT, "count is %lld", static_cast<long long>(given.count));
  if (given.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "reserved is %u, not 0", given.reserved);
  if (!(given.scale > 0 && std::isfinite(given.scale)))  // NaN too
    fail(AUXCORE_E_ARGUMENT, "scale is %g, not finite and above 0", static_cast<double>(given.scale));
  if (given.format != AUXCORE_KV_E4M3 && given.scale != 1)
    fail(AUXCORE_E_ARGUMENT, "scale is %g; it is 1 but for E4M3", static_cast<double>(given.scale));
  const int64_t bytes = kv::bytes_of("count", given.format, given.count);
  const int unit = kv::group_of(given.format) > 1 ? 1 : kv::group_bytes_of(given.format);
  Memory memory(context);
  if (restores) {
    memory.read("stored", given.stored, bytes / unit, unit);
    memory.write("elements", given.elements, given.count, 4);
  } else {
    memory.read("elements", given.elements, given.count, 4);
    memory.write("stored", given.stored, bytes / unit, unit);
  }
  memory.check_disjoint();
}

void run(const auxcore_kv_elements& given, Context& context, CUstream stream, bool restores) {
  if (given.count == 0)
    return;
  if (given.format == AUXCORE_KV_F32) {
    AUXCORE_CUDA(cuMemcpyDtoDAsync_v2, restores ? given.elements : given.stored, restores ? given.stored : given.elements,
        static_cast<std::size_t>(given.count) * 4, stream);
    return;
  }
  const unsigned stored_unit = kv::group_of(given.format) > 1 ? 16 : 4 * static_cast<unsigned>(kv::group_bytes_of(given.format));
  Arguments arguments = {};
  arguments.elements = given.elements;
  arguments.stored = given.stored;
  arguments.count = given.count;
  arguments.scale = given.scale;
  arguments.is_aligned = given.elements % 16 == 0 && given.stored % stored_unit == 0;
  context.launch((restores ? kDequantise : kQuantise)[given.format], Grid{blocks_for(given.count, kTile), kThreads}, stream, arguments);
}

void convert(auxcore_context context, void* stream, const auxcore_kv_elements* given, bool restores) {
  const std::shared_ptr<Context> opened = require<Context>(context, "context");
  if (given == nullptr)
    fail(AUXCORE_E_ARGUMENT, "elements is NULL");
  const Context::Scope scope(*opened);
  const CUstream on = static_cast<CUstream>(stream);
  opened->check_stream(on);
  check(*given, *opened, restores);
  run(*given, *opened, on, restores);
}

}  // namespace
}  // namespace auxcore::kv_quantise

using namespace auxcore;

extern "C" {

auxcore_status auxcore_kv_quantise(auxcore_context context, void* stream, const auxcore_kv_elements* elements) {
  return guarded(__func__, [&] { kv_quantise::convert(context, stream, elements, false); });
}

auxcore_status auxcore_kv_dequantise(auxcore_context context, void* stream, const auxcore_kv_elements* elements) {
  return guarded(__func__, [&] { kv_quantise::convert(context, stream, elements, true); });
}

}  // extern "C"
