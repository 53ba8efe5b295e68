// What the stand-in knows: devices, contexts, streams and what else a driver makes, and how work goes through streams.
//
// Streams are lazy, so that work which nothing waits for is not done: whoever forgets to wait reads poison. The legacy default stream works
// at once; any other stream keeps what it is given until something waits for it.
#pragma once

#include "launch.h"
#include "ptx.h"
#include "standin.h"
#include "standin_cuda.h"
#include "standin_host_memory.h"
#include "standin_memory.h"

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace standin {

/// Ends a driver call with this result.
struct Failure {
  CUresult result;
};

[[noreturn]] inline void fail(CUresult result) { throw Failure{result}; }

inline void require(bool holds, CUresult otherwise) {
  if (!holds)
    fail(otherwise);
}

/// Objects by their handles: numbers that are no addresses and never come back.
template <class T, class Handle>
class Table {
 public:
  template <class... Arguments>
  Handle add(Arguments&&... arguments) {
    const Handle handle = reinterpret_cast<Handle>(next_handle());
    objects_.emplace(handle, std::make_unique<T>(T{std::forward<Arguments>(arguments)...}));
    return handle;
  }

  T& get(Handle handle) const {
    const auto found = objects_.find(handle);
    require(found != objects_.end(), CUDA_ERROR_INVALID_HANDLE);
    return *found->second;
  }

  void remove(Handle handle) { objects_.erase(handle); }

  template <class Predicate>
  void remove_if(Predicate predicate) {
    std::erase_if(objects_, [&](const auto& entry) { return predicate(*entry.second); });
  }

  size_t size() const { return objects_.size(); }
  auto begin() const { return objects_.begin(); }
  auto end() const { return objects_.end(); }

 private:
  static uintptr_t next_handle();

  std::map<Handle, std::unique_ptr<T>> objects_;
};

uintptr_t make_handle();

template <class T, class Handle>
uintptr_t Table<T, Handle>::next_handle() {
  return make_handle();
}

struct Context;
struct Stream;

/// One cuEventRecord: done once the stream has come to it.
struct Record {
  Stream* stream;  ///< there until the record is done
  bool done = false;
  bool captured = false;
  std::chrono::steady_clock::time_point at = {};
};

/// What a stream is given: work, or a record to come to.
struct Operation {
  template <class Work>
  Operation(Work work_) : work(std::move(work_)) {}
  explicit Operation(std::shared_ptr<Record> record_) : record(std::move(record_)) {}

  std::function<void()> work;
  std::shared_ptr<Record> record;
};

using Operations = std::vector<Operation>;

struct Capture {
  CUstreamCaptureMode mode;
  std::thread::id thread;
  Operations operations;
  bool invalidated = false;
};

struct Stream {
  Context* context;
  bool waits_for_legacy;  ///< and the legacy stream for it
  std::deque<Operation> queue = {};
  std::unique_ptr<Capture> capture = {};
};

struct Event {
  Context* context;
  bool is_timed;
  std::shared_ptr<Record> last = {};
};

/// A primary context, or one that somebody created, which counts as retained once until it is destroyed.
struct Context {
  int device = 0;
  CUcontext handle = nullptr;
  int retained = 0;
  CUresult fault = CUDA_SUCCESS;  ///< of work that failed; sticks until the context is gone
  Stream legacy{this, false};
  int cache_config = 0, shared_config = 0;
  std::set<CUcontext> peers = {};
};

struct Function {
  Context* context;
  CUmodule module;
  std::string name;
  const simt::Kernel* kernel;  ///< nullptr: launches are recorded
  std::vector<Parameter> parameters;
  size_t parameter_bytes;
};

struct Module {
  Context* context;
  std::string ptx;  ///< empty: a fat binary, whose kernels are the simulator's
};

struct Graph {
  Operations operations;
};

struct ExecutableGraph {
  Operations operations;
};

struct RecordedLaunch {
  auxcore_standin_launch launch;
  std::vector<unsigned char> parameters;
};

constexpr int kDevices = 2;
constexpr int kMultiprocessors = 4;  ///< of each
constexpr size_t kDeviceMemory = size_t(1) << 30;  ///< of each; what is allocated is filled with poison, and so really used

class Driver {
 public:
  static Driver& instance();

  Context& current();
  Context& context(CUcontext handle);
  Context& primary(CUdevice device);
  bool is_primary(const Context& context) const;
  Context& create_context(CUdevice device);
  int64_t created_contexts() const;
  Stream& stream(CUstream handle);

  /// To the end of the stream, which then does not capture.
  void synchronize(Stream& stream);
  void synchronize(Context& context);

  /// Gives work to a stream, or to the graph that it captures.
  void submit(Stream& stream, Operation operation);
  void run_until(const Record& record);
  void run_all(Stream& stream);
  void drain(Context& context);

  /// For calls that a capture forbids: invalidates the captures that do.
  void forbid_while_capturing();
  void release_all_of(Context& context);
  int64_t pending() const;

  std::mutex mutex;
  bool initialized = false;
  int64_t calls = 0;
  int64_t failing_call = 0;
  CUresult failing_result = CUDA_SUCCESS;
  const char* failed = "";
  int64_t launches = 0;
  std::unique_ptr<RecordedLaunch> recorded;

  Memory memory;
  HostMemory host_memory;
  Table<Stream, CUstream> streams;
  Table<Event, CUevent> events;
  Table<Module, CUmodule> modules;
  Table<Function, CUfunction> functions;
  Table<Graph, CUgraph> graphs;
  Table<ExecutableGraph, CUgraphExec> executable_graphs;

 private:
  Driver();
  void run_one(Stream& stream);
  void run(Context& context, const Operation& operation);

  std::unique_ptr<Context> primaries_[kDevices];
  // Those destroyed stay: threads may still have them on their stacks.
  std::vector<std::unique_ptr<Context>> created_;
};

/// The calling thread's stack of contexts.
std::vector<Context*>& context_stack();

enum class Kind {
  kPlain,
  kFrees,      ///< frees even where a failure was asked for
  kAtAnyTime,  ///< before cuInit too
};

CUresult result_asked_for(Driver& driver, const char* name);

/// A driver function: counted, made to fail where a test asked for it, and no exception leaves it.
template <class Body>
CUresult call(const char* name, Kind kind, Body body) noexcept {
  try {
    Driver& driver = Driver::instance();
    const std::lock_guard lock(driver.mutex);
    const CUresult asked_for = result_asked_for(driver, name);
    if (asked_for != CUDA_SUCCESS && kind != Kind::kFrees)
      return asked_for;
    try {
      require(driver.initialized || kind == Kind::kAtAnyTime, CUDA_ERROR_NOT_INITIALIZED);
      body(driver);
    } catch (const Failure& failure) {
      return asked_for != CUDA_SUCCESS ? asked_for : failure.result;
    }
    return asked_for;
  } catch (const std::bad_alloc&) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  } catch (...) {
    return CUDA_ERROR_UNKNOWN;
  }
}

template <class Body>
CUresult call(const char* name, Body body) noexcept {
  return call(name, Kind::kPlain, body);
}

}  // namespace standin
