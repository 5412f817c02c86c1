// Kernels of torch's own operators for device `npu`: each runs on the host, on the same memory.
//
// Loaded into a process that has the real torch_npu. For every operator of aten that has a kernel for the host, the
// kernel for PrivateUse1 (which is what torch calls `npu`) is replaced by one that looks at the tensors' memory as host
// tensors, calls the host's kernel, and hands the results back as tensors of the device. Memory management, views and
// streams stay torch_npu's. Which random numbers are drawn is decided by the device's generator, by its seed and offset.

#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/enum_tag.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

// torch_npu's own. torch_npu 2.10 does not announce its generators to torch, which would know them otherwise.
namespace at_npu::detail {
const at::Generator &getDefaultNPUGenerator(c10::DeviceIndex device);
}

namespace {

constexpr auto kNpu = c10::DeviceType::PrivateUse1;
constexpr auto kNpuKey = c10::DispatchKey::PrivateUse1;

bool on_npu(const at::Tensor &tensor) { return tensor.defined() && tensor.device().type() == kNpu; }

// A host tensor on the memory of a device's tensor, which it keeps alive.
at::Tensor host_view(const at::Tensor &tensor) {
  auto *const owner = new c10::Storage(tensor.storage());
  c10::DataPtr data(owner->mutable_data(), owner, [](void *kept) { delete static_cast<c10::Storage *>(kept); },
                    c10::Device(c10::kCPU));
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), std::move(data),
                       c10::GetAllocator(c10::kCPU), /*resizable=*/true);
  auto view = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                       tensor.dtype());
  auto *const impl = view.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(tensor.sym_sizes(), tensor.sym_strides(), tensor.sym_storage_offset());
  if (tensor.is_conj()) view._set_conj(true);
  if (tensor.is_neg()) view._set_neg(true);
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return view;
}

// One call of an operator: device tensors that became host tensors, and the way back.
class HostCall {
 public:
  explicit HostCall(const c10::OperatorHandle &op) : op_(op) {}

  void take_arguments(torch::jit::Stack &stack) {
    const auto &arguments = op_.schema().arguments();
    const size_t first = stack.size() - arguments.size();
    for (size_t i = 0; i < arguments.size(); ++i) take(arguments[i], stack[first + i]);
    refuse_mixed_devices();
    refuse_types_without_matrix_product();
    // `npu` without an index is the current device.
    if (device_ && !device_->has_index()) device_ = c10::impl::VirtualGuardImpl(device_->type()).getDevice();
    if (!device_ && !views_.empty()) device_ = views_[0].first.device();
  }

  void run(torch::jit::Stack &stack) {
    if (!op_.hasTag(at::Tag::nondeterministic_seeded) || !device_ || device_->type() != kNpu) {
      op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
      return;
    }
    const uint64_t seed = next_seed();
    if (generator_place_) {
      const size_t first = stack.size() - op_.schema().arguments().size();
      stack[first + *generator_place_] = at::detail::createCPUGenerator(seed);
      op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
    } else {
      run_with_seeded_host(seed, stack);
    }
  }

  void give_results(torch::jit::Stack &stack) {
    for (auto &[original, view] : views_) follow_resizing(original, view);
    const size_t first = stack.size() - op_.schema().returns().size();
    for (size_t i = first; i < stack.size(); ++i) {
      if (stack[i].isTensor()) {
        stack[i] = to_device(stack[i].toTensor());
      } else if (stack[i].isTensorList()) {
        c10::List<at::Tensor> list;
        for (const at::Tensor &tensor : stack[i].toTensorVector()) list.push_back(to_device(tensor));
        stack[i] = list;
      }
    }
  }

