// SPDX-License-Identifier: Apache-2.0
//
// libtf_model_pool_preload.so, for LD_PRELOAD on an untouched TensorFlow.
//
// libtf_model_pool.so itself cannot be preloaded: it uses TensorFlow's symbols,
// which exist only after a program, such as Python, has loaded TensorFlow. This
// library needs the C library alone. It stands in front of the functions that
// libtf_model_pool.so defines, under their names, and on the first call of one
// of them it loads libtf_model_pool.so from its own directory and jumps to the
// function there. In a process without TensorFlow it does nothing.
//
// If pools cannot be (another version of TensorFlow, no libtf_model_pool.so)
// the hooks lead to TensorFlow's own functions, and one line on standard error
// says why.

#ifndef TF_ALLOCATOR_BINARY_PRELOAD_H_
#define TF_ALLOCATOR_BINARY_PRELOAD_H_

extern "C" {

// The function that the hook of this mangled name leads to; nullptr if there
// is no such hook. Loads libtf_model_pool.so in either case. Found by name in
// the process: a process that does not have it was not started with the library
// preloaded. Thread-safe.
// REQUIRES: TensorFlow is loaded.
const void* tf_model_pool_preload_target(const char* symbol);

}  // extern "C"

#endif  // TF_ALLOCATOR_BINARY_PRELOAD_H_
