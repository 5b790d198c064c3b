// One of torch's tensors as a kernel may read it: plain, dense, on the CPU.
//
// Since its version 2.10 torch shows all of a tensor in one call of C, DLPack's exchange. Before, each thing
// is an attribute of its own to ask for, a tenth of a microsecond each.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <limits>

namespace bptt {

namespace nb = nanobind;

// DLPack's structures of version 1, as far as they are read here.
struct DlTensor {
    void* data;
    int32_t device_type, device_id;
    int32_t axes;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
};
struct DlExchange {
    uint32_t major, minor;
    void *older, *allocate, *from_object, *to_object;
    int (*look)(void* object, DlTensor* found);
};

// What torch calls the things that are asked for; made at the first call, and never freed.
struct Torch {
    nb::object tensor, parameter, float32, float64;
    PyObject *dtype, *is_cpu, *is_contiguous, *is_neg, *shape, *data_ptr, *new_empty, *requires_grad;
    PyObject *bias, *batch_first, *bidirectional, *parameters, *names;  // what a module's own dictionary holds
    const DlExchange* exchange = nullptr;  // null where torch is too old

    static const Torch& get() {
        static const Torch* const torch = new Torch();
        return *torch;
    }

private:
    Torch() {
        const nb::module_ torch = nb::module_::import_("torch");
        tensor = torch.attr("Tensor");
        parameter = torch.attr("nn").attr("Parameter");
        float32 = torch.attr("float32");
        float64 = torch.attr("float64");
        dtype = PyUnicode_InternFromString("dtype");
        is_cpu = PyUnicode_InternFromString("is_cpu");
        is_contiguous = PyUnicode_InternFromString("is_contiguous");
        is_neg = PyUnicode_InternFromString("is_neg");
        shape = PyUnicode_InternFromString("shape");
        data_ptr = PyUnicode_InternFromString("data_ptr");
        new_empty = PyUnicode_InternFromString("new_empty");
        requires_grad = PyUnicode_InternFromString("requires_grad");
        bias = PyUnicode_InternFromString("bias");
        batch_first = PyUnicode_InternFromString("batch_first");
        bidirectional = PyUnicode_InternFromString("bidirectional");
        parameters = PyUnicode_InternFromString("_parameters");
        names = PyUnicode_InternFromString("_flat_weights_names");
        if (!nb::hasattr(tensor, "__dlpack_c_exchange_api__")) return;
        const nb::object capsule = tensor.attr("__dlpack_c_exchange_api__");
        if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return;
        const void* const found = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
        const auto* const api = static_cast<const DlExchange*>(found);
        if (api->major == 1 && api->look) exchange = api;
    }
};

// A tensor that a kernel may read: no subclass, on the CPU, dense, as its address shows it.
class PlainTensor {
public:
    // False where it is anything else; an error that torch raises on the way is the usual way's to tell.
    bool read(nb::handle given) {
        const Torch& torch = Torch::get();
        const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(given.ptr()));
        if (type != torch.tensor.ptr() && type != torch.parameter.ptr()) return false;
        // Sparse, nested and opaque tensors, and those inside a transform, have no address to give.
        const bool plain = torch.exchange ? look(given, torch) && call(given, torch.is_neg, Py_False)
                                          : ask_all(given, torch);
        if (!plain) PyErr_Clear();
        return plain;
    }
    // The address alone, of what x.new_empty has made here.
    bool find(nb::handle made) {
        const Torch& torch = Torch::get();
        if (torch.exchange ? look(made, torch) : read_address(made, torch)) return true;
        PyErr_Clear();
        return false;
    }
    bool is(bool wide, int64_t a, int64_t b = -1, int64_t c = -1) const {
        return wide == wide_ && axes_ == (b < 0 ? 1 : c < 0 ? 2 : 3) && size_[0] == a &&
               (b < 0 || size_[1] == b) && (c < 0 || size_[2] == c);
    }
    bool wide() const { return wide_; }
    int axes() const { return axes_; }
    int64_t size(int axis) const { return size_[axis]; }
    template <class T>
    T* at() const {
        return reinterpret_cast<T*>(address_);
    }

private:
    bool look(nb::handle given, const Torch& torch) {
        constexpr int32_t cpu = 1;
        constexpr uint8_t real = 2;
        DlTensor found;
        if (torch.exchange->look(given.ptr(), &found) != 0) return false;
        wide_ = found.bits == 64;
        axes_ = found.axes;
        if (found.device_type != cpu || found.code != real || found.lanes != 1 || axes_ < 1 || axes_ > 3 ||
            !(wide_ || found.bits == 32))
            return false;
        int64_t dense = 1;
        for (int i = axes_ - 1; i >= 0; --i) {
            size_[i] = found.shape[i];
            if (!is_size(size_[i])) return false;
            if (found.strides && size_[i] > 1 && found.strides[i] != dense) return false;
            dense *= size_[i];
        }
        address_ = uintptr_t(found.data) + found.offset;
        return found.data != nullptr;
    }
    // No product of two sizes and 6 gates overflows. An empty tensor has no memory to check.
    static bool is_size(int64_t n) { return n >= 1 && n <= std::numeric_limits<int32_t>::max() / 8; }

    bool ask_all(nb::handle given, const Torch& torch) {
        return read_kind(given, torch) && ask(given, torch.is_cpu, Py_True) &&
               call(given, torch.is_contiguous, Py_True) && call(given, torch.is_neg, Py_False) &&
               read_shape(given, torch) && read_address(given, torch);
    }
    // Here and below only what the stable ABI of Python 3.12 has: no macros that look into a tuple or list.
    static PyObject* call_method(nb::handle given, PyObject* name) {
        PyObject* const arguments[] = {given.ptr()};
        return PyObject_VectorcallMethod(name, arguments, 1, nullptr);
    }
    static bool ask(nb::handle given, PyObject* name, PyObject* wanted) {
        const nb::object value = nb::steal(PyObject_GetAttr(given.ptr(), name));
        return value.ptr() == wanted;
    }
    static bool call(nb::handle given, PyObject* name, PyObject* wanted) {
        const nb::object value = nb::steal(call_method(given, name));
        return value.ptr() == wanted;
    }
    bool read_kind(nb::handle given, const Torch& torch) {
        const nb::object value = nb::steal(PyObject_GetAttr(given.ptr(), torch.dtype));
        wide_ = value.ptr() == torch.float64.ptr();
        return wide_ || value.ptr() == torch.float32.ptr();
    }
    bool read_shape(nb::handle given, const Torch& torch) {
        const nb::object value = nb::steal(PyObject_GetAttr(given.ptr(), torch.shape));
        if (!value.ptr() || !PyTuple_Check(value.ptr())) return false;
        axes_ = int(PyTuple_Size(value.ptr()));
        if (axes_ < 1 || axes_ > 3) return false;
        for (int i = 0; i < axes_; ++i) {
            size_[i] = PyLong_AsLongLong(PyTuple_GetItem(value.ptr(), i));
            if (!is_size(size_[i])) return false;
        }
        return true;
    }
    bool read_address(nb::handle given, const Torch& torch) {
        const nb::object value = nb::steal(call_method(given, torch.data_ptr));
        if (!value.ptr()) return false;
        address_ = uintptr_t(PyLong_AsUnsignedLongLong(value.ptr()));
        return address_ != 0 && !PyErr_Occurred();
    }

    bool wide_ = false;
    int axes_ = 0;
    int64_t size_[3] = {};
    uintptr_t address_ = 0;
};

}  // namespace bptt
