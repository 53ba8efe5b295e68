// The driver functions about streams, events, captures and graphs.
#include "standin_state.h"

using standin::call;
using standin::Driver;
using standin::fail;
using standin::Kind;
using standin::require;
using standin::Stream;

CUDA_EXPORT CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  return call(__func__, [&](Driver& driver) {
    require(stream != nullptr && flags <= CU_STREAM_NON_BLOCKING, CUDA_ERROR_INVALID_VALUE);
    *stream = driver.streams.add(&driver.current(), flags == 0);
  });
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

CUDA_EXPORT CUresult cuEventCreate(CUevent* event, unsigned) {
  return call(__func__, [&](Driver& driver) {
    require(event != nullptr, CUDA_ERROR_INVALID_VALUE);
    *event = driver.events.add(&driver.current());
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
    driver.submit(recording, [record] { record->done = true; });
    recorded.last = std::move(record);
  });
}

CUDA_EXPORT CUresult cuStreamIsCapturing(CUstream stream, int* status) {
  return call(__func__, [&](Driver& driver) {
    require(status != nullptr, CUDA_ERROR_INVALID_VALUE);
    const standin::Capture* capture = driver.stream(stream).capture.get();
    *status = capture == nullptr       ? CU_STREAM_CAPTURE_STATUS_NONE
              : capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                     : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  });
}

CUDA_EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, int mode) {
  return call(__func__, [&](Driver& driver) {
    require(mode >= CU_STREAM_CAPTURE_MODE_GLOBAL && mode <= CU_STREAM_CAPTURE_MODE_RELAXED, CUDA_ERROR_INVALID_VALUE);
    Stream& capturing = driver.stream(stream);
    require(&capturing != &capturing.context->legacy, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    require(!capturing.capture, CUDA_ERROR_INVALID_VALUE);
    capturing.capture =
        std::make_unique<standin::Capture>(standin::Capture{CUstreamCaptureMode(mode), std::this_thread::get_id(), {}, false});
  });
}

CUDA_EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  return call(__func__, [&](Driver& driver) {
    require(graph != nullptr, CUDA_ERROR_INVALID_VALUE);
    Stream& capturing = driver.stream(stream);
    require(capturing.capture != nullptr, CUDA_ERROR_INVALID_VALUE);
    const std::unique_ptr<standin::Capture> capture = std::move(capturing.capture);
    *graph = nullptr;
    require(!capture->invalidated, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    *graph = driver.graphs.add(std::move(capture->operations));
  });
}

CUDA_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
  return call(__func__, [&](Driver& driver) {
    require(executable != nullptr, CUDA_ERROR_INVALID_VALUE);
    *executable = driver.executable_graphs.add(driver.graphs.get(graph).operations);
  });
}

CUDA_EXPORT CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    Stream& target = driver.stream(stream);
    require(!target.capture, CUDA_ERROR_NOT_SUPPORTED);
    driver.submit(target, [operations = driver.executable_graphs.get(executable).operations] {
      for (const standin::Operation& operation : operations)
        operation();
    });
  });
}

CUDA_EXPORT CUresult cuGraphExecDestroy(CUgraphExec executable) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    driver.executable_graphs.get(executable);
    driver.executable_graphs.remove(executable);
  });
}

CUDA_EXPORT CUresult cuGraphDestroy(CUgraph graph) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    driver.graphs.get(graph);
    driver.graphs.remove(graph);
  });
}
