// The vector type of the instruction set this file is compiled for, and the activations on it.
//
// GCC's and clang's vector extensions give one source for every width: 16 bytes (SSE2, NEON),
// 32 (AVX2), 64 (AVX-512). Nothing from the standard library is used, because an inline function
// compiled here for AVX could otherwise be the copy the linker keeps for the baseline.
#pragma once

#include <cstdint>

#include "kernels.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef BPTT_ISA
#define BPTT_ISA baseline
#endif

#define BPTT_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define BPTT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define BPTT_UNROLL _Pragma("GCC unroll 16")
#endif

namespace bptt {
namespace BPTT_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T>
struct Simd;

template <>
struct Simd<float> {
    typedef float V __attribute__((vector_size(vector_bytes)));
    typedef int32_t I __attribute__((vector_size(vector_bytes)));
    static constexpr int L = vector_bytes / 4;
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float magic = 0x1.8p23f;      // adding it rounds to an integer in the low bits
    static constexpr float largest = 88.37f;       // 2^(largest / ln 2), rounded, is still finite
    static constexpr float overflow = 88.722839f;  // exp of more is infinite
    static constexpr float saturated = 10.0f;      // tanh(saturated) rounds to 1
    static constexpr float log2e = 0x1.715476p0f;
    static constexpr float square = 0x1p-66f, large = 0x1p80f;  // sums of smaller squares are made times large²
    static constexpr float ln2_hi = 0x1.62e4p-1f;  // few enough bits that n * ln2_hi is exact
    static constexpr float ln2_lo = 1.42860677e-06f;
    // (expm1(r) - r) / r^2 on |r| <= ln2/2, minimax in the relative error of expm1: 1.3e-8.
    static constexpr float q[] = {0x1.fffffep-2f, 0x1.5554bp-3f, 0x1.555674p-5f, 0x1.122776p-7f,
                                  0x1.6bebfcp-10f};
};

template <>
struct Simd<double> {
    typedef double V __attribute__((vector_size(vector_bytes)));
    typedef int64_t I __attribute__((vector_size(vector_bytes)));
    static constexpr int L = vector_bytes / 8;
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double magic = 0x1.8p52;
    static constexpr double largest = 709.43;
    static constexpr double overflow = 709.782712893384;
    static constexpr double saturated = 20.0;
    static constexpr double log2e = 0x1.71547652b82fep0;
    static constexpr double square = 0x1p-600, large = 0x1p800;
    static constexpr double ln2_hi = 0x1.62e42feep-1;
    static constexpr double ln2_lo = 1.90821492927058770002e-10;
    // As above; relative error 1.8e-17.
    static constexpr double q[] = {
        0.5000000000000005180212,     0.1666666666666658927627,    0.04166666666657674655808,
        0.008333333333389550141227,   0.001388888893156708509013,  0.0001984126971901678468066,
        0.0000248015052714997062641,  0.000002755740753004022721869, 2.762603869676649878011e-7,
        2.505377988413046119287e-8};
};

// bfloat16 is computed in float, whatever lies in memory.
template <>
struct Simd<bf16> : Simd<float> {};

template <class T>
constexpr bool is_bf16 = false;
template <>
constexpr bool is_bf16<bf16> = true;

template <class T>
using Vec = typename Simd<T>::V;

template <class T>
BPTT_INLINE Vec<T> splat(T s) {
    return s - Vec<T>{};
}

// Of two vectors a and b, blocks of S elements in turn: `first` takes those of a at even blocks, and b's
// even blocks between them; `second` a's and b's odd ones. After log2(L) rounds rows have become columns.
template <int... i>
struct Indices {};
template <int n, int... i>
struct Counted : Counted<n - 1, n - 1, i...> {};
template <int... i>
struct Counted<0, i...> {
    using type = Indices<i...>;
};
template <class T, int S, bool second, int... i>
BPTT_INLINE Vec<T> interleave(Vec<T> a, Vec<T> b, Indices<i...>) {
    constexpr int L = Simd<T>::L;
#if defined(__clang__)
    return __builtin_shufflevector(a, b, ((i & S ? L + i - S : i) + (second ? S : 0))...);
#else
    typedef typename Simd<T>::I I;
    return __builtin_shuffle(a, b, I{((i & S ? L + i - S : i) + (second ? S : 0))...});
#endif
}

template <class T, int S, bool second>
BPTT_INLINE Vec<T> interleave(Vec<T> a, Vec<T> b) {
    return interleave<T, S, second>(a, b, typename Counted<Simd<T>::L>::type{});
}

// Element r of the result is the sum of v[r]'s elements; v is spoiled.
template <class T, int S = 1>
BPTT_INLINE Vec<T> sums(Vec<T>* v) {
    constexpr int L = Simd<T>::L;
    if constexpr (S == L) {
        return v[0];
    } else {
        BPTT_UNROLL
        for (int r = 0; r < L; r += 2 * S)
            v[r] = interleave<T, S, false>(v[r], v[r + S]) + interleave<T, S, true>(v[r], v[r + S]);
        return sums<T, 2 * S>(v);
    }
}

// L vectors of L elements: element c of v[r] and element r of v[c] change places.
template <class T, int S = 1>
BPTT_INLINE void transpose(Vec<T>* v) {
    constexpr int L = Simd<T>::L;
    if constexpr (S < L) {
        BPTT_UNROLL
        for (int r = 0; r < L; ++r)
            if (!(r & S)) {
                const Vec<T> a = v[r], b = v[r + S];
                v[r] = interleave<T, S, false>(a, b);
                v[r + S] = interleave<T, S, true>(a, b);
            }
        transpose<T, 2 * S>(v);
    }
}

// How much of a vector lies inside the array: all of it, or its first n elements. Masked loads
// and stores do not touch memory beyond.
struct Whole {};
struct Part {
    int n;
};

template <class T>
BPTT_INLINE Vec<T> load(const T* p, Whole = {}) {
    typedef Vec<T> U __attribute__((aligned(sizeof(T)), may_alias));
    return *reinterpret_cast<const U*>(p);
}

template <class T>
BPTT_INLINE void store(T* p, Vec<T> v, Whole = {}) {
    typedef Vec<T> U __attribute__((aligned(sizeof(T)), may_alias));
    *reinterpret_cast<U*>(p) = v;
}

template <class T>
BPTT_INLINE Vec<T> load(const T* p, Part part) {
    Vec<T> v{};
    for (int i = 0; i < part.n; ++i) v[i] = p[i];
    return v;
}

template <class T>
BPTT_INLINE void store(T* p, Vec<T> v, Part part) {
    for (int i = 0; i < part.n; ++i) p[i] = v[i];
}

#if defined(__AVX512F__)
BPTT_INLINE Vec<float> load(const float* p, Part part) {
    return (Vec<float>)_mm512_maskz_loadu_ps((__mmask16)((1u << part.n) - 1u), p);
}
BPTT_INLINE void store(float* p, Vec<float> v, Part part) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << part.n) - 1u), (__m512)v);
}
#elif defined(__AVX2__)
BPTT_INLINE __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
BPTT_INLINE Vec<float> load(const float* p, Part part) {
    return (Vec<float>)_mm256_maskload_ps(p, first(part.n));
}
BPTT_INLINE void store(float* p, Vec<float> v, Part part) {
    _mm256_maskstore_ps(p, first(part.n), (__m256)v);
}
#endif

