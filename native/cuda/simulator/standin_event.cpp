// The driver functions about events.
#include "standin_state.h"

using standin::call;
using standin::Driver;
using standin::fail;
using standin::Kind;
using standin::require;
using standin::Stream;

namespace standin {
namespace {

/// To the event's last record, and what went wrong on the way.
void wait_for(Driver& driver, const Event& event) {
  if (event.last == nullptr)
    return;
  require(!event.last->captured, CUDA_ERROR_CAPTURED_EVENT);
  driver.run_until(*event.last);
  require(event.context->fault == CUDA_SUCCESS, event.context->fault);
}

}  // namespace
}  // namespace standin

CUDA_EXPORT CUresult cuEventCreate(CUevent* event, unsigned flags) {
  return call(__func__, [&](Driver& driver) {
    require(event != nullptr, CUDA_ERROR_INVALID_VALUE);
    *event = driver.events.add(&driver.current(), (flags & CU_EVENT_DISABLE_TIMING) == 0);
  });
}

CUDA_EXPORT CUresult cuEventDestroy_v2(CUevent event) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    driver.events.get(event);
    driver.events.remove(event);
  });
}

CUDA_EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    Stream& recording = driver.stream(stream);
    standin::Event& recorded = driver.events.get(event);
    require(recorded.context == recording.context, CUDA_ERROR_INVALID_HANDLE);
    auto record = std::make_shared<standin::Record>(standin::Record{&recording, false, recording.capture != nullptr});
    driver.submit(recording, standin::Operation(record));
    recorded.last = std::move(record);
  });
}

CUDA_EXPORT CUresult cuEventSynchronize(CUevent event) {
  return call(__func__, [&](Driver& driver) { standin::wait_for(driver, driver.events.get(event)); });
}

/// Does not wait: work that is not done is done when the next query comes, so that a loop of queries ends.
CUDA_EXPORT CUresult cuEventQuery(CUevent event) {
  return call(__func__, [&](Driver& driver) {
    const standin::Event& queried = driver.events.get(event);
    const bool was_done = queried.last == nullptr || queried.last->done;
    standin::wait_for(driver, queried);
    require(was_done, CUDA_ERROR_NOT_READY);
  });
}

CUDA_EXPORT CUresult cuEventElapsedTime(float* milliseconds, CUevent begin, CUevent end) {
  return call(__func__, [&](Driver& driver) {
    require(milliseconds != nullptr, CUDA_ERROR_INVALID_VALUE);
    const standin::Event &first = driver.events.get(begin), &second = driver.events.get(end);
    require(first.is_timed && second.is_timed && first.last != nullptr && second.last != nullptr, CUDA_ERROR_INVALID_HANDLE);
    require(first.last->done && second.last->done, CUDA_ERROR_NOT_READY);
    *milliseconds = std::chrono::duration<float, std::milli>(second.last->at - first.last->at).count();
  });
}

CUDA_EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
  return call(__func__, [&](Driver& driver) {
    require(flags == 0, CUDA_ERROR_INVALID_VALUE);
    Stream& waiting = driver.stream(stream);
    const std::shared_ptr<standin::Record> record = driver.events.get(event).last;
    if (record == nullptr)
      return;
    if (waiting.capture && !record->captured) {
      waiting.capture->invalidated = true;
      fail(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    }
    if (record->captured) {
      // The driver would let the waiting stream join the capture; nothing here needs that.
      require(record->stream == &waiting && waiting.capture, CUDA_ERROR_NOT_SUPPORTED);
      return;
    }
    driver.submit(waiting, [&driver, record] { driver.run_until(*record); });
  });
}
