// Turns an access of a kernel to memory that is not the device's into an error, as a device does, instead of the end of the process.
#pragma once

#include "launch.h"

namespace simt {

/// Thrown by run() in place of what the kernel still had to do.
struct IllegalAddress {
  const void* address;
};

/// While it exists, a kernel that this host thread runs and that faults ends with IllegalAddress. Other faults go to whom they went before.
/// At most one exists at a time.
class FaultGuard {
 public:
  FaultGuard();
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;
};

}  // namespace simt