// bfloat16 in memory, float in registers. Rounded to the nearest, halves to even; NaN stays NaN; numbers
// too small for a normal float become zero: what the instruction does.
typedef uint32_t Bits __attribute__((vector_size(vector_bytes)));
typedef uint16_t Halves __attribute__((vector_size(vector_bytes / 2)));

BPTT_INLINE Vec<float> widen(Halves h) { return (Vec<float>)(__builtin_convertvector(h, Bits) << 16); }

BPTT_INLINE Halves narrow(Vec<float> v) {
#if defined(__AVX512BF16__)
    return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
    const Bits u = (Bits)v, magnitude = u & 0x7fffffffu;
    const Bits rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const Bits kept = magnitude > 0x7f800000u ? (u >> 16) | 0x40u : rounded;
    return __builtin_convertvector(magnitude < 0x00800000u ? (u >> 16) & 0x8000u : kept, Halves);
#endif
}

BPTT_INLINE Vec<float> load(const bf16* p, Whole = {}) {
    Halves h;
    __builtin_memcpy(&h, p, sizeof h);
    return widen(h);
}
BPTT_INLINE void store(bf16* p, Vec<float> v, Whole = {}) {
    const Halves h = narrow(v);
    __builtin_memcpy(p, &h, sizeof h);
}
BPTT_INLINE Vec<float> load(const bf16* p, Part part) {
    Halves h{};
    for (int i = 0; i < part.n; ++i) h[i] = p[i].bits;
    return widen(h);
}
BPTT_INLINE void store(bf16* p, Vec<float> v, Part part) {
    const Halves h = narrow(v);
    for (int i = 0; i < part.n; ++i) p[i].bits = h[i];
}

