// Buffers of exactly the size asked for, full of NaN, where reading or writing past the end is caught.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "kernels_reference.h"

namespace {

using bptt::Doubles;

std::mt19937_64 engine(1);
int64_t below(int64_t n) { return int64_t(engine() % uint64_t(n)); }
bool coin() { return below(2) != 0; }
double uniform() { return double(engine() >> 11) * 0x1p-52 - 1; }  // -1 .. 1

std::string running;  // what a failure is reported as
long passed = 0;

[[noreturn]] void fail(const std::string& what) {
    std::printf("%s: %s\n1 failed\n", running.c_str(), what.c_str());
    std::fflush(stdout);
    std::_Exit(1);  // no destructors: a report of leaks would only hide the cause
}

// Elements from and to double, whatever is stored.
template <class E>
struct Stored {
    static E from(double x) { return E(x); }
    static double wide(E x) { return double(x); }
};
template <>
struct Stored<bptt::bf16> {
    static bptt::bf16 from(double x) {
        const float f = float(x);
        uint32_t bits;
        std::memcpy(&bits, &f, sizeof bits);
        return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
    }
    static double wide(bptt::bf16 x) {
        const uint32_t bits = uint32_t(x.bits) << 16;
        float f;
        std::memcpy(&f, &bits, sizeof f);
        return double(f);
    }
};
template <class E>
double wide(E x) {
    return Stored<E>::wide(x);
}

// Where buffers lie. AddressSanitizer sees one element too many on the heap, but not where masked
// vector intrinsics go; a page that may not be touched stops those too. One element off the
// allocator's alignment shows an aligned load that should not be one.
enum Place { heap, heap_off_by_one, before_guard_page, places };
int place = heap;

template <class T>
class Buffer {
public:
    explicit Buffer(int64_t n) : n_(n) {
        if (n == 0) return;  // stays null: an option left out
        const size_t bytes = size_t(n) * sizeof(T);
        if (place == before_guard_page) {
            const size_t page = size_t(sysconf(_SC_PAGESIZE)), whole = (bytes + page - 1) / page * page;
            char* const base = static_cast<char*>(mmap(nullptr, whole + page, PROT_READ | PROT_WRITE,
                                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
            if (base == MAP_FAILED || mprotect(base + whole, page, PROT_NONE) != 0) fail("no memory");
            memory_.reset(base, [=](void* all) { munmap(all, whole + page); });
            p_ = reinterpret_cast<T*>(base + whole - bytes);
        } else {
            const size_t off = place == heap_off_by_one ? sizeof(T) : 0;
            memory_.reset(std::malloc(bytes + off), std::free);
            if (!memory_) fail("no memory");
            p_ = reinterpret_cast<T*>(static_cast<char*>(memory_.get()) + off);
        }
        std::memset(p_, 0xff, bytes);  // NaN; or -1
    }
    Buffer(int64_t n, double scale) : Buffer(n) {
        for (int64_t i = 0; i < n; ++i) p_[i] = Stored<T>::from(scale * uniform());
    }

    operator T*() const { return p_; }
    int64_t size() const { return n_; }
    // The values in double; an option left out reads as `n` zeros.
    Doubles doubles(int64_t n) const {
        Doubles out(size_t(p_ ? n_ : n), 0.0);
        for (int64_t i = 0; p_ && i < n_; ++i) out[size_t(i)] = wide(p_[i]);
        return out;
    }

private:
    T* p_ = nullptr;
    int64_t n_;
    std::shared_ptr<void> memory_;
};

}  // namespace
