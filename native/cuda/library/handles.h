// Handles: numbers that stand for objects. A caller's number is looked up and never dereferenced, so a wrong one is a status.
#pragma once

#include <memory>

#include "status.h"

namespace auxcore {

class Context;

/// What a handle can stand for. Objects other than contexts belong to one, and go with it.
class Object {
 public:
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() = default;

  virtual const Context& owner() const noexcept = 0;
};

namespace handles {

/// A number that was never used before.
uint64_t add(std::shared_ptr<Object> object);

/// Null if the handle stands for nothing.
std::shared_ptr<Object> find(uint64_t handle);

void remove(uint64_t handle) noexcept;

/// Removes a context and all that belongs to it.
void remove_all(const Context& owner) noexcept;

}  // namespace handles

/// The object of a handle of kind T; a failure that says `what` if it is not one.
template <class T>
std::shared_ptr<T> require(uint64_t handle, const char* what) {
  std::shared_ptr<T> object = std::dynamic_pointer_cast<T>(handles::find(handle));
  if (!object)
    fail(AUXCORE_E_HANDLE, "%llu is no open %s", static_cast<unsigned long long>(handle), what);
  return object;
}

}  // namespace auxcore
