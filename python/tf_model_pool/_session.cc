// SPDX-License-Identifier: Apache-2.0
//
// Python module tf_model_pool._session: SavedModels that C++ loads, runs and
// unloads, without the interpreter's lock. What they mean to a program is in
// load.py.
//
// High-level model
// - A Model is a SavedModel's session, and the callables of its signatures. A
//   Signature holds a reference to its Model, and nothing refers back.
// - A call makes tensors of what it is given, with the lock; runs, without; and
//   makes arrays of what came out, with the lock again.
// - Tensors share memory with arrays both ways if that can be: an input's with
//   the array that it came from, if that is aligned, and an output's array with
//   the tensor, which it owns.
//
// Import tensorflow before this module: TensorFlow must be the one to load its
// own libraries.

#include <dlfcn.h>
#include <pthread.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/common_runtime/dma_helper.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/logging.h"
#include "tensorflow/core/platform/threadpool.h"
#include "tensorflow/core/platform/threadpool_options.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/protobuf/config.pb.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session.h"
#include "tensorflow/core/public/session_options.h"

namespace py = pybind11;

namespace {

using tensorflow::DataType;
using tensorflow::Tensor;

constexpr char kDefaultSignature[] = "serving_default";

// With more bytes of constants than this, only the default signature is made
// ready in a load: each has a copy of those that it uses.
constexpr size_t kLargeConstants = size_t{64} << 20;

// A signature has executors for so many selections of its outputs, beside those
// for all of them, which then answer for any other selection. Programs ask for
// a few; clients that choose theirs could ask for as many as there are subsets.
constexpr size_t kMostSelections = 16;

// If their copies of the graph's constants might take more bytes than this, it
// has fewer, and at least one.
constexpr size_t kMostCopiesOfConstants = size_t{1} << 30;

// RunOptions.inter_op_thread_pool: run in the calling thread.
constexpr int kCallingThread = -1;

// Its functions, looked up by name: the released TensorFlow does not have it,
// and in a process that preloads it it is in nobody's scope.
struct Library {
  void (*run_at_load_priority)(const std::function<void()>&) = nullptr;
  void (*wait_for_unloads)() = nullptr;
  bool (*set_preparing)(bool) = nullptr;

  static const Library& OfProcess() {
    static const Library library = [] {
      Library found;
      void* const handle =
          dlopen("libtf_model_pool.so", RTLD_LAZY | RTLD_NOLOAD);
      if (handle == nullptr) return found;
      found.run_at_load_priority =
          reinterpret_cast<void (*)(const std::function<void()>&)>(dlsym(
              handle,
              "_ZN13tf_model_pool17RunAtLoadPriorityERKSt8functionIFvvEE"));
      found.wait_for_unloads = reinterpret_cast<void (*)()>(
          dlsym(handle, "_ZN13tf_model_pool14WaitForUnloadsEv"));
      found.set_preparing = reinterpret_cast<bool (*)(bool)>(
          dlsym(handle, "_ZN13tf_model_pool12SetPreparingEb"));
      return found;
    }();
    return library;
  }
};

// Calls `work` on a thread that gives way to requests, if there is the library.
void RunAtLoadPriority(const std::function<void()>& work) {
  const auto run = Library::OfProcess().run_at_load_priority;
  run == nullptr ? work() : run(work);
}

void WaitForUnloads() {
  if (const auto wait = Library::OfProcess().wait_for_unloads) wait();
}

// How many forks lie between this process and the one that loaded the module.
std::atomic<int> forks{0};

// Set as the interpreter ends, if calls are still in flight: what they use is
// left alone, and they do not come back.
std::atomic<bool> abandoned{false};

// Set as the interpreter ends, when all models are closed.
std::atomic<bool> all_closed{false};

// How many threads let others have the interpreter now.
std::atomic<int> without_interpreter{0};

// Lets other threads have the interpreter while the object lives. An
// interpreter that ends would end a thread that wants it back, in the middle of
// C++: so it waits until all have it back, and then nobody lets go of it.
class WithoutInterpreter {
 public:
  WithoutInterpreter() {
    if (all_closed.load()) return;
    without_interpreter.fetch_add(1);
    state_ = PyEval_SaveThread();
  }
  ~WithoutInterpreter() {
    if (state_ == nullptr) return;
    while (abandoned.load()) pause();
    PyEval_RestoreThread(state_);
    without_interpreter.fetch_sub(1);
  }
  WithoutInterpreter(const WithoutInterpreter&) = delete;
  WithoutInterpreter& operator=(const WithoutInterpreter&) = delete;

 private:
  PyThreadState* state_ = nullptr;
};

// What load.py gives. Never destroyed: it may be in use as the interpreter
// ends.
struct Python {
  std::map<int, py::object> dtypes;        // numpy's, by DataType
  std::map<int, std::string> dtype_names;  // Python's TensorFlow's
  py::object as_array;                     // (value, dtype, expected) -> array
  py::object tensorflow_error;             // (code, message)
  py::object closed_error;
  py::object forked_error;

  static Python& Get() {
    static auto* const python = new Python;
    return *python;
  }
  static std::string NameOf(DataType type) {
    const auto& names = Get().dtype_names;
    const auto found = names.find(static_cast<int>(type));
    return found == names.end() ? tensorflow::DataTypeString(type)
                                : found->second;
  }
  // A null object if numpy has none for it.
  static py::object DtypeOf(DataType type) {
    const auto& dtypes = Get().dtypes;
    const auto found = dtypes.find(static_cast<int>(type));
    return found == dtypes.end() ? py::object() : found->second;
  }
};

[[noreturn]] void Raise(const py::object& type, const std::string& text) {
  PyErr_SetString(type.ptr(), text.c_str());
  throw py::error_already_set();
}

[[noreturn]] void RaiseStatus(const absl::Status& status) {
  const py::object& type = Python::Get().tensorflow_error;
  const absl::string_view message = status.message();
  // A message may quote bytes of a file.
  const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
      message.data(), static_cast<Py_ssize_t>(message.size()), "replace"));
  const py::object error = type(static_cast<int>(status.code()), text);
  PyErr_SetObject(type.ptr(), error.ptr());
  throw py::error_already_set();
}

py::str Text(const std::string& utf8) {
  return py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(
      utf8.data(), static_cast<Py_ssize_t>(utf8.size()), "replace"));
}

