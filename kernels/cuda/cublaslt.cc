// CublasLtTable over libcublasLt.so.13, the only file that includes cublasLt.h. Opened by name, so
// that the module does not need 500 MB that no layer computes with.
#include <cublasLt.h>
#include <dlfcn.h>

#include <memory>

#include "kernels/cuda/module_parts.h"

namespace choir::cuda {
namespace {

constexpr const char* kLibrary = "libcublasLt.so.13";
constexpr int kChoicesMax = 8;

struct Library {
  const char* error = "cuBLASLt has not been opened";
  cublasLtHandle_t handle = nullptr;
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtGetStatusString) status_string = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtMatmulDescCreate) make_operation = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation = nullptr;
  decltype(&cublasLtMatmulDescDestroy) free_operation = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) make_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) free_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) make_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) free_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) choose = nullptr;
  decltype(&cublasLtMatmul) multiply = nullptr;
};

template <class Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

Library OpenLibrary() {
  Library l;
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    l.error =
        "libcublasLt.so.13 cannot be opened: install cuBLAS of CUDA 13, or add its folder to "
        "LD_LIBRARY_PATH";
    return l;
  }
  const bool whole = Find(library, "cublasLtGetVersion", &l.version) &&
                     Find(library, "cublasLtGetStatusString", &l.status_string) &&
                     Find(library, "cublasLtCreate", &l.create) &&
                     Find(library, "cublasLtMatmulDescCreate", &l.make_operation) &&
                     Find(library, "cublasLtMatmulDescSetAttribute", &l.set_operation) &&
                     Find(library, "cublasLtMatmulDescDestroy", &l.free_operation) &&
                     Find(library, "cublasLtMatrixLayoutCreate", &l.make_layout) &&
                     Find(library, "cublasLtMatrixLayoutDestroy", &l.free_layout) &&
                     Find(library, "cublasLtMatmulPreferenceCreate", &l.make_preference) &&
                     Find(library, "cublasLtMatmulPreferenceSetAttribute", &l.set_preference) &&
                     Find(library, "cublasLtMatmulPreferenceDestroy", &l.free_preference) &&
                     Find(library, "cublasLtMatmulAlgoGetHeuristic", &l.choose) &&
                     Find(library, "cublasLtMatmul", &l.multiply);
  l.error = whole ? nullptr : "libcublasLt.so.13 lacks functions: install cuBLAS of CUDA 13";
  return l;
}

const Library& Lt() {
  static const Library library = OpenLibrary();
  return library;
}

const char* Why(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? nullptr : Lt().status_string(status);
}

// The library's handle, made when it is first needed, for it wants a device.
const char* Handle(cublasLtHandle_t* handle) {
  if (Lt().error != nullptr) return Lt().error;
  static cublasLtHandle_t made = nullptr;
  const char* error = made == nullptr ? Why(Lt().create(&made)) : nullptr;
  *handle = made;
  return error;
}

// To cuBLASLt matrices are column-major: what it computes is yᵀ [n, m] = w · xᵀ, so its A is w and
// its B is x, and both lie with k contiguous, which is the one order its f8 products take.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulHeuristicResult_t choices[kChoicesMax];
  int num_choices = 0;
  DenseOperands operands;

  ~Plan() {
    if (operation != nullptr) (void)Lt().free_operation(operation);
    for (cublasLtMatrixLayout_t layout : {w, x, y}) {
      if (layout != nullptr) (void)Lt().free_layout(layout);
    }
  }
};

template <class T>
const char* Set(Plan* plan, cublasLtMatmulDescAttributes_t what, const T& value) {
  return Why(Lt().set_operation(plan->operation, what, &value, sizeof value));
}

const char* Describe(const DenseShape& s, Plan* plan) {
  const cudaDataType_t type = s.format == DenseFormat::kBF16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
  const auto m = static_cast<uint64_t>(s.m), n = static_cast<uint64_t>(s.n);
  const auto k = static_cast<uint64_t>(s.k);
  const char* error = Why(Lt().make_operation(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  if (error == nullptr) error = Why(Lt().make_layout(&plan->w, type, k, n, s.k));
  if (error == nullptr) error = Why(Lt().make_layout(&plan->x, type, k, m, s.k));
  if (error == nullptr) error = Why(Lt().make_layout(&plan->y, CUDA_R_16BF, n, m, s.n));
  if (error == nullptr) error = Set(plan, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (error == nullptr) error = Set(plan, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  if (error != nullptr || s.format == DenseFormat::kBF16) return error;
  if (s.format == DenseFormat::kF8) {  // sums as the tensor cores keep them: the fastest there is
    return Set(plan, CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
  }
  error = Set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F);
  if (error == nullptr) {
    error = Set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F);
  }
  if (error == nullptr) {
    error = Set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, plan->operands.w_scale);
  }
  if (error != nullptr) return error;
  return Set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, plan->operands.x_scale);
}

const char* Choose(cublasLtHandle_t handle, Plan* plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  const char* error = Why(Lt().make_preference(&preference));
  if (error == nullptr) {
    error = Why(Lt().set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                    &plan->operands.workspace_bytes, sizeof(size_t)));
  }
  if (error == nullptr) {
    error = Why(Lt().choose(handle, plan->operation, plan->w, plan->x, plan->y, plan->y, preference,
                            kChoicesMax, plan->choices, &plan->num_choices));
  }
  if (error == nullptr && plan->num_choices == 0) error = "cuBLASLt has no way for this shape";
  if (preference != nullptr) (void)Lt().free_preference(preference);
  return error;
}

const char* Make(const DenseShape& shape, const DenseOperands& operands, void** plan,
                 int32_t* choices) {
  cublasLtHandle_t handle = nullptr;
  if (const char* error = Handle(&handle)) return error;
  auto made = std::make_unique<Plan>();
  made->operands = operands;
  if (const char* error = Describe(shape, made.get())) return error;
  if (const char* error = Choose(handle, made.get())) return error;
  *choices = made->num_choices;
  *plan = made.release();
  return nullptr;
}

const char* Run(void* handle_of_plan, int32_t choice, void* stream) {
  cublasLtHandle_t handle = nullptr;
  if (const char* error = Handle(&handle)) return error;
  const Plan& p = *static_cast<const Plan*>(handle_of_plan);
  const float one = 1.0f, zero = 0.0f;
  return Why(Lt().multiply(handle, p.operation, &one, p.operands.w, p.w, p.operands.x, p.x, &zero,
                           p.operands.y, p.y, p.operands.y, p.y, &p.choices[choice].algo,
                           p.operands.workspace, p.operands.workspace_bytes,
                           static_cast<cudaStream_t>(stream)));
}

}  // namespace

void FillCublasLt(CublasLtTable* t) {
  t->open = [](int32_t* version) {
    *version = Lt().error == nullptr ? static_cast<int32_t>(Lt().version()) : 0;
    return Lt().error;
  };
  t->make = Make;
  t->run = Run;
  t->free = [](void* plan) { delete static_cast<Plan*>(plan); };
}

}  // namespace choir::cuda
