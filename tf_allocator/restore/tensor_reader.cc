// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/tensor_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <thread>

#include "absl/types/span.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/lib/hash/crc32c.h"
#include "tensorflow/core/platform/byte_order.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/protobuf/tensor_bundle.pb.h"
#include "tensorflow/core/util/tensor_bundle/naming.h"
#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/device/settings.h"
#include "tf_allocator/restore/rate_limit.h"
#include "tf_allocator/sched/load_thread.h"

namespace tensorflow {
namespace {

// Smaller than a core's second-level cache, and read in 200 us or so.
constexpr size_t kPiece = size_t{512} << 10;

// The page cache lets go of what was read after so many bytes more: that takes
// as long as reading a piece or so.
constexpr size_t kDropped = size_t{8} << 20;

// Until `bytes` more may be read.
void WaitForTurn(uint64_t bytes) {
  tf_model_pool::PauseHere();
  using tf_model_pool::RateLimit;
  static RateLimit* const limit = [] {
    const uint64_t rate =
        tf_model_pool::ProcessSettings().read_bytes_per_second;
    return rate == 0 ? nullptr : new RateLimit(rate);
  }();
  if (limit == nullptr) return;
  const RateLimit::Clock::time_point now = RateLimit::Clock::now();
  const RateLimit::Clock::time_point turn = limit->Take(bytes, now);
  if (turn > now) std::this_thread::sleep_until(turn);
}

// `bytes` of 0: to the end of the file. Pages that are not on disk yet, or that
// others have mapped, stay.
void DropFromCache(int descriptor, uint64_t offset, uint64_t bytes) {
  if (descriptor < 0) return;
  posix_fadvise(descriptor, static_cast<off_t>(offset),
                static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

// The index has the bundle's header there.
constexpr char kHeaderKey[] = "";

// Releases that have a Read of a span deprecate the other one.
template <typename File>
auto ReadFile(const File& file, uint64_t offset, absl::Span<char> to,
              absl::string_view* got, int /*preferred*/)
    -> decltype(file.Read(offset, *got, to)) {
  return file.Read(offset, *got, to);
}
template <typename File>
absl::Status ReadFile(const File& file, uint64_t offset, absl::Span<char> to,
                      absl::string_view* got, long /*otherwise*/) {
  return file.Read(offset, to.size(), got, to.data());
}

}  // namespace

TensorReader::TensorReader(const std::string& prefix)
    : prefix_(prefix), index_(Env::Default(), prefix) {
  // Elsewhere each piece could be a request over a network.
  const bool is_local_file = prefix.find("://") == std::string::npos;
  if (!is_local_file || !index_.status().ok()) return;
  index_.Seek(kHeaderKey);
  BundleHeaderProto header;
  if (!index_.Valid() || index_.key() != kHeaderKey ||
      !header.ParseFromString(std::string(index_.value()))) {
    return;
  }
  if ((header.endianness() == BundleHeaderProto::LITTLE) ==
      port::kLittleEndian) {
    shards_ = header.num_shards();
  }
}

TensorReader::~TensorReader() {
  if (tf_model_pool::ProcessSettings().drop_cache) {
    try {
      // Those too that only BundleReader has read, but no more than there are:
      // an index may lie about their number.
      for (int32_t shard = 0; shard < shards_; ++shard) {
        if (Open(shard).cached < 0) break;
      }
    } catch (const std::bad_alloc&) {
      // Then some stay in the cache.
    }
  }
  for (auto& [shard, data] : data_) {
    DropFromCache(data.cached, 0, 0);
    if (data.cached >= 0) close(data.cached);
  }
}

absl::Status TensorReader::Read(absl::string_view key, Tensor* tensor) {
  if (tensor->TotalBytes() > kPiece && shards_ > 0 &&
      DataTypeCanUseMemcpy(tensor->dtype()) && ReadInPieces(key, tensor)) {
    return absl::OkStatus();
  }
  WaitForTurn(tensor->TotalBytes());
  return index_.Lookup(key, tensor);
}

bool TensorReader::ReadInPieces(absl::string_view key, Tensor* tensor) {
  index_.Seek(key);
  BundleEntryProto entry;
  if (!index_.Valid() || index_.key() != key ||
      !entry.ParseFromString(std::string(index_.value()))) {
    return false;
  }
  const absl::string_view buffer = tensor->tensor_data();
  if (entry.slices_size() != 0 || entry.dtype() != tensor->dtype() ||
      entry.size() != static_cast<int64_t>(buffer.size())) {
    return false;
  }
  const DataFile& data = Open(entry.shard_id());
  if (data.file == nullptr) return false;
  uint32_t checksum = 0;
  for (size_t done = 0, dropped = 0; done < buffer.size(); done += kPiece) {
    char* const to = const_cast<char*>(buffer.data()) + done;
    const size_t wanted = std::min(kPiece, buffer.size() - done);
    absl::string_view got;
    WaitForTurn(wanted);
    if (!ReadFile(*data.file, entry.offset() + done, absl::MakeSpan(to, wanted),
                  &got, 0)
             .ok() ||
        got.size() != wanted) {
      return false;
    }
    // A file that is memory itself gives a pointer into it.
    if (got.data() != to) std::copy(got.begin(), got.end(), to);
    checksum = crc32c::Extend(checksum, to, wanted);
    if (done + wanted - dropped >= kDropped) {
      DropFromCache(data.cached, entry.offset() + dropped,
                    done + wanted - dropped);
      dropped = done + wanted;
    }
  }
  return crc32c::Unmask(entry.crc32c()) == checksum;
}

TensorReader::DataFile& TensorReader::Open(int32_t shard) {
  const auto [it, is_new] = data_.try_emplace(shard);
  DataFile& data = it->second;
  if (is_new) {
    const std::string name = DataFilename(prefix_, shard, shards_);
    if (!Env::Default()->NewRandomAccessFile(name, &data.file).ok()) {
      data.file = nullptr;
    }
    if (tf_model_pool::ProcessSettings().drop_cache) {
      data.cached = open(name.c_str(), O_RDONLY | O_CLOEXEC);
    }
  }
  return data;
}

}  // namespace tensorflow