 private:
  void take(const c10::Argument &argument, c10::IValue &value) {
    if (value.isTensor()) {
      value = to_host(argument, value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor &tensor : value.toTensorVector()) list.push_back(to_host(argument, tensor));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor> &tensor : value.toOptionalTensorVector()) {
        list.push_back(tensor ? std::optional(to_host(argument, *tensor)) : std::nullopt);
      }
      value = list;
    } else if (value.isDevice()) {
      device_ = value.toDevice();
      value = c10::Device(c10::kCPU);
    } else if (argument.name() == "generator") {
      generator_place_ = &argument - op_.schema().arguments().data();
      if (value.isGenerator()) generator_ = value.toGenerator();
      value = c10::IValue();
    } else if (argument.name() == "pin_memory") {
      value = c10::IValue();
    }
  }

  at::Tensor to_host(const c10::Argument &argument, const at::Tensor &tensor) {
    if (!on_npu(tensor)) {
      if (tensor.defined() && tensor.dim() > 0) host_argument_ = argument.name();
      return tensor;
    }
    TORCH_CHECK(tensor.layout() == c10::kStrided, op_.schema().name(), ": argument '", argument.name(), "' is ",
                tensor.layout(), " on ", tensor.device(), "; the virtual NPU has strided tensors only");
    if (!views_.empty() && views_[0].first.device() != tensor.device()) other_npu_argument_ = argument.name();
    views_.emplace_back(tensor, host_view(tensor));
    return views_.back().second;
  }

  // torch's own words, and which argument it is.
  void refuse_mixed_devices() const {
    const std::string_view name = op_.schema().name();
    const bool copies = name == "aten::copy_" || name == "aten::_to_copy" || name == "aten::set_data";
    const bool indexes = name.starts_with("aten::index") || name.starts_with("aten::_index");
    if (views_.empty() || copies) return;
    TORCH_CHECK(host_argument_.empty() || indexes, "Expected all tensors to be on the same device, but found at least "
                "two devices, ", views_[0].first.device(), " and cpu! (", name, ": argument '", host_argument_,
                "' is on cpu)");
    TORCH_CHECK(other_npu_argument_.empty(), "Expected all tensors to be on the same device, but found at least two "
                "devices, ", views_[0].first.device(), " and another npu! (", name, ": argument '",
                other_npu_argument_, "')");
  }

  // What torch_npu's list of operators states for products of matrices.
  void refuse_types_without_matrix_product() const {
    static const std::unordered_set<std::string_view> products = {
        "aten::mm", "aten::bmm", "aten::addmm", "aten::addmm_", "aten::baddbmm", "aten::baddbmm_", "aten::mv",
        "aten::addmv", "aten::addmv_", "aten::dot", "aten::addbmm", "aten::convolution_overrideable"};
    if (views_.empty() || !products.contains(op_.schema().name())) return;
    const auto type = views_[0].first.scalar_type();
    TORCH_CHECK(type == at::kFloat || type == at::kHalf || type == at::kBFloat16, op_.schema().name(), ": argument '",
                op_.schema().arguments()[0].name(), "' is ", type,
                ", and Ascend multiplies matrices of Float, Half and BFloat16");
  }

  // A number that follows the generator's seed and offset, and moves the offset on.
  uint64_t next_seed() {
    at::Generator generator =
        generator_.defined() ? generator_ : at_npu::detail::getDefaultNPUGenerator(device_->index());
    const std::lock_guard lock(generator.mutex());
    const uint64_t seed = generator.current_seed(), offset = generator.get_offset();
    generator.set_offset(offset + 4);
    uint64_t mixed = seed + 0x9E3779B97F4A7C15ull * (offset + 1);  // splitmix64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9ull;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBull;
    return mixed ^ mixed >> 31;
  }

  // For operators that draw from the host's default generator; the host's own numbers go on as if nothing had been.
  void run_with_seeded_host(uint64_t seed, torch::jit::Stack &stack) {
    static std::mutex one_at_a_time;
    const std::lock_guard lock(one_at_a_time);
    at::Generator host = at::detail::getDefaultCPUGenerator();
    const at::Tensor before = host.get_state();
    host.set_current_seed(seed);
    try {
      op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
    } catch (...) {
      host.set_state(before);
      throw;
    }
    host.set_state(before);
  }

  // `out=` tensors that the host's kernel gave another size.
  static void follow_resizing(at::Tensor &original, const at::Tensor &view) {
    if (original.sizes() == view.sizes() && original.storage().data() == view.storage().data()) return;
    original.resize_(view.sizes());
    host_view(original).copy_(view);
  }

  at::Tensor to_device(const at::Tensor &result) const {
    if (!result.defined()) return result;
    for (const auto &[original, view] : views_) {
      if (view.is_same(result)) return original;
    }
    if (!device_ || device_->type() != kNpu) return result;
    for (const auto &[original, view] : views_) {
      const void *const memory = view.storage().data();
      if (memory != nullptr && result.storage().data() == memory) return device_view(original, result);
    }
    auto on_device = at::empty_strided(result.sizes(), result.strides(), result.options().device(*device_));
    host_view(on_device).copy_(result);
    if (result.unsafeGetTensorImpl()->is_wrapped_number()) on_device.unsafeGetTensorImpl()->set_wrapped_number(true);
    return on_device;
  }

  // The result is a view of an argument.
  static at::Tensor device_view(const at::Tensor &original, const at::Tensor &result) {
    auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(original.storage()),
                                                         original.key_set(), result.dtype());
    view.unsafeGetTensorImpl()->set_sizes_and_strides(result.sym_sizes(), result.sym_strides(),
                                                      result.sym_storage_offset());
    return view;
  }

  const c10::OperatorHandle &op_;
  std::vector<std::pair<at::Tensor, at::Tensor>> views_;  // the device's tensor, the host's view of it
  std::optional<c10::Device> device_;
  std::optional<size_t> generator_place_;
  at::Generator generator_;
  std::string host_argument_, other_npu_argument_;
};

