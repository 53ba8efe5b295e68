// The driver functions about streams.
#include "standin_state.h"

using standin::call;
using standin::Driver;
using standin::Kind;
using standin::require;
using standin::Stream;

namespace standin {
namespace {

void create_stream(Driver& driver, CUstream* stream, unsigned flags) {
  require(stream != nullptr && flags <= CU_STREAM_NON_BLOCKING, CUDA_ERROR_INVALID_VALUE);
  *stream = driver.streams.add(&driver.current(), flags == 0);
}

}  // namespace
}  // namespace standin

CUDA_EXPORT CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  return call(__func__, [&](Driver& driver) { standin::create_stream(driver, stream, flags); });
}

/// The priority is clamped to what there is, and there is one.
CUDA_EXPORT CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) {
  return call(__func__, [&](Driver& driver) { standin::create_stream(driver, stream, flags); });
}

CUDA_EXPORT CUresult cuStreamDestroy_v2(CUstream stream) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    driver.run_all(driver.streams.get(stream));
    driver.streams.remove(stream);
  });
}

CUDA_EXPORT CUresult cuStreamSynchronize(CUstream stream) {
  return call(__func__, [&](Driver& driver) { driver.synchronize(driver.stream(stream)); });
}

CUDA_EXPORT CUresult cuStreamGetCtx(CUstream stream, CUcontext* context) {
  return call(__func__, [&](Driver& driver) {
    require(context != nullptr, CUDA_ERROR_INVALID_VALUE);
    // The only function that takes streams of other contexts than the current one.
    *context = (reinterpret_cast<uintptr_t>(stream) <= 2 ? driver.current() : *driver.streams.get(stream).context).handle;
  });
}