// References that threads without the interpreter have let go of.
class Dropped {
 public:
  static Dropped& OfProcess() {
    static auto* const dropped = new Dropped;
    return *dropped;
  }
  void Add(PyObject* object) {
    const std::lock_guard<std::mutex> lock(mu_);
    objects_.push_back(object);
    any_.store(true, std::memory_order_release);
  }
  // To be called with the interpreter.
  void LetGo() {
    if (!any_.load(std::memory_order_acquire)) return;
    std::vector<PyObject*> objects;
    {
      const std::lock_guard<std::mutex> lock(mu_);
      objects.swap(objects_);
      any_.store(false, std::memory_order_release);
    }
    for (PyObject* object : objects) Py_DECREF(object);
  }

 private:
  std::mutex mu_;
  std::vector<PyObject*> objects_;
  std::atomic<bool> any_{false};
};

// The memory of an array, which it keeps alive.
class ArrayBuffer : public tensorflow::TensorBuffer {
 public:
  ArrayBuffer(py::array array, void* data, size_t size)
      : TensorBuffer(data), size_(size), array_(array.release().ptr()) {}
  ~ArrayBuffer() override {
    // A model may keep what it is fed, and drop it on any thread.
    if (PyGILState_Check() != 0) {
      Py_DECREF(array_);
    } else {
      Dropped::OfProcess().Add(array_);
    }
  }

  size_t size() const override { return size_; }
  TensorBuffer* root_buffer() override { return this; }
  void FillAllocationDescription(
      tensorflow::AllocationDescription*) const override {}
  bool GetAllocatedBytes(size_t*) const override { return false; }
  // No kernel may write its output here.
  bool OwnsMemory() const override { return false; }

 private:
  const size_t size_;
  PyObject* const array_;
};

// An input or output of a signature.
struct TensorSpec {
  std::string name;
  std::string tensor;  // its name in the graph
  DataType type = tensorflow::DT_INVALID;
  bool unknown_rank = false;
  std::vector<int64_t> shape;  // -1 = any
  std::optional<Tensor> default_value;

  py::object key;       // the name
  py::object dtype;     // null if numpy has none
  py::object expected;  // begins an error's text

  std::string TypeName() const { return Python::NameOf(type); }
  bool Takes(const py::array& array) const {
    if (unknown_rank) return true;
    if (array.ndim() != static_cast<py::ssize_t>(shape.size())) return false;
    for (size_t i = 0; i < shape.size(); ++i) {
      if (shape[i] >= 0 && shape[i] != array.shape(static_cast<int>(i))) {
        return false;
      }
    }
    return true;
  }
};

template <typename Dims>
std::string ShapeText(const Dims& dims) {
  std::string text = "[";
  for (const auto dim : dims) {
    if (text.size() > 1) text += ", ";
    text += dim < 0 ? "?" : absl::StrCat(dim);
  }
  return text + "]";
}

std::string SpecText(const TensorSpec& spec) {
  return absl::StrCat(
      spec.TypeName(), " ",
      spec.unknown_rank ? "of any shape" : ShapeText(spec.shape));
}

std::vector<int64_t> ShapeOf(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

bool HasDtype(const py::array& array, const py::object& dtype) {
  PyObject* const found = py::detail::array_proxy(array.ptr())->descr;
  return found == dtype.ptr() ||
         py::detail::npy_api::get().PyArray_EquivTypes_(found, dtype.ptr());
}

Tensor StringsOf(const TensorSpec& spec, const py::array& objects,
                 const tensorflow::TensorShape& shape) {
  Tensor tensor(tensorflow::DT_STRING, shape);
  auto* const strings = static_cast<tensorflow::tstring*>(tensor.data());
  auto* const elements = static_cast<PyObject* const*>(objects.data());
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    PyObject* const element = elements[i];
    if (element != nullptr && PyBytes_Check(element)) {
      strings[i].assign(PyBytes_AS_STRING(element),
                        static_cast<size_t>(PyBytes_GET_SIZE(element)));
    } else if (element != nullptr && PyUnicode_Check(element)) {
      Py_ssize_t size = 0;
      const char* const utf8 = PyUnicode_AsUTF8AndSize(element, &size);
      if (utf8 == nullptr) {
        PyErr_Clear();
        throw py::value_error(
            absl::StrCat(std::string(py::str(spec.expected)),
                         ", got a str that has no UTF-8 (surrogates)"));
      }
      strings[i].assign(utf8, static_cast<size_t>(size));
    } else {
      throw py::type_error(absl::StrCat(
          std::string(py::str(spec.expected)), ", got an element of type ",
          element == nullptr ? "NULL" : Py_TYPE(element)->tp_name));
    }
  }
  return tensor;
}

// Of an array of the input's dtype. Raises as TensorOf.
Tensor TensorOfArray(const TensorSpec& spec, py::array array) {
  if (!spec.Takes(array)) {
    throw py::value_error(absl::StrCat(std::string(py::str(spec.expected)),
                                       ", got ", spec.TypeName(), " ",
                                       ShapeText(ShapeOf(array))));
  }
  if ((array.flags() & py::array::c_style) == 0) {
    array = py::array::ensure(array, py::array::c_style);
    if (!array) throw py::error_already_set();
  }
  tensorflow::TensorShape shape;
  const absl::Status status =
      tensorflow::TensorShape::BuildTensorShape(ShapeOf(array), &shape);
  if (!status.ok()) {
    throw py::value_error(absl::StrCat(std::string(py::str(spec.expected)),
                                       ", got ", status.message()));
  }
  if (spec.type == tensorflow::DT_STRING) return StringsOf(spec, array, shape);
  const size_t bytes = static_cast<size_t>(array.nbytes());
  auto* const data = const_cast<void*>(array.data());
  if (bytes > 0 &&
      reinterpret_cast<uintptr_t>(data) % EIGEN_MAX_ALIGN_BYTES == 0) {
    return Tensor(spec.type, shape,
                  tensorflow::core::RefCountPtr<tensorflow::TensorBuffer>(
                      new ArrayBuffer(std::move(array), data, bytes)));
  }
  Tensor tensor(spec.type, shape);
  if (!tensor.IsInitialized()) throw std::bad_alloc();
  if (bytes > 0) std::memcpy(tensor.data(), data, bytes);
  return tensor;
}

