// A library of another version, or of ours but without the functions.
#include "../include/auxcore.h"

extern "C" uint32_t auxcore_abi_version(void) { return AUXCORE_MISFIT_VERSION; }
