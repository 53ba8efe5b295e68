#include "standin_state.h"

#include <algorithm>
#include <atomic>
#include <iterator>

namespace standin {

uintptr_t make_handle() {
  static std::atomic<uintptr_t> next{0x1000};
  return next.fetch_add(16);
}

std::vector<Context*>& context_stack() {
  static thread_local std::vector<Context*> stack;
  return stack;
}

CUresult result_asked_for(Driver& driver, const char* name) {
  ++driver.calls;
  if (driver.calls != driver.failing_call)
    return CUDA_SUCCESS;
  driver.failed = name;
  return driver.failing_result;
}

Driver& Driver::instance() {
  // Never destroyed: other libraries free what they have while the process ends.
  static Driver& driver = *new Driver;
  return driver;
}

Driver::Driver() {
  for (int device = 0; device < kDevices; ++device) {
    primaries_[device] = std::make_unique<Context>();
    primaries_[device]->device = device;
    primaries_[device]->handle = reinterpret_cast<CUcontext>(make_handle());
  }
}

Context& Driver::primary(CUdevice device) {
  require(device >= 0 && device < kDevices, CUDA_ERROR_INVALID_DEVICE);
  return *primaries_[device];
}

bool Driver::is_primary(const Context& context) const { return primaries_[context.device].get() == &context; }

Context& Driver::create_context(CUdevice device) {
  primary(device);
  auto created = std::make_unique<Context>();
  created->device = device;
  created->handle = reinterpret_cast<CUcontext>(make_handle());
  created->retained = 1;
  created_.push_back(std::move(created));
  return *created_.back();
}

int64_t Driver::created_contexts() const {
  return std::count_if(created_.begin(), created_.end(), [](const auto& context) { return context->retained > 0; });
}

Context& Driver::context(CUcontext handle) {
  const auto matches = [&](const auto& context) { return context->handle == handle; };
  Context* found = nullptr;
  if (const auto at = std::find_if(std::begin(primaries_), std::end(primaries_), matches); at != std::end(primaries_))
    found = at->get();
  else if (const auto other = std::find_if(created_.begin(), created_.end(), matches); other != created_.end())
    found = other->get();
  require(found != nullptr, CUDA_ERROR_INVALID_CONTEXT);
  require(found->retained > 0, CUDA_ERROR_CONTEXT_IS_DESTROYED);
  return *found;
}

Context& Driver::current() {
  require(!context_stack().empty(), CUDA_ERROR_INVALID_CONTEXT);
  Context& context = *context_stack().back();
  require(context.retained > 0, CUDA_ERROR_CONTEXT_IS_DESTROYED);
  require(context.fault == CUDA_SUCCESS, context.fault);
  return context;
}

Stream& Driver::stream(CUstream handle) {
  Context& context = current();
  // NULL, CU_STREAM_LEGACY, and CU_STREAM_PER_THREAD, which is no stream of its own here.
  if (reinterpret_cast<uintptr_t>(handle) <= 2)
    return context.legacy;
  Stream& found = streams.get(handle);
  require(found.context == &context, CUDA_ERROR_INVALID_HANDLE);
  return found;
}

void Driver::submit(Stream& stream, Operation operation) {
  if (stream.capture) {
    require(!stream.capture->invalidated, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    stream.capture->operations.push_back(std::move(operation));
    return;
  }
  stream.queue.push_back(std::move(operation));
  if (&stream != &stream.context->legacy)
    return;

  for (const auto& [handle, other] : streams)
    if (other->context == stream.context && other->waits_for_legacy) {
      if (other->capture) {
        other->capture->invalidated = true;
        stream.queue.pop_back();
        fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
      }
      run_all(*other);
    }
  run_all(stream);
}

void Driver::run(Context& context, const Operation& operation) {
  if (operation.record != nullptr) {  // also after a fault: nobody is to wait for ever
    operation.record->done = true;
    operation.record->at = std::chrono::steady_clock::now();
    return;
  }
  if (context.fault != CUDA_SUCCESS)
    return;
  try {
    operation.work();
  } catch (const Failure& failure) {
    context.fault = failure.result;
  }
}

void Driver::run_one(Stream& stream) {
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  run(*stream.context, operation);
}

void Driver::run_until(const Record& record) {
  while (!record.done && !record.stream->queue.empty())
    run_one(*record.stream);
}

void Driver::run_all(Stream& stream) {
  while (!stream.queue.empty())
    run_one(stream);
}

void Driver::drain(Context& context) {
  for (const auto& [handle, stream] : streams)
    if (stream->context == &context)
      run_all(*stream);
}

void Driver::synchronize(Stream& stream) {
  if (stream.capture) {
    stream.capture->invalidated = true;
    fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  }
  run_all(stream);
  if (&stream == &stream.context->legacy)
    for (const auto& [handle, other] : streams)
      if (other->context == stream.context && other->waits_for_legacy && !other->capture)
        run_all(*other);
  require(stream.context->fault == CUDA_SUCCESS, stream.context->fault);
}

void Driver::synchronize(Context& context) {
  forbid_while_capturing();
  drain(context);
  require(context.fault == CUDA_SUCCESS, context.fault);
}

void Driver::forbid_while_capturing() {
  bool forbidden = false;
  for (const auto& [handle, stream] : streams) {
    Capture* capture = stream->capture.get();
    if (capture == nullptr || capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED)
      continue;
    if (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && capture->thread != std::this_thread::get_id())
      continue;
    capture->invalidated = true;
    forbidden = true;
  }
  require(!forbidden, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

void Driver::release_all_of(Context& context) {
  drain(context);
  const auto is_its = [&](const auto& object) { return object.context == &context; };
  functions.remove_if(is_its);
  modules.remove_if(is_its);
  events.remove_if(is_its);
  streams.remove_if(is_its);
  memory.free_all(context);
  context.fault = CUDA_SUCCESS;
  context.cache_config = context.shared_config = 0;
  context.peers.clear();
}

int64_t Driver::pending() const {
  int64_t sum = 0;
  for (const auto& [handle, stream] : streams)
    sum += int64_t(stream->queue.size());
  return sum;
}

}  // namespace standin
