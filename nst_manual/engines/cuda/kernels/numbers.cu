// What all of the CUDA engine's kernels share. Feature maps are (height, width, channels), channels a multiple of 64; a
// mask has one bit per activation, bit c % 8 of byte c / 8. What PTX computes stands here, and only here: tests replace
// it by plain C++ and run the rest on a CPU.
//
// A "word" is 32 bits: one TF32 number, or two of 16 bits. Tensor cores see words, so one kernel serves all types.

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef long long int64;

#ifndef ON_HOST
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]

// c += a · b: 16 × 8 words times 8 words × 8. Lane 4g + t has words t and t + 4 of a's rows g and g + 8, the same words
// of b's column g, and columns 2t, 2t + 1 of c's rows g and g + 8.
#define MULTIPLY(name, type)                                                                              \
    __device__ __forceinline__ void name(float (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {      \
        asm("mma.sync.aligned." type " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"     \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                      \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                      \
    }
MULTIPLY(multiply_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
MULTIPLY(multiply_half, "m16n8k16.row.col.f32.f16.f16.f32")
MULTIPLY(multiply_bfloat, "m16n8k16.row.col.f32.bf16.bf16.f32")

// Four 8 × 4-word matrices: lane 8q + r gives the address of matrix q's row r; lane 4g + t gets word t of each row g.
__device__ __forceinline__ void load_matrices(uint32 (&w)[4], const uint32* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"((uint32)__cvta_generic_to_shared(row)));
}

// Copies of 16 bytes to shared memory that nobody waits for; those between two `end_group` are one group.
__device__ __forceinline__ void copy_later(uint32* to, const uint32* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32)__cvta_generic_to_shared(to)), "l"(from));
}
__device__ __forceinline__ void end_group() { asm volatile("cp.async.commit_group;"); }
template <int N>
__device__ __forceinline__ void wait_for_all_but() { asm volatile("cp.async.wait_group %0;" ::"n"(N)); }

__device__ __forceinline__ uint16 half_bits(float v) {
    uint16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}
__device__ __forceinline__ float half_value(uint16 bits) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
}
#endif

// ---- Number types: how one is stored, and how tensor cores multiply it

__device__ __forceinline__ uint32 bits_of(float v) { return __float_as_uint(v); }
__device__ __forceinline__ bool is_finite(float v) { return (bits_of(v) & 0x7f800000u) != 0x7f800000u; }

struct Single {
    typedef float Element;
    static __device__ __forceinline__ float value(float v) { return v; }
    static __device__ __forceinline__ float stored(float v) { return v; }
};

struct Tf32 : Single {  // rounded to 10 bits of fraction when stored: tensor cores would cut the rest off
    enum { PER_WORD = 1 };
    static __device__ __forceinline__ float stored(float v) {
        return is_finite(v) ? __uint_as_float((bits_of(v) + 0x1000u) & ~0x1fffu) : v;
    }
    static __device__ __forceinline__ void multiply(float (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
        multiply_tf32(c, a, b0, b1);
    }
};

struct Half {  // features: 10 bits of fraction, up to 65504, where larger ones end
    typedef uint16 Element;
    enum { PER_WORD = 2 };
    static __device__ __forceinline__ float value(uint16 bits) { return half_value(bits); }
    static __device__ __forceinline__ uint16 stored(float v) { return half_bits(v > 65504.f ? 65504.f : v); }
    static __device__ __forceinline__ void multiply(float (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
        multiply_half(c, a, b0, b1);
    }
};

struct Bfloat {  // gradients: 7 bits of fraction, but the range of float32, so that nothing has to be scaled
    typedef uint16 Element;
    enum { PER_WORD = 2 };
    static __device__ __forceinline__ float value(uint16 bits) { return __uint_as_float((uint32)bits << 16); }
    static __device__ __forceinline__ uint16 stored(float v) {
        uint32 bits = bits_of(v);
        return (is_finite(v) ? bits + 0x7fffu + (bits >> 16 & 1) : bits | (bits << 16 ? 0x10000u : 0)) >> 16;
    }
    static __device__ __forceinline__ void multiply(float (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
        multiply_bfloat(c, a, b0, b1);
    }
};

template <class S, class T>
struct Converted {  // a word of S as one of T
    static __device__ __forceinline__ uint32 word(uint32 w) {
        return T::stored(S::value(w & 0xffffu)) | (uint32)T::stored(S::value(w >> 16)) << 16;
    }
};
template <class T>
struct Converted<T, T> {
    static __device__ __forceinline__ uint32 word(uint32 w) { return w; }
};

// Eight numbers that lie side by side, in as few accesses as there can be.
__device__ __forceinline__ void put_eight(float* to, const float (&v)[8]) {
    ((float4*)to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4*)to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ __forceinline__ void put_eight(uint16* to, const uint16 (&v)[8]) {
    *(uint4*)to = make_uint4(v[0] | (uint32)v[1] << 16, v[2] | (uint32)v[3] << 16, v[4] | (uint32)v[5] << 16,
                             v[6] | (uint32)v[7] << 16);
}
template <class T>
__device__ __forceinline__ void store_eight(typename T::Element* to, const float (&v)[8]) {
    typename T::Element stored[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) stored[k] = T::stored(v[k]);
    put_eight(to, stored);
}

__device__ __forceinline__ float relu(float v) { return v < 0 ? 0.f : v; }  // NaN stays NaN

// Pooling of the maximum: v is the k-th of a window. The first of equal ones wins; a NaN wins for good.
__device__ __forceinline__ void compete(float v, int k, float& best, int& winner) {
    if (k == 0 || v > best || (v != v && best == best)) best = v, winner = k;
}

__device__ __forceinline__ int clamped(int at, int size) { return at < 0 ? 0 : at < size ? at : size - 1; }

// The sum over a block of 256 threads, the same in every run; valid in thread 0.
__device__ __forceinline__ double block_sum(double v) {
    __shared__ double sums[256];
    int thread = threadIdx.x;
    sums[thread] = v;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) sums[thread] += sums[thread + half];
    }
    return sums[0];
}

enum { PLAIN = 0, AVERAGE = 1, MAXIMUM = 2, L2 = 3 };  // what stands between a convolution's features and the next step
