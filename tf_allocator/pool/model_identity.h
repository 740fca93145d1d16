// SPDX-License-Identifier: Apache-2.0
//
// Which model and which version a checkpoint belongs to, by its path alone.

#ifndef TF_ALLOCATOR_POOL_MODEL_IDENTITY_H_
#define TF_ALLOCATOR_POOL_MODEL_IDENTITY_H_

#include <string>

namespace tf_model_pool {

struct ModelIdentity {
  std::string model_dir;  // versions of one model share it
  std::string version;    // "" for a SavedModel in an unversioned directory

  // "<last part of model_dir>/<version>", for people; the one that is there
  // if the other is missing. Not unique: two models of one name can live in
  // different directories.
  std::string Name() const;

  bool operator==(const ModelIdentity& other) const {
    return model_dir == other.model_dir && version == other.version;
  }
};

// Derives the identity from a checkpoint prefix, as RestoreV2 receives it:
//   /m/ctr/3/variables/variables     model_dir /m/ctr      version 3
//   /m/ctr/v3.1/variables/variables  model_dir /m/ctr      version v3.1
//   /m/ranker/variables/variables    model_dir /m/ranker   version ""
//   /train/ckpt-500                  model_dir /train      version ckpt-500
//   ckpt-500                         model_dir .           version ckpt-500
// A directory names a version when it starts with a digit, or with "v" and a
// digit; TensorFlow Serving's versions are whole numbers. The path is cleaned
// of "//" and "/./" and nothing is looked up on disk, so that remote file
// systems ("gs://...") work and no restore waits for it.
ModelIdentity IdentityFromCheckpointPrefix(const std::string& prefix);

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_MODEL_IDENTITY_H_
