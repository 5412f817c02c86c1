// The single-operator interface, by which torch_npu's own C++ fills memory. Kernels of tensors don't come this way: see
// simulator.cpp.

#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <acl/acl_op_compiler.h>

#include "runtime.h"

struct aclTensorDesc {
  aclDataType type;
  std::vector<int64_t> sizes;
  aclFormat format;
};

struct aclDataBuffer {
  void *data;
  size_t bytes;
};

struct aclopAttr {};

namespace {

size_t item_bytes(aclDataType type) {
  switch (type) {
    case ACL_INT8: case ACL_UINT8: case ACL_BOOL: return 1;
    case ACL_FLOAT16: case ACL_BF16: case ACL_INT16: case ACL_UINT16: return 2;
    case ACL_FLOAT: case ACL_INT32: case ACL_UINT32: return 4;
    case ACL_DOUBLE: case ACL_INT64: case ACL_UINT64: case ACL_COMPLEX64: return 8;
    case ACL_COMPLEX128: return 16;
    default: return 0;
  }
}

aclError fill(const aclDataBuffer &value, const aclTensorDesc &description, aclDataBuffer &output) {
  const size_t bytes = item_bytes(description.type);
  if (bytes == 0 || value.bytes < bytes) {
    return virtual_npu::fail(ACL_ERROR_INVALID_PARAM, "Fill of type %d with %zu bytes", description.type, value.bytes);
  }
  auto *const start = static_cast<char *>(output.data);
  for (size_t place = 0; place + bytes <= output.bytes; place += bytes) std::memcpy(start + place, value.data, bytes);
  return ACL_SUCCESS;
}

aclError execute(std::string_view op, int num_inputs, const aclDataBuffer *const inputs[],
                 const aclTensorDesc *const descriptions[], aclDataBuffer *const outputs[]) {
  if (op == "ZerosLike") {
    std::memset(outputs[0]->data, 0, outputs[0]->bytes);
    return ACL_SUCCESS;
  }
  if (op == "Fill" && num_inputs == 2) return fill(*inputs[1], *descriptions[0], *outputs[0]);
  virtual_npu_unsimulated((std::string("single operator ") + std::string(op)).c_str());
  return ACL_ERROR_OP_NOT_FOUND;
}

}  // namespace

extern "C" {

aclDataBuffer *aclCreateDataBuffer(void *data, size_t bytes) { return new aclDataBuffer{data, bytes}; }

aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) {
  delete buffer;
  return ACL_SUCCESS;
}

aclTensorDesc *aclCreateTensorDesc(aclDataType type, int num_sizes, const int64_t *sizes, aclFormat format) {
  return new aclTensorDesc{type, std::vector<int64_t>(sizes, sizes + num_sizes), format};
}

void aclDestroyTensorDesc(const aclTensorDesc *description) { delete description; }
void aclSetTensorDescName(aclTensorDesc *, const char *) {}
aclError aclSetTensorPlaceMent(aclTensorDesc *, aclMemType) { return ACL_SUCCESS; }

aclError aclSetTensorFormat(aclTensorDesc *description, aclFormat format) {
  description->format = format;
  return ACL_SUCCESS;
}

aclError aclSetTensorShape(aclTensorDesc *description, int num_sizes, const int64_t *sizes) {
  description->sizes.assign(sizes, sizes + num_sizes);
  return ACL_SUCCESS;
}

aclDataType aclGetTensorDescType(const aclTensorDesc *description) { return description->type; }
aclFormat aclGetTensorDescFormat(const aclTensorDesc *description) { return description->format; }
size_t aclGetTensorDescNumDims(const aclTensorDesc *description) { return description->sizes.size(); }

aclError aclGetTensorDescDimV2(const aclTensorDesc *description, size_t index, int64_t *size) {
  if (index >= description->sizes.size()) return ACL_ERROR_INVALID_PARAM;
  *size = description->sizes[index];
  return ACL_SUCCESS;
}

// Nothing is compiled, so the compiler's options have no effect.
aclError aclSetCompileopt(aclCompileOpt, const char *) { return ACL_SUCCESS; }
size_t aclGetCompileoptSize(aclCompileOpt) { return sizeof "disable"; }

aclError aclGetCompileopt(aclCompileOpt, char *value, size_t length) {
  std::snprintf(value, length, "disable");
  return ACL_SUCCESS;
}

aclopAttr *aclopCreateAttr() { return new aclopAttr; }
void aclopDestroyAttr(const aclopAttr *attributes) { delete attributes; }

aclError aclopCompileAndExecute(const char *op, int num_inputs, const aclTensorDesc *const[],
                                const aclDataBuffer *const inputs[], int, const aclTensorDesc *const descriptions[],
                                aclDataBuffer *const outputs[], const aclopAttr *, aclopEngineType, aclopCompileType,
                                const char *, aclrtStream) {
  return execute(op, num_inputs, inputs, descriptions, outputs);
}

aclError aclopCompileAndExecuteV2(const char *op, int num_inputs, aclTensorDesc *[], aclDataBuffer *inputs[], int,
                                  aclTensorDesc *descriptions[], aclDataBuffer *outputs[], aclopAttr *,
                                  aclopEngineType, aclopCompileType, const char *, aclrtStream) {
  return execute(op, num_inputs, inputs, descriptions, outputs);
}

}  // extern "C"