// The tensor for what a caller gives. Raises TypeError or ValueError, which
// name the input.
Tensor TensorOf(const TensorSpec& spec, PyObject* value) {
  auto array = py::reinterpret_borrow<py::object>(value);
  if (!py::isinstance<py::array>(value) ||
      !HasDtype(py::reinterpret_borrow<py::array>(value), spec.dtype)) {
    array = Python::Get().as_array(array, spec.dtype, spec.expected);
  }
  return TensorOfArray(spec, py::reinterpret_steal<py::array>(array.release()));
}

bool OwnsItsBuffer(Tensor* tensor) {
  tensorflow::TensorBuffer* const buffer =
      tensorflow::DMAHelper::buffer(tensor);
  return buffer != nullptr && buffer->OwnsMemory() && buffer->RefCountIsOne() &&
         buffer->root_buffer()->RefCountIsOne();
}

// An array that owns the tensor's memory, or a copy if somebody else uses that:
// it may be a variable's, or an input's.
py::object ArrayOf(Tensor&& tensor) {
  const std::vector<int64_t> dims = [&] {
    std::vector<int64_t> sizes(static_cast<size_t>(tensor.dims()));
    for (int i = 0; i < tensor.dims(); ++i) {
      sizes[static_cast<size_t>(i)] = tensor.dim_size(i);
    }
    return sizes;
  }();
  py::object dtype = Python::DtypeOf(tensor.dtype());
  if (!dtype) {
    throw py::type_error(absl::StrCat(
        "numpy has no type for ", Python::NameOf(tensor.dtype()), " tensors"));
  }
  if (tensor.dtype() == tensorflow::DT_STRING) {
    py::array array(py::reinterpret_steal<py::dtype>(dtype.release()), dims);
    auto** const elements = static_cast<PyObject**>(array.mutable_data());
    const auto* const strings =
        static_cast<const tensorflow::tstring*>(tensor.data());
    for (int64_t i = 0; i < tensor.NumElements(); ++i) {
      PyObject* const bytes = PyBytes_FromStringAndSize(
          strings[i].data(), static_cast<Py_ssize_t>(strings[i].size()));
      if (bytes == nullptr) throw py::error_already_set();
      Py_XDECREF(std::exchange(elements[i], bytes));
    }
    return std::move(array);
  }
  auto type = py::reinterpret_steal<py::dtype>(dtype.release());
  if (tensor.NumElements() == 0) return py::array(std::move(type), dims);
  if (!OwnsItsBuffer(&tensor)) {
    return py::array(std::move(type), dims, tensor.data());
  }
  void* const data = tensor.data();
  auto owner = std::make_unique<Tensor>(std::move(tensor));
  const py::capsule base(
      owner.get(), [](void* pointer) { delete static_cast<Tensor*>(pointer); });
  owner.release();
  return py::array(std::move(type), dims, data, base);
}

// The parts of dlpack.h, version 0.8, that a consumer reads.
struct DLTensor {
  void* data;
  int32_t device_type;
  int32_t device_id;
  int32_t ndim;
  uint8_t type_code;
  uint8_t type_bits;
  uint16_t type_lanes;
  int64_t* shape;
  int64_t* strides;  // in elements; null = C order
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
constexpr int32_t kDLCPU = 1;
constexpr int32_t kDLCUDAHost = 3;

DataType TypeOf(const DLTensor& tensor) {
  static const auto* const types = new std::map<std::pair<int, int>, DataType>{
      {{0, 8}, tensorflow::DT_INT8},
      {{0, 16}, tensorflow::DT_INT16},
      {{0, 32}, tensorflow::DT_INT32},
      {{0, 64}, tensorflow::DT_INT64},
      {{1, 8}, tensorflow::DT_UINT8},
      {{1, 16}, tensorflow::DT_UINT16},
      {{1, 32}, tensorflow::DT_UINT32},
      {{1, 64}, tensorflow::DT_UINT64},
      {{2, 16}, tensorflow::DT_HALF},
      {{2, 32}, tensorflow::DT_FLOAT},
      {{2, 64}, tensorflow::DT_DOUBLE},
      {{4, 16}, tensorflow::DT_BFLOAT16},
      {{5, 64}, tensorflow::DT_COMPLEX64},
      {{5, 128}, tensorflow::DT_COMPLEX128},
      {{6, 8}, tensorflow::DT_BOOL},
      {{10, 8}, tensorflow::DT_FLOAT8_E4M3FN},
      {{12, 8}, tensorflow::DT_FLOAT8_E5M2}};
  const auto found = types->find({tensor.type_code, tensor.type_bits});
  return found == types->end() || tensor.type_lanes != 1
             ? tensorflow::DT_INVALID
             : found->second;
}

// numpy.from_dlpack, for types too that numpy itself does not know.
py::array FromDlpack(const py::object& exporter) {
  const py::object exported = exporter.attr("__dlpack__")();
  auto* const managed = static_cast<DLManagedTensor*>(
      PyCapsule_GetPointer(exported.ptr(), "dltensor"));
  if (managed == nullptr) throw py::error_already_set();
  const DLTensor& tensor = managed->tensor;
  // Until the capsule is renamed, what it holds is its own to delete.
  if (tensor.device_type != kDLCPU && tensor.device_type != kDLCUDAHost) {
    throw py::type_error("it is not in the memory of the CPU");
  }
  const py::object dtype = Python::DtypeOf(TypeOf(tensor));
  if (!dtype) {
    throw py::type_error(
        absl::StrCat("TensorFlow has no type for DLPack's ",
                     static_cast<int>(tensor.type_code), " of ",
                     static_cast<int>(tensor.type_bits), " bits"));
  }
  auto type = py::reinterpret_borrow<py::dtype>(dtype);
  const size_t rank = static_cast<size_t>(tensor.ndim);
  const std::vector<py::ssize_t> dims(tensor.shape, tensor.shape + rank);
  std::vector<py::ssize_t> strides;
  if (tensor.strides != nullptr) {
    for (size_t i = 0; i < rank; ++i) {
      strides.push_back(tensor.strides[i] * type.itemsize());
    }
  }
  const char* const data =
      static_cast<const char*>(tensor.data) + tensor.byte_offset;
  PyCapsule_SetName(exported.ptr(), "used_dltensor");
  const py::capsule base(managed, [](void* pointer) {
    auto* const owned = static_cast<DLManagedTensor*>(pointer);
    if (owned->deleter != nullptr) owned->deleter(owned);
  });
  return strides.empty() ? py::array(type, dims, data, base)
                         : py::array(type, dims, strides, data, base);
}

// A thread pool for the kernels of one model.
class KernelPool : public tensorflow::thread::ThreadPoolInterface {
 public:
  explicit KernelPool(int threads)
      : pool_(tensorflow::Env::Default(), "tf_model_intra_op", threads) {}
  void Schedule(std::function<void()> task) override {
    pool_.Schedule(std::move(task));
  }
  int NumThreads() const override { return pool_.NumThreads(); }
  int CurrentThreadId() const override { return pool_.CurrentThreadId(); }

