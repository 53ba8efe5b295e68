// How failures travel: C++ exceptions inside, a status and this thread's message outside.
#pragma once

#include <exception>
#include <new>

#include "auxcore.h"

namespace auxcore {

/// A failure on its way to the C boundary.
class Failure final : public std::exception {
 public:
  explicit Failure(auxcore_status status, const char* message) noexcept;

  auxcore_status status() const noexcept { return status_; }
  const char* what() const noexcept override { return message_; }

 private:
  auxcore_status status_;
  char message_[1024];  // held by value: a failure for want of memory must not need any
};

[[noreturn]] void fail(auxcore_status status, const char* format, ...) __attribute__((format(printf, 2, 3)));

/// Makes a message this thread's last error; returns the status.
auxcore_status report(auxcore_status status, const char* function, const char* message) noexcept;

/// The body of every function of the ABI: nothing that is thrown leaves it.
template <class Body>
auxcore_status guarded(const char* function, Body&& body) noexcept {
  try {
    body();
    return AUXCORE_OK;
  } catch (const Failure& failure) {
    return report(failure.status(), function, failure.what());
  } catch (const std::bad_alloc&) {
    return report(AUXCORE_E_MEMORY, function, "the host is out of memory");
  } catch (const std::exception& unexpected) {
    return report(AUXCORE_E_INTERNAL, function, unexpected.what());
  } catch (...) {
    return report(AUXCORE_E_INTERNAL, function, "something that is no exception was thrown");
  }
}

/// Runs every step of a clean-up, whichever of them fail, and then throws the first failure.
class FirstFailure {
 public:
  template <class Step>
  void attempt(Step&& step) {
    try {
      step();
    } catch (...) {
      if (!first_)
        first_ = std::current_exception();
    }
  }

  void rethrow() const {
    if (first_)
      std::rethrow_exception(first_);
  }

 private:
  std::exception_ptr first_;
};

}  // namespace auxcore
