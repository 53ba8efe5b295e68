/* What the stand-in for libcuda.so.1 lets tests see and do, beside being a driver. Test only. */
#ifndef AUXCORE_STANDIN_H
#define AUXCORE_STANDIN_H

#include <stdint.h>

#define STANDIN_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* 1: so tests can tell the stand-in from a driver by asking whether this symbol exists. */
STANDIN_API int32_t auxcore_standin(void);

/* Driver calls of all threads since the process began, those that failed included. The functions of this header do not count. */
STANDIN_API int64_t auxcore_standin_calls(void);

/* The call with number auxcore_standin_calls() + nth fails with this CUresult; nth 0 takes that back. Calls that free something free it
 * nevertheless and then fail, as the driver's do when they report an earlier fault; all others do nothing. */
STANDIN_API void auxcore_standin_fail(int64_t nth, int32_t error);

/* The name of the driver function that auxcore_standin_fail last made fail; "" before. */
STANDIN_API const char* auxcore_standin_failed(void);

/* What exists now. */
typedef struct auxcore_standin_state {
  int64_t allocations;
  int64_t allocated_bytes;
  int64_t retained_contexts; /* of primary contexts: retains less releases, over all devices */
  int64_t pushed_contexts;   /* of the calling thread */
  int64_t modules;
  int64_t streams;
  int64_t events;
  int64_t graphs;
  int64_t launches; /* of kernels, since the process began: counted when they run */
  int64_t pending;  /* operations that were given to streams and did not run yet */
} auxcore_standin_state;

STANDIN_API void auxcore_standin_get_state(auxcore_standin_state* state);

/* Contexts that cuCtxCreate made and cuCtxDestroy did not destroy yet: of ILGPU, where the shim does not keep it from making them. */
STANDIN_API int64_t auxcore_standin_created_contexts(void);

/* Reads or writes device memory at once, whatever streams still have to do. 0, or 1 if the range is not all in one allocation. */
STANDIN_API int32_t auxcore_standin_peek(uint64_t address, void* destination, int64_t bytes);
STANDIN_API int32_t auxcore_standin_poke(uint64_t address, const void* source, int64_t bytes);

/* The last launch of a kernel that the simulator does not have, such as one compiled by ILGPU: these are recorded and do nothing.
 * parameters gets up to bytes bytes of the launch's parameter buffer, as the PTX signature lays them out. 0, or 1 if there was none. */
typedef struct auxcore_standin_launch {
  char kernel[256];
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
  uint32_t parameter_bytes;
  uint64_t stream;
} auxcore_standin_launch;

STANDIN_API int32_t auxcore_standin_last_recorded(auxcore_standin_launch* launch, void* parameters, uint32_t bytes);

#ifdef __cplusplus
}
#endif
#endif
