// The driver functions about captures and graphs.
#include "standin_state.h"

using standin::call;
using standin::Driver;
using standin::Kind;
using standin::require;
using standin::Stream;

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
        if (operation.work)
          operation.work();
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