void run_on_host(const c10::OperatorHandle &op, c10::DispatchKeySet, torch::jit::Stack *stack) {
  HostCall call(op);
  call.take_arguments(*stack);
  call.run(*stack);
  call.give_results(*stack);
}

// torch_npu has kernels of its own at the autograd key for some operators that torch composes of others; they call
// Ascend's library. Here torch's composition is taken.
void run_composition(const c10::OperatorHandle &op, c10::DispatchKeySet, torch::jit::Stack *stack) {
  op.callBoxedForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd, *stack);
}

at::Tensor copy_from(const at::Tensor &self, const at::Tensor &destination, bool) {
  (on_npu(destination) ? host_view(destination) : destination).copy_(on_npu(self) ? host_view(self) : self);
  return destination;
}

// Memory, views and streams: torch_npu's own kernels do no arithmetic.
const std::unordered_set<std::string> kTorchNpus = {
    "empty.memory_format", "empty_strided", "as_strided", "view", "_reshape_alias", "resize_", "set_",
    "set_.source_Storage", "set_.source_Storage_storage_offset", "set_.source_Tensor", "record_stream", "is_pinned",
    "_pin_memory", "is_set_to", "_has_compatible_shallow_copy_type", "_copy_from",
    "_nested_tensor_from_tensor_list"};

// Replaces the kernels; how many.
int64_t install() {
  // Never destroyed: destroying it would take the kernels away while other threads may still be at work.
  static auto *const on_device = new torch::Library(torch::Library::IMPL, "aten", kNpuKey, __FILE__, __LINE__);
  static auto *const autograd =
      new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::AutogradPrivateUse1, __FILE__, __LINE__);
  on_device->impl("_copy_from", copy_from);
  int64_t replaced = 0;
  for (const auto &name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    const auto op = c10::Dispatcher::singleton().findOp(name);
    if (!op || !op->hasSchema()) continue;
    const std::string overload = name.overload_name.empty() ? "" : "." + name.overload_name;
    const std::string short_name = name.name.substr(std::strlen("aten::")) + overload;
    if (op->hasKernelForDispatchKey(c10::DispatchKey::AutogradPrivateUse1) &&
        op->hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd)) {
      autograd->impl(short_name.c_str(), torch::CppFunction::makeFromBoxedFunction<&run_composition>());
    }
    const bool runs_somewhere = op->hasKernelForDispatchKey(c10::DispatchKey::CPU) || op->hasKernelForDispatchKey(kNpuKey);
    if (!runs_somewhere || kTorchNpus.contains(short_name)) continue;
    on_device->impl(short_name.c_str(), torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
    ++replaced;
  }
  return replaced;
}

// Seed and offset of a device's default generator, whose offset moves on: what a kernel with dropout draws from.
std::tuple<int64_t, int64_t> draw(int64_t device) {
  at::Generator generator = at_npu::detail::getDefaultNPUGenerator(static_cast<c10::DeviceIndex>(device));
  const std::lock_guard lock(generator.mutex());
  const uint64_t offset = generator.get_offset();
  generator.set_offset(offset + 4);
  return {static_cast<int64_t>(generator.current_seed()), static_cast<int64_t>(offset)};
}

}  // namespace

TORCH_LIBRARY(virtual_npu, library) {
  library.def("install() -> int", &install);
  library.def("draw(int device) -> (int, int)", &draw);
  library.def("host_view(Tensor(a) tensor) -> Tensor(a)");
}

TORCH_LIBRARY_IMPL(virtual_npu, CompositeExplicitAutograd, library) { library.impl("host_view", host_view); }