// While it lives, this thread takes numbers too small for the exponent, and makes of them, zeros. Gradients that
// have all but vanished over many steps are such numbers, and each costs a processor a hundred cycles.
class SmallAsZero {
public:
    SmallAsZero() : before_(get()) { set(before_ | zeros); }
    ~SmallAsZero() { set(before_); }
    SmallAsZero(const SmallAsZero&) = delete;
    SmallAsZero& operator=(const SmallAsZero&) = delete;

private:
#if defined(__x86_64__)
    using Word = unsigned;
    static constexpr Word zeros = 0x8040;
    static Word get() { return __builtin_ia32_stmxcsr(); }
    static void set(Word word) { __builtin_ia32_ldmxcsr(word); }
#elif defined(__aarch64__)
    using Word = uint64_t;
    static constexpr Word zeros = 1 << 24;
    static Word get() {
        Word word;
        asm volatile("mrs %0, fpcr" : "=r"(word));
        return word;
    }
    static void set(Word word) { asm volatile("msr fpcr, %0" : : "r"(word)); }
#else
    using Word = int;
    static constexpr Word zeros = 0;
    static Word get() { return 0; }
    static void set(Word) {}
#endif
    const Word before_;
};

// Comparisons with NaN are false, so both keep a NaN in v.
template <class V>
BPTT_INLINE V at_most(V v, V limit) {
    return limit < v ? limit : v;
}
template <class V>
BPTT_INLINE V at_least(V v, V limit) {
    return v < limit ? limit : v;
}

// expm1(x) = scale * p + (scale - 1) and exp(x) = scale * p + scale, |x| <= largest: x is reduced
// to r = x - n ln 2, scale = 2^n, p = expm1(r). p keeps its relative accuracy, which is what makes
// tanh accurate near 0.
template <class T>
BPTT_INLINE void reduce_exp(Vec<T> x, Vec<T>& scale, Vec<T>& p) {
    using S = Simd<T>;
    typedef typename S::I I;
    const Vec<T> t = x * S::log2e + S::magic;
    const Vec<T> n = t - S::magic;
    const Vec<T> r = (x - n * S::ln2_hi) - n * S::ln2_lo;
    constexpr int degree = sizeof(S::q) / sizeof(S::q[0]) - 1;
    Vec<T> q = splat(S::q[degree]);
    BPTT_UNROLL
    for (int i = degree - 1; i >= 0; --i) q = q * r + S::q[i];
    p = (r * r) * q + r;
    // The magic number left n in the low bits of t; move it into the exponent.
    const I bits = (I)t;
    scale = (Vec<T>)((bits << S::mantissa) + (I{} + ((decltype(bits[0] + 0))S::bias << S::mantissa)));
}

// a / d for d >= 1, to a unit or two in the last place. A division of 64 bytes takes as long as a
// gate's whole polynomial; an estimate to 14 bits and one step of Newton's take a quarter of it.
template <class T>
BPTT_INLINE Vec<T> quotient(Vec<T> a, Vec<T> d) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
        const Vec<T> r = (Vec<T>)_mm512_rcp14_ps((__m512)d), q = a * r;
        return q + r * (a - q * d);
    }
#endif
    return a / d;
}

// Error: a few units in the last place for every x; NaN gives NaN. Zero exactly from where exp(-x)
// is infinite: an infinite state times a closed gate is NaN, and a gate that never closes would hide it.
template <class T>
BPTT_INLINE Vec<T> sigmoid(Vec<T> x) {
    Vec<T> scale, p;
    const Vec<T> limit = splat(Simd<T>::largest);
    reduce_exp<T>(at_least(at_most(-x, limit), -limit), scale, p);
    const Vec<T> s = quotient<T>(splat(T(1)), scale * p + scale + T(1));
    return x < -splat(Simd<T>::overflow) ? Vec<T>{} : s;
}

template <class T>
BPTT_INLINE Vec<T> tanh(Vec<T> x) {
    typedef typename Simd<T>::I I;
    const Vec<T> zero{};
    const I sign = (I)x & (I)(-zero);
    const Vec<T> magnitude = at_most((Vec<T>)((I)x ^ sign), splat(Simd<T>::saturated));
    Vec<T> scale, p;
    reduce_exp<T>(magnitude + magnitude, scale, p);
    const Vec<T> e = scale * p + (scale - T(1));
    return (Vec<T>)((I)quotient<T>(e, e + T(2)) | sign);
}

template <class T>
BPTT_INLINE Vec<T> relu(Vec<T> x) {
    return at_least(x, Vec<T>{});
}

}  // namespace BPTT_ISA
}  // namespace bptt
