// SPDX-License-Identifier: Apache-2.0
//
// Which model version a session's CPU device belongs to. Weights that are
// constants of a graph come without a checkpoint; what tells whose they are is
// the device that they are made for.
//
// Every DirectSession has a device of its own, known by its incarnation, a
// random 64-bit number. The device that all models of the eager runtime share
// must never be named here.

#ifndef TF_ALLOCATOR_DEVICE_DEVICE_MODEL_H_
#define TF_ALLOCATOR_DEVICE_DEVICE_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace tensorflow {

// All are thread-safe. `incarnation` is Device::attributes().incarnation().

// A session was loaded: its device belongs to the version whose checkpoint has
// this prefix, whether or not there is a checkpoint. `constant_bytes` is what
// the graph's constants take in a pool; 0 = not known. A device that is named
// for a second version is shared, and belongs to none from then on.
void SetDeviceModel(uint64_t incarnation, const std::string& checkpoint_prefix,
                    size_t constant_bytes);

// A session restored a checkpoint. Counts for less than SetDeviceModel: does
// nothing after it, while checkpoints of two versions make a device shared.
void NoteDeviceRestore(uint64_t incarnation,
                       const std::string& checkpoint_prefix);

// The device is gone, or will make no more constants. Devices that nobody
// forgets are dropped, oldest first, beyond kMaxDeviceModels.
void ForgetDevice(uint64_t incarnation);
constexpr size_t kMaxDeviceModels = 4096;

// The checkpoint prefix of the version that a device belongs to, "" = none.
// The first call for a device sets `*constant_bytes` to what SetDeviceModel
// was told, every later one to 0.
std::string TakeDeviceModel(uint64_t incarnation, size_t* constant_bytes);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_DEVICE_DEVICE_MODEL_H_