 private:
  tensorflow::thread::ThreadPool pool_;
};

struct LoadOptions {
  std::string path;
  std::unordered_set<std::string> tags;
  std::optional<int> inter_op_threads;
  std::optional<int> intra_op_threads;
};

// A session that serves. Runs may be made by any number of threads; the session
// ends when none is in flight.
class Model {
 public:
  explicit Model(const LoadOptions& options)
      : intra_op_(options.intra_op_threads
                      ? std::make_unique<KernelPool>(*options.intra_op_threads)
                      : nullptr),
        in_calling_thread_(options.inter_op_threads == 0) {
    pools_.intra_op_threadpool = intra_op_.get();
  }
  // With the interpreter or without.
  ~Model() {
    if (abandoned.load() || forks.load() != forks_) {
      // The threads that use it are not there to end.
      (void)bundle_.release();
      (void)intra_op_.release();
      return;
    }
    if (bundle_ == nullptr || PyGILState_Check() == 0) {
      End();
      return;
    }
    const WithoutInterpreter without;
    End();
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  absl::Status Load(const LoadOptions& options) {
    tensorflow::SessionOptions session;
    if (options.inter_op_threads.value_or(0) > 0) {
      session.config.set_inter_op_parallelism_threads(
          *options.inter_op_threads);
      session.config.set_use_per_session_threads(true);
    }
    bundle_ = std::make_unique<tensorflow::SavedModelBundle>();
    // The callables have executors of their own.
    const auto set = Library::OfProcess().set_preparing;
    const bool before = set != nullptr && set(false);
    const absl::Cleanup after = [&] {
      if (set != nullptr) set(before);
    };
    return tensorflow::LoadSavedModel(session, tensorflow::RunOptions(),
                                      options.path, options.tags,
                                      bundle_.get());
  }

  tensorflow::MetaGraphDef* meta_graph() { return &bundle_->meta_graph_def; }

  absl::Status MakeCallable(const std::vector<std::string>& feeds,
                            const std::vector<std::string>& fetches,
                            tensorflow::Session::CallableHandle* handle) {
    tensorflow::CallableOptions options;
    for (const std::string& feed : feeds) options.add_feed(feed);
    for (const std::string& fetch : fetches) options.add_fetch(fetch);
    if (in_calling_thread_) {
      options.mutable_run_options()->set_inter_op_thread_pool(kCallingThread);
    }
    return bundle_->session->MakeCallable(options, handle);
  }
  absl::Status Run(tensorflow::Session::CallableHandle handle,
                   const std::vector<Tensor>& feeds,
                   std::vector<Tensor>* fetches) {
    if (intra_op_ == nullptr) {
      return bundle_->session->RunCallable(handle, feeds, fetches, nullptr);
    }
    return bundle_->session->RunCallable(handle, feeds, fetches, nullptr,
                                         pools_);
  }

  // A call may use the session if this returns true, until Leave.
  bool Enter() {
    if ((state_.fetch_add(1) & kClosing) == 0) return true;
    Leave();
    return false;
  }
  void Leave() {
    if (state_.fetch_sub(1) != (kClosing | 1)) return;
    const std::lock_guard<std::mutex> lock(mu_);
    changed_.notify_all();
  }

  void NoteColdRequest() { cold_requests_.fetch_add(1); }
  int64_t cold_requests() const { return cold_requests_.load(); }

  bool closing() const { return (state_.load() & kClosing) != 0; }
  bool forked() const { return forks.load() != forks_; }

  // No call begins any more; returns when none is in flight, and the session
  // has ended. To be called without the interpreter. Returns false if calls are
  // in flight at `deadline`.
  bool Close(std::optional<std::chrono::steady_clock::time_point> deadline) {
    state_.fetch_or(kClosing);
    std::unique_lock<std::mutex> lock(mu_);
    // No call waits for the lock while the session ends.
    const auto wait = [&](const auto& condition) {
      if (!deadline) {
        changed_.wait(lock, condition);
        return true;
      }
      return changed_.wait_until(lock, *deadline, condition);
    };
    if (ending_) return wait([this] { return ended_; });
    if (!wait([this] { return ending_ || state_.load() == kClosing; })) {
      return false;
    }
    if (ending_) return wait([this] { return ended_; });
    ending_ = true;
    lock.unlock();
    End();
    lock.lock();
    ended_ = true;
    changed_.notify_all();
    return true;
  }

 private:
  static constexpr int64_t kClosing = int64_t{1} << 62;

  void End() {
    if (bundle_ == nullptr) return;
    if (bundle_->session != nullptr) bundle_->session->Close().IgnoreError();
    bundle_.reset();
    intra_op_.reset();
    // The memory is there for the next model when this returns.
    WaitForUnloads();
  }

  const int forks_ = forks.load();
  std::unique_ptr<KernelPool> intra_op_;
  tensorflow::thread::ThreadPoolOptions pools_;
  const bool in_calling_thread_;
  std::unique_ptr<tensorflow::SavedModelBundle> bundle_;
  // Calls in flight, and kClosing.
  std::atomic<int64_t> state_{0};
  std::atomic<int64_t> cold_requests_{0};
  std::mutex mu_;
  std::condition_variable changed_;
  bool ending_ = false;
  bool ended_ = false;
};

// The models of this process, to be closed as the interpreter ends.
class Models {
 public:
  static Models& OfProcess() {
    static auto* const models = new Models;
    return *models;
  }

