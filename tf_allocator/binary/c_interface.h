// SPDX-License-Identifier: Apache-2.0
//
// introspection.h as plain C, for languages that can call C and no more: the
// Python package uses it if no native module was built for its Python.
//
// Texts are JSON, with the bytes of model directories as they are, UTF-8 or
// not. Field names are those of pool_stats.h and introspection.h; sizes are
// bytes. No exception leaves these functions. All are thread-safe.

#ifndef TF_ALLOCATOR_BINARY_C_INTERFACE_H_
#define TF_ALLOCATOR_BINARY_C_INTERFACE_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Counts up when a function or a field changes its meaning or goes away; new
// ones do not count.
#define TF_MODEL_POOL_C_INTERFACE_VERSION 1

// The version that the library was built with.
int TfModelPool_InterfaceVersion(void);

// Each returns a text that the caller gives back to TfModelPool_FreeText, or
// NULL if memory ran out.
char* TfModelPool_ListPools(void);   // [{"id": 1, "name": "ctr/3", ...}, ...]
char* TfModelPool_Totals(void);      // {"bytes_in_use": 0, ...}
char* TfModelPool_LoadTotals(void);  // {"direct_restores": 0, ...}
// {"active": true, "code": "active", "reason": ""}; StatusCodeName() has codes.
char* TfModelPool_Status(void);
char* TfModelPool_Settings(void);  // {"TF_MODEL_POOL": "on", ...}
// The name of the pool that `address` lies in, as a JSON string; "" = none.
char* TfModelPool_PoolOf(const void* address);

// NULL is ignored.
void TfModelPool_FreeText(char* text);

// Gives the memory of standby slots back. Returns bytes.
uint64_t TfModelPool_Trim(void);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // TF_ALLOCATOR_BINARY_C_INTERFACE_H_