  // Returns false as the interpreter ends. Each is followed by EndLoad.
  bool BeginLoad() {
    const std::lock_guard<std::mutex> lock(mu_);
    if (exiting_) return false;
    ++loading_;
    any_loaded_ = true;
    return true;
  }
  void EndLoad(const std::shared_ptr<Model>& model) {
    const std::lock_guard<std::mutex> lock(mu_);
    --loading_;
    models_.erase(
        std::remove_if(models_.begin(), models_.end(),
                       [](const auto& known) { return known.expired(); }),
        models_.end());
    if (model != nullptr) models_.push_back(model);
    changed_.notify_all();
  }

  // Whether this process or one that it was forked from has begun a load.
  bool any_loaded() {
    const std::lock_guard<std::mutex> lock(mu_);
    return any_loaded_;
  }

  // Calls and loads in flight have this long to end. To be called without the
  // interpreter.
  void CloseAll(std::chrono::milliseconds patience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    std::vector<std::weak_ptr<Model>> models;
    bool all = true;
    {
      std::unique_lock<std::mutex> lock(mu_);
      exiting_ = true;
      all =
          changed_.wait_until(lock, deadline, [this] { return loading_ == 0; });
      models = models_;
    }
    for (const auto& known : models) {
      const std::shared_ptr<Model> model = known.lock();
      if (model == nullptr || model->forked()) continue;
      all = model->Close(deadline) && all;
    }
    all_closed.store(all);
    // The calling thread is one of them.
    while (all && without_interpreter.load() > 1) {
      all = std::chrono::steady_clock::now() < deadline;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (!all) abandoned.store(true);
  }

  static void AtFork() {
    Models& models = OfProcess();
    pthread_atfork([] { OfProcess().mu_.lock(); },
                   [] { OfProcess().mu_.unlock(); },
                   [] {
                     OfProcess().loading_ = 0;
                     OfProcess().mu_.unlock();
                     forks.fetch_add(1);
                   });
    (void)models;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<std::weak_ptr<Model>> models_;
  int loading_ = 0;
  bool any_loaded_ = false;
  bool exiting_ = false;
};

// A function of a model. A call may be made by any thread.
class Signature {
 public:
  Signature(std::shared_ptr<Model> model, std::string name)
      : model_(std::move(model)), name_(std::move(name)) {}

  // `infos` is in no order; what is made is sorted by name.
  template <typename Infos>
  static void AddSpecs(const Infos& infos, const char* what,
                       std::vector<TensorSpec>* specs, std::string* unusable) {
    for (const auto& [name, info] : infos) {
      TensorSpec spec;
      spec.name = name;
      spec.tensor = info.name();
      spec.type = info.dtype();
      spec.unknown_rank = info.tensor_shape().unknown_rank();
      for (const auto& dim : info.tensor_shape().dim()) {
        spec.shape.push_back(dim.size());
      }
      if (info.encoding_case() != tensorflow::TensorInfo::kName) {
        *unusable = absl::StrCat(what, " '", name, "' is not a dense tensor");
      } else if (spec.type == tensorflow::DT_RESOURCE ||
                 spec.type == tensorflow::DT_VARIANT ||
                 spec.type == tensorflow::DT_INVALID) {
        *unusable = absl::StrCat(what, " '", name, "' has type ",
                                 spec.TypeName(), ", which numpy has not");
      }
      specs->push_back(std::move(spec));
    }
    std::sort(specs->begin(), specs->end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
  }

  // Each copy of the graph's constants has so many bytes.
  void Read(const tensorflow::SignatureDef& definition, size_t constants) {
    most_selections_ =
        std::clamp(kMostCopiesOfConstants / std::max(constants, size_t{1}),
                   size_t{1}, kMostSelections);
    AddSpecs(definition.inputs(), "input", &inputs_, &unusable_);
    AddSpecs(definition.outputs(), "output", &outputs_, &unusable_);
    trains_ =
        absl::StartsWith(definition.method_name(), "tensorflow/supervised/");
    for (TensorSpec& input : inputs_) {
      feeds_.push_back(input.tensor);
      const auto found = definition.defaults().find(input.name);
      if (found == definition.defaults().end()) continue;
      Tensor value;
      if (value.FromProto(found->second)) input.default_value = value;
    }
    for (size_t i = 0; i < outputs_.size(); ++i) all_.push_back(i);
  }

  // To be called with the interpreter, once.
  void Finish() {
    for (auto* specs : {&inputs_, &outputs_}) {
      for (TensorSpec& spec : *specs) {
        spec.key = Text(spec.name);
        PyObject* interned = spec.key.release().ptr();
        PyUnicode_InternInPlace(&interned);
        spec.key = py::reinterpret_steal<py::object>(interned);
        spec.dtype = Python::DtypeOf(spec.type);
        spec.expected =
            Text(absl::StrCat("input '", spec.name, "' of signature '", name_,
                              "': expected ", SpecText(spec)));
        if (!spec.dtype && unusable_.empty()) {
          unusable_ = absl::StrCat("'", spec.name, "' has type ",
                                   spec.TypeName(), ", which numpy has not");
        }
      }
    }
  }

  // Makes what a call with all outputs runs. Without the interpreter.
  absl::Status Prepare() {
    if (!unusable_.empty() || outputs_.empty()) return absl::OkStatus();
    Callable* callable = nullptr;
    bool made = false;
    return FindOrMake(all_, &callable, &made);
  }

  // The same for `wanted`, names or None for all outputs; names that it lacks
  // are left out. Returns whether there was something to make. What cannot be
  // made is left to a call, which says why.
  bool PrepareFor(const py::object& wanted) {
    CheckAlive();
    std::vector<size_t> outputs = wanted.is_none() ? all_ : Known(wanted);
    if (!unusable_.empty() || outputs.empty()) return false;
    std::sort(outputs.begin(), outputs.end());
    const InFlight in_flight(this);
    bool made = false;
    {
      const WithoutInterpreter without;
      RunAtLoadPriority([&] {
        Callable* callable = nullptr;
        FindOrMake(outputs, &callable, &made).IgnoreError();
      });
    }
    return made;
  }

  // What PrepareFor of another version should be given: what was called.
  std::vector<py::object> AskedFor() {
    CheckForked();
    std::vector<std::vector<size_t>> selections;
    {
      const std::lock_guard<std::mutex> lock(mu_);
      for (const auto& [outputs, callable] : callables_) {
        if (callable.asked_for.load()) selections.push_back(outputs);
      }
    }
    // Making an object may run a program's code.
    std::vector<py::object> asked;
    if (all_asked_for_.load()) asked.push_back(py::none());
    for (const std::vector<size_t>& outputs : selections) {
      py::tuple names(outputs.size());
      for (size_t i = 0; i < outputs.size(); ++i) {
        names[i] = outputs_[outputs[i]].key;
      }
      asked.push_back(std::move(names));
    }
    return asked;
  }

  const std::string& name() const { return name_; }
  const std::vector<TensorSpec>& inputs() const { return inputs_; }
  const std::vector<TensorSpec>& outputs() const { return outputs_; }
  bool trains() const { return trains_; }

  // `given` is a dict; `wanted` a sequence of names, or None for all.
  py::dict Run(const py::dict& given, const py::object& wanted) {
    Dropped::OfProcess().LetGo();
    CheckUsable();
    const std::vector<size_t> asked =
        wanted.is_none() ? std::vector<size_t>() : Asked(wanted);
    const std::vector<size_t>& outputs = wanted.is_none() ? all_ : asked;
    std::vector<Tensor> feeds = Feeds(given);
    std::vector<Tensor> fetches;
    // Making tensors may have run a program's code.
    const InFlight in_flight(this);
    const Callable* callable = nullptr;
    absl::Status status;
    {
      const WithoutInterpreter without;
      status = FindForRequest(outputs, &callable);
      if (status.ok()) status = model_->Run(callable->handle, feeds, &fetches);
    }
    if (!status.ok()) RaiseStatus(status);
    py::dict answer;
    for (const size_t output : outputs) {
      const int slot = callable->slots[output];
      py::object array;
      if (slot < 0) {
        array = ArrayOf(Tensor(feeds[static_cast<size_t>(-1 - slot)]));
      } else if (callable->shared) {
        array = ArrayOf(Tensor(fetches[static_cast<size_t>(slot)]));
      } else {
        array = ArrayOf(std::move(fetches[static_cast<size_t>(slot)]));
      }
      if (PyDict_SetItem(answer.ptr(), outputs_[output].key.ptr(),
                         array.ptr()) != 0) {
        throw py::error_already_set();
      }
    }
    return answer;
  }

 private:
  // The executors for a set of outputs.
  struct Callable {
    tensorflow::Session::CallableHandle handle = 0;
    // For each output of the signature, if it is in the set, which fetch it is;
    // -1 - i is input i.
    std::vector<int> slots;
    bool shared = false;  // a fetch is two outputs
    bool ready = false;   // under the signature's lock; the above is then final
    std::atomic<bool> asked_for{false};  // by the outputs' names
  };

  class InFlight {
   public:
    explicit InFlight(Signature* signature) : model_(signature->model_.get()) {
      if (!model_->Enter()) signature->RaiseClosed();
    }
    ~InFlight() { model_->Leave(); }
    InFlight(const InFlight&) = delete;
    InFlight& operator=(const InFlight&) = delete;

   private:
    Model* const model_;
  };

  [[noreturn]] void RaiseClosed() const {
    Raise(Python::Get().closed_error,
          absl::StrCat("signature '", name_,
                       "' was called after its model was closed"));
  }

  void CheckForked() const {
    if (model_->forked()) {
      Raise(Python::Get().forked_error,
            "this model was loaded before the process was forked, and "
            "TensorFlow's threads stayed with the parent: load it after the "
            "fork, in the process that uses it");
    }
  }

  void CheckAlive() const {
    CheckForked();
    if (model_->closing()) RaiseClosed();
  }

  void CheckUsable() const {
    CheckAlive();
    if (!unusable_.empty()) {
      throw py::type_error(absl::StrCat("signature '", name_,
                                        "' cannot be called: ", unusable_));
    }
    if (outputs_.empty()) {
      throw py::value_error(
          absl::StrCat("signature '", name_, "' has no outputs"));
    }
  }

  static std::string Names(const std::vector<TensorSpec>& specs) {
    std::string text;
    for (const TensorSpec& spec : specs) {
      text += (text.empty() ? "" : ", ") + spec.name;
    }
    return text.empty() ? "none" : text;
  }

  // Calls `found` with each name, and its output or outputs_.size().
  template <typename Found>
  void EachName(const py::object& wanted, const Found& found) const {
    if (PyUnicode_Check(wanted.ptr())) {
      throw py::type_error(
          absl::StrCat("outputs of signature '", name_,
                       "' are a collection of names, got the str ",
                       std::string(py::repr(wanted))));
    }
    for (const py::handle name : py::iter(wanted)) {
      size_t output = 0;
      while (output < outputs_.size() &&
             PyObject_RichCompareBool(outputs_[output].key.ptr(), name.ptr(),
                                      Py_EQ) != 1) {
        ++output;
      }
      if (output == outputs_.size()) PyErr_Clear();
      found(name, output);
    }
  }

  std::vector<size_t> Known(const py::object& wanted) const {
    std::vector<size_t> known;
    EachName(wanted, [&](py::handle, size_t output) {
      if (output < outputs_.size() &&
          std::count(known.begin(), known.end(), output) == 0) {
        known.push_back(output);
      }
    });
    return known;
  }

  std::vector<size_t> Asked(const py::object& wanted) const {
    std::vector<size_t> asked;
    EachName(wanted, [&](py::handle name, size_t output) {
      if (output == outputs_.size()) {
        throw py::value_error(absl::StrCat(
            "signature '", name_, "' has no output ",
            std::string(py::repr(name)), "; it has: ", Names(outputs_)));
      }
      if (std::count(asked.begin(), asked.end(), output) == 0) {
        asked.push_back(output);
      }
    });
    if (asked.empty()) {
      throw py::value_error(
          absl::StrCat("no outputs of signature '", name_,
                       "' are asked for; it has: ", Names(outputs_)));
    }
    return asked;
  }

  std::vector<Tensor> Feeds(const py::dict& given) const {
    std::vector<Tensor> feeds;
    feeds.reserve(inputs_.size());
    size_t used = 0;
    for (const TensorSpec& input : inputs_) {
      PyObject* const value =
          PyDict_GetItemWithError(given.ptr(), input.key.ptr());
      if (value != nullptr) {
        ++used;
        // A conversion may run a program's code, which may change the dict.
        const auto kept = py::reinterpret_borrow<py::object>(value);
        feeds.push_back(TensorOf(input, value));
      } else if (PyErr_Occurred() != nullptr) {
        throw py::error_already_set();
      } else if (input.default_value) {
        feeds.push_back(*input.default_value);
      } else {
        throw py::type_error(
            absl::StrCat(std::string(py::str(input.expected)),
                         ", got nothing; inputs given: ", Given(given)));
      }
    }
    if (given.size() != used) RaiseUnknown(given);
    return feeds;
  }

  static std::string Given(const py::dict& given) {
    std::string text;
    for (const auto& item : given) {
      text += (text.empty() ? "" : ", ") + std::string(py::str(item.first));
    }
    return text.empty() ? "none" : text;
  }

  [[noreturn]] void RaiseUnknown(const py::dict& given) const {
    for (const auto& item : given) {
      const bool known = std::any_of(
          inputs_.begin(), inputs_.end(), [&](const TensorSpec& input) {
            return PyObject_RichCompareBool(input.key.ptr(), item.first.ptr(),
                                            Py_EQ) == 1;
          });
      if (!known) {
        PyErr_Clear();
        throw py::type_error(absl::StrCat(
            "signature '", name_, "' has no input ",
            std::string(py::repr(item.first)), "; it has: ", Names(inputs_)));
      }
    }
    throw py::type_error("inputs changed while they were read");
  }

  static void Set(std::atomic<bool>* flag) {
    // All calls would write to one cache line.
    if (!flag->load(std::memory_order_relaxed)) flag->store(true);
  }

  // What a request runs for these outputs, in any order. Without the
  // interpreter; the result lives as long as this object.
  absl::Status FindForRequest(const std::vector<size_t>& outputs,
                              const Callable** found) {
    Callable* callable = nullptr;
    bool made = false;
    absl::Status status;
    if (&outputs != &all_) {
      std::vector<size_t> sorted = outputs;
      std::sort(sorted.begin(), sorted.end());
      status = FindOrMake(sorted, &callable, &made);
      if (callable != nullptr) Set(&callable->asked_for);
      if (status.ok() && callable == nullptr && !refused_.exchange(true)) {
        LOG(WARNING) << "Signature '" << name_ << "' was asked for more than "
                     << most_selections_
                     << " selections of its outputs: others compute all";
      }
    }
    if (status.ok() && callable == nullptr) {
      callable = everything_.load(std::memory_order_acquire);
      if (callable == nullptr) status = FindOrMake(all_, &callable, &made);
      if (callable != nullptr) Set(&all_asked_for_);
    }
    if (made) model_->NoteColdRequest();
    *found = callable;
    return status;
  }

  // Finds what computes `outputs`, which are sorted; what is not there is made,
  // by one thread, for which those that need the same wait and no others.
  // `found` is null after an error, and if there are too many selections.
  // Without the interpreter.
  absl::Status FindOrMake(const std::vector<size_t>& outputs, Callable** found,
                          bool* made) {
    std::unique_lock<std::mutex> lock(mu_);
    auto it = callables_.find(outputs);
    while (it != callables_.end() && !it->second.ready) {
      changed_.wait(lock);
      // It is not there if it could not be made.
      it = callables_.find(outputs);
    }
    if (it != callables_.end()) {
      *found = &it->second;
      return absl::OkStatus();
    }
    const bool all = outputs == all_;
    const size_t selections = callables_.size() - callables_.count(all_);
    if (!all && selections >= most_selections_) return absl::OkStatus();
    it = callables_.try_emplace(outputs).first;
    Callable* const callable = &it->second;
    lock.unlock();
    const absl::Cleanup settle = [&] {
      lock.lock();
      if (*made) {
        callable->ready = true;
        if (all) everything_.store(callable, std::memory_order_release);
      } else {
        callables_.erase(it);
      }
      changed_.notify_all();
    };
    const absl::Status status = Make(outputs, callable);
    *made = status.ok();
    if (*made) *found = callable;
    return status;
  }

  absl::Status Make(const std::vector<size_t>& outputs, Callable* callable) {
    callable->slots.resize(outputs_.size());
    std::vector<std::string> fetches;
    for (const size_t output : outputs) {
      int& slot = callable->slots[output];
      const std::string& tensor = outputs_[output].tensor;
      // A session does not fetch what it is fed.
      const auto feed = std::find(feeds_.begin(), feeds_.end(), tensor);
      if (feed != feeds_.end()) {
        slot = -1 - static_cast<int>(feed - feeds_.begin());
        continue;
      }
      const auto fetch = std::find(fetches.begin(), fetches.end(), tensor);
      callable->shared = callable->shared || fetch != fetches.end();
      slot = static_cast<int>(fetch - fetches.begin());
      if (fetch == fetches.end()) fetches.push_back(tensor);
    }
    return model_->MakeCallable(feeds_, fetches, &callable->handle);
  }

  const std::shared_ptr<Model> model_;
  const std::string name_;
  std::vector<TensorSpec> inputs_;
  std::vector<TensorSpec> outputs_;
  std::vector<std::string> feeds_;
  std::vector<size_t> all_;
  std::string unusable_;  // why, "" = it is not
  bool trains_ = false;

  size_t most_selections_ = kMostSelections;

  std::mutex mu_;  // never held while something is made
  std::condition_variable changed_;
  // By sorted outputs. None is removed once it is ready.
  std::map<std::vector<size_t>, Callable> callables_;
  // The one for `all_`, once it is ready.
  std::atomic<Callable*> everything_{nullptr};
  std::atomic<bool> all_asked_for_{false};  // without names
  std::atomic<bool> refused_{false};  // a selection, for there are too many
};

size_t BytesOfConstants(const tensorflow::GraphDef& graph) {
  size_t bytes = 0;
  const auto add = [&bytes](const auto& nodes) {
    for (const tensorflow::NodeDef& node : nodes) {
      if (node.op() == "Const") bytes += node.ByteSizeLong();
    }
  };
  add(graph.node());
  for (const auto& function : graph.library().function()) {
    add(function.node_def());
  }
  return bytes;
}

using Signatures = std::vector<std::shared_ptr<Signature>>;

// Without the interpreter.
absl::Status LoadSteps(const LoadOptions& options,
                       const std::shared_ptr<Model>& model,
                       Signatures* signatures) {
  absl::Status status = model->Load(options);
  if (!status.ok()) return status;
  tensorflow::MetaGraphDef* const meta_graph = model->meta_graph();
  const size_t constants = BytesOfConstants(meta_graph->graph_def());
  for (const auto& [name, definition] : meta_graph->signature_def()) {
    // Ops for the loader.
    if (absl::StartsWith(name, "__saved_model_")) continue;
    auto signature = std::make_shared<Signature>(model, name);
    signature->Read(definition, constants);
    signatures->push_back(std::move(signature));
  }
  // The default first.
  std::sort(signatures->begin(), signatures->end(),
            [](const auto& a, const auto& b) {
              return std::make_pair(a->name() != kDefaultSignature, a->name()) <
                     std::make_pair(b->name() != kDefaultSignature, b->name());
            });
  const bool large = constants > kLargeConstants;
  for (const auto& signature : *signatures) {
    const bool first = signature == signatures->front();
    if (signature->trains() || (large && !first)) continue;
    status = signature->Prepare();
    // Others may be for other machines; a call to them says what is wrong.
    if (!status.ok() && signature->name() == kDefaultSignature) return status;
  }
  // The session has its own.
  meta_graph->Clear();
  return absl::OkStatus();
}

struct Loaded {
  std::shared_ptr<Model> model;
  Signatures signatures;
};

Loaded Load(const std::string& path, const std::vector<std::string>& tags,
            std::optional<int> inter_op_threads,
            std::optional<int> intra_op_threads) {
  if (forks.load() != 0 && Models::OfProcess().any_loaded()) {
    Raise(Python::Get().forked_error,
          "the process that this one was forked from has loaded a model, and "
          "TensorFlow's threads stayed there: fork first and load in the "
          "process that serves, or start it with the method 'spawn'");
  }
  LoadOptions options;
  options.path = path;
  options.tags = {tags.begin(), tags.end()};
  options.inter_op_threads = inter_op_threads;
  options.intra_op_threads = intra_op_threads;
  if (!Models::OfProcess().BeginLoad()) {
    Raise(Python::Get().closed_error, "the interpreter is ending");
  }
  Loaded loaded;
  absl::Status status;
  std::exception_ptr failure;
  {
    const WithoutInterpreter without;
    try {
      RunAtLoadPriority([&] {
        auto model = std::make_shared<Model>(options);
        status = LoadSteps(options, model, &loaded.signatures);
        if (status.ok()) {
          loaded.model = std::move(model);
        } else {
          loaded.signatures.clear();
        }
      });
    } catch (...) {
      failure = std::current_exception();
      loaded = Loaded();
    }
    Models::OfProcess().EndLoad(loaded.model);
  }
  if (failure != nullptr) std::rethrow_exception(failure);
  if (!status.ok()) RaiseStatus(status);
  for (const auto& signature : loaded.signatures) signature->Finish();
  return loaded;
}

py::list Describe(const std::vector<TensorSpec>& specs) {
  py::list described;
  for (const TensorSpec& spec : specs) {
    py::object shape = py::none();
    if (!spec.unknown_rank) {
      py::tuple dims(spec.shape.size());
      for (size_t i = 0; i < spec.shape.size(); ++i) {
        dims[i] = spec.shape[i] < 0 ? py::object(py::none())
                                    : py::object(py::int_(spec.shape[i]));
      }
      shape = std::move(dims);
    }
    described.append(
        py::make_tuple(spec.key, spec.TypeName(), shape,
                       spec.dtype ? spec.dtype : py::object(py::none()),
                       spec.default_value.has_value()));
  }
  return described;
}

void Configure(const py::dict& dtypes, py::object as_array,
               py::object tensorflow_error, py::object closed_error,
               py::object forked_error) {
  Python& python = Python::Get();
  for (const auto& [number, described] : dtypes) {
    const auto [name, dtype] =
        described.cast<std::pair<std::string, py::object>>();
    python.dtype_names[number.cast<int>()] = name;
    if (!dtype.is_none()) python.dtypes[number.cast<int>()] = dtype;
  }
  python.as_array = std::move(as_array);
  python.tensorflow_error = std::move(tensorflow_error);
  python.closed_error = std::move(closed_error);
  python.forked_error = std::move(forked_error);
}

}  // namespace

PYBIND11_MODULE(_session, m) {
  m.doc() = "SavedModels that C++ loads, runs and unloads.";
  Models::AtFork();

  py::class_<Model, std::shared_ptr<Model>>(m, "Model")
      .def(
          "close",
          [](Model& model) {
            // In a forked process there is nothing to wait for.
            if (model.forked()) return;
            const WithoutInterpreter without;
            model.Close(std::nullopt);
          },
          "Returns when no call is in flight and the session has ended.")
      .def_property_readonly("closed", &Model::closing)
      .def_property_readonly("cold_requests", &Model::cold_requests,
                             "Executors that calls had to make.");

  py::class_<Signature, std::shared_ptr<Signature>>(m, "Signature")
      .def_property_readonly("name",
                             [](const Signature& s) { return Text(s.name()); })
      .def_property_readonly(
          "inputs", [](const Signature& s) { return Describe(s.inputs()); })
      .def_property_readonly(
          "outputs", [](const Signature& s) { return Describe(s.outputs()); })
      .def("run", &Signature::Run, py::arg("inputs"), py::arg("outputs"),
           "What the signature answers: arrays by output name.")
      .def("asked_for", &Signature::AskedFor,
           "Sets of outputs that were called: names, or None for all.")
      .def("prepare", &Signature::PrepareFor, py::arg("outputs"),
           "Makes what such a call runs; returns whether it was not there.");

  py::class_<Loaded>(m, "Loaded")
      .def_readonly("model", &Loaded::model)
      .def_readonly("signatures", &Loaded::signatures);

  m.def("configure", &Configure, py::arg("dtypes"), py::arg("as_array"),
        py::arg("tensorflow_error"), py::arg("closed_error"),
        py::arg("forked_error"), "What this module needs of Python.");
  m.def("load", &Load, py::arg("path"), py::arg("tags"),
        py::arg("inter_op_threads"), py::arg("intra_op_threads"),
        "Loads a SavedModel.");
  m.def("from_dlpack", &FromDlpack, py::arg("exporter"),
        "An array over what the exporter holds.");
  m.def(
      "close_all",
      [](double seconds) {
        const WithoutInterpreter without;
        Models::OfProcess().CloseAll(
            std::chrono::milliseconds(static_cast<int64_t>(1000 * seconds)));
      },
      py::arg("seconds"),
      "Closes all models; calls in flight have so long to end.");
}
