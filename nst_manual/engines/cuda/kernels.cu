// The CUDA engine's kernels. Feature maps are (height, width, channels), channels a multiple of 64; a mask has one bit
// per activation, bit c % 8 of byte c / 8. What PTX computes stands in the first part, and only there: tests replace
// that part by plain C++ and run the rest on a CPU.
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

// ---- 3 × 3 convolution on tensor cores, with all that stands beside it
//
// One block computes ROWS × 16 pixels of N channels. Per 16 words of input channels it fetches the pixels with a border
// of one into shared memory once, where all nine taps find them, and each tap's filters as they are needed, STAGES ahead.
// Each of 8 warps computes rows × 16 pixels by columns of 8 channels.
//
// up:    y = pooling(ReLU(conv(x) + bias)), the ReLU if `rectify`, and the mask: open, and for MAXIMUM the winner of its window
// down:  y = factor · conv(x · mask), where x may lie behind a pooling (pooled), and each pixel takes its window's;
//        y is added to what is there if `add`
// With taps = 1 it is a product with one matrix: the middle tap alone.

enum { CHUNK = 16, PITCH = 20, STAGES = 4, SPAN = 18, OUT_PITCH = 72 };  // words, but SPAN: pixels

template <class S, class T>
__device__ __forceinline__ uint4 fetch(const typename S::Element* x, const uint8* mask, int pooled, int y_at, int x_at,
                                       int height, int width, int channels, int c) {
    uint4 v = make_uint4(0, 0, 0, 0);
    int across = pooled ? width / 2 : width, down = pooled ? height / 2 : height;
    int row = pooled ? y_at >> 1 : y_at, column = pooled ? x_at >> 1 : x_at;
    if (y_at < 0 || x_at < 0 || row >= down || column >= across) return v;
    v = *(const uint4*)(x + ((int64)row * across + column) * channels + c);
    uint32* words = &v.x;
    if (mask) {
        uint32 bits = mask[((int64)y_at * width + x_at) * (channels / 8) + c / 8] >> (c & 7);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if (S::PER_WORD == 1) {
                words[k] = bits >> k & 1 ? words[k] : 0;
            } else {
                words[k] &= (bits >> 2 * k & 1 ? 0xffffu : 0) | (bits >> 2 * k & 2 ? 0xffff0000u : 0);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) words[k] = Converted<S, T>::word(words[k]);
    return v;
}

template <class S, class T, int ROWS, int N>
__global__ void __launch_bounds__(256)
conv(const typename S::Element* x, const uint8* mask, int pooled, const uint32* filters, const float* bias,
     typename T::Element* y, uint8* mask_out, int pooling, int rectify, float factor, int add, int height, int width,
     int c_in, int c_out, int taps) {
    constexpr int NF = ROWS * N == 16 * 128 ? 8 : 4;  // fragments of 8 channels per warp
    constexpr int WARPS_ACROSS = N / (8 * NF), MF = ROWS * WARPS_ACROSS / 8;  // and of 16 pixels
    constexpr int PIXELS = (ROWS + 2) * SPAN, PIECES = (PIXELS * 4 + 255) / 256;
    DYNAMIC_SHARED(uint32, shared);
    uint32 *halo = shared, *slices = shared + 2 * PIXELS * PITCH;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int x0 = blockIdx.x * 16, y0 = blockIdx.y * ROWS, n0 = blockIdx.z * N;
    const int warp_row = warp / WARPS_ACROSS * MF, warp_column = warp % WARPS_ACROSS * NF * 8;
    const int words = c_in / T::PER_WORD, chunks = words / CHUNK, stages = chunks * taps;
    uint4 piece[PIECES];
    float sums[MF][NF][4] = {};

    auto fetch_pixels = [&](int chunk) {
#pragma unroll
        for (int k = 0; k < PIECES; ++k) {
            int item = thread + 256 * k, pixel = item / 4;
            if (item < PIXELS * 4)
                piece[k] = fetch<S, T>(x, mask, pooled, y0 - 1 + pixel / SPAN, x0 - 1 + pixel % SPAN, height, width,
                                       c_in, (chunk * CHUNK + item % 4 * 4) * T::PER_WORD);
        }
    };
    auto store_pixels = [&](int chunk) {
#pragma unroll
        for (int k = 0; k < PIECES; ++k) {
            int item = thread + 256 * k;
            if (item < PIXELS * 4)
                *(uint4*)(halo + (chunk % 2 * PIXELS + item / 4) * PITCH + item % 4 * 4) = piece[k];
        }
    };
    auto fetch_filters = [&](int stage) {
        if (stage < stages) {
            const uint32* from = filters + ((int64)(stage % taps) * c_out + n0) * words + stage / taps * CHUNK;
            uint32* to = slices + stage % STAGES * N * PITCH;
#pragma unroll
            for (int item = thread; item < N * 4; item += 256)
                copy_later(to + item / 4 * PITCH + item % 4 * 4, from + (int64)(item / 4) * words + item % 4 * 4);
        }
        end_group();  // also if empty: groups are counted
    };

    fetch_pixels(0);
    store_pixels(0);
    for (int stage = 0; stage < STAGES - 1; ++stage) fetch_filters(stage);
#pragma unroll 1
    for (int stage = 0; stage < stages; ++stage) {
        const int chunk = stage / taps, tap = stage % taps;
        wait_for_all_but<STAGES - 2>();
        __syncthreads();  // this stage's filters and pixels are there, and the last one's are no longer read
        fetch_filters(stage + STAGES - 1);
        if (tap == 0 && chunk + 1 < chunks) fetch_pixels(chunk + 1);
        const int i = taps == 1 ? 1 : tap / 3, j = taps == 1 ? 1 : tap % 3;
        const int quarter = lane / 8, eighth = lane % 8;
        const uint32* a_row =
            halo + (chunk % 2 * PIXELS + (warp_row + i) * SPAN + j + eighth + quarter % 2 * 8) * PITCH + quarter / 2 * 4;
        const uint32* b_row =
            slices + (stage % STAGES * N + warp_column + quarter / 2 * 8 + eighth) * PITCH + quarter % 2 * 4;
#pragma unroll
        for (int k = 0; k < CHUNK; k += 8) {
            uint32 a[MF][4], b[NF / 2][4];
#pragma unroll
            for (int f = 0; f < MF; ++f) load_matrices(a[f], a_row + f * SPAN * PITCH + k);
#pragma unroll
            for (int g = 0; g < NF / 2; ++g) load_matrices(b[g], b_row + g * 16 * PITCH + k);
#pragma unroll
            for (int f = 0; f < MF; ++f)
#pragma unroll
                for (int g = 0; g < NF; ++g) T::multiply(sums[f][g], a[f], b[g / 2][g % 2 * 2], b[g / 2][g % 2 * 2 + 1]);
        }
        if (tap == taps - 1 && chunk + 1 < chunks) store_pixels(chunk + 1);
    }

    // Through shared memory, 64 channels at a time, to where a thread has eight channels of a window's four pixels.
    float* out = (float*)shared;
#pragma unroll
    for (int part = 0; part < N; part += 64) {
        __syncthreads();
        if (warp_column / 64 * 64 == part) {
#pragma unroll
            for (int f = 0; f < MF; ++f)
#pragma unroll
                for (int g = 0; g < NF; ++g) {
                    float* to = out + ((warp_row + f) * 16 + lane / 4) * OUT_PITCH + warp_column % 64 + g * 8 + lane % 4 * 2;
                    to[0] = sums[f][g][0], to[1] = sums[f][g][1];
                    to[8 * OUT_PITCH] = sums[f][g][2], to[8 * OUT_PITCH + 1] = sums[f][g][3];
                }
        }
        __syncthreads();
        for (int item = thread; item < ROWS * 4 * 8; item += 256) {
            const int group = item % 8, window = item / 8, c = n0 + part + group * 8;
            const int window_y = window / 8 * 2, window_x = window % 8 * 2;
            float pooled_out[8] = {};
            int winner[8] = {};
            float v[4][8];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const float* from = out + ((window_y + k / 2) * 16 + window_x + k % 2) * OUT_PITCH + group * 8;
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    const float sum = from[e] * factor + (bias ? bias[c + e] : 0.f);
                    v[k][e] = rectify ? relu(sum) : sum;
                    if (pooling == AVERAGE) pooled_out[e] += v[k][e] / 4;
                    if (pooling == MAXIMUM) compete(v[k][e], k, pooled_out[e], winner[e]);
                }
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int y_at = y0 + window_y + k / 2, x_at = x0 + window_x + k % 2;
                if (y_at >= height || x_at >= width) continue;
                const int64 pixel = (int64)y_at * width + x_at;
                if (mask_out) {
                    uint32 bits = 0;
#pragma unroll
                    for (int e = 0; e < 8; ++e) bits |= (v[k][e] > 0 && (pooling != MAXIMUM || winner[e] == k)) << e;
                    mask_out[pixel * (c_out / 8) + c / 8] = bits;
                }
                if (pooling == PLAIN) {
                    typename T::Element* to = y + pixel * c_out + c;
                    if (add)
#pragma unroll
                        for (int e = 0; e < 8; ++e) v[k][e] += T::value(to[e]);
                    store_eight<T>(to, v[k]);
                }
            }
            const int y_at = (y0 + window_y) / 2, x_at = (x0 + window_x) / 2;
            if (pooling != PLAIN && y_at < height / 2 && x_at < width / 2)
                store_eight<T>(y + ((int64)y_at * (width / 2) + x_at) * c_out + c, pooled_out);
        }
    }
}

// ---- 3 × 3 convolution by Winograd's F(4 × 4, 3 × 3): the steps before and after its 36 matrix products
//
// One thread has one tile of one channel; a warp 32 channels of a tile. V and M are (36, tiles, channels), of the tile
// rows from first_row on. The matrices Bᵀ and Aᵀ come from winograd.py, as text before this file: BT_UP, AT_UP, …

#ifdef BT_UP
template <int DOWN>
struct Matrices {
    static __device__ __forceinline__ constexpr float bt(int i, int j) {
        constexpr float m[2][6][6] = {BT_UP, BT_DOWN};
        return m[DOWN][i][j];
    }
    static __device__ __forceinline__ constexpr float at(int i, int j) {
        constexpr float m[2][4][6] = {AT_UP, AT_DOWN};
        return m[DOWN][i][j];
    }
};

template <int DOWN>
__global__ void __launch_bounds__(256)
winograd_in(const float* x, const uint8* mask, int pooled, float* v, int height, int width, int c, int first_row,
            int tiles) {
    const int across = (width + 3) / 4, tile = blockIdx.x * 8 + threadIdx.y, channel = blockIdx.y * 32 + threadIdx.x;
    if (tile >= tiles) return;
    const int y0 = (first_row + tile / across) * 4 - 1, x0 = tile % across * 4 - 1;
    const int columns = pooled ? width / 2 : width, rows = pooled ? height / 2 : height;
    float d[6][6], half[6][6];
#pragma unroll
    for (int i = 0; i < 6; ++i)
#pragma unroll
        for (int j = 0; j < 6; ++j) {
            const int y_at = y0 + i, x_at = x0 + j, row = pooled ? y_at >> 1 : y_at, column = pooled ? x_at >> 1 : x_at;
            bool open = y_at >= 0 && x_at >= 0 && row < rows && column < columns;
            if (open && mask) open = mask[((int64)y_at * width + x_at) * (c / 8) + channel / 8] >> channel % 8 & 1;
            d[i][j] = open ? x[((int64)row * columns + column) * c + channel] : 0.f;
        }
#pragma unroll
    for (int i = 0; i < 6; ++i)
#pragma unroll
        for (int j = 0; j < 6; ++j) {
            half[i][j] = 0;
#pragma unroll
            for (int k = 0; k < 6; ++k)
                if (Matrices<DOWN>::bt(i, k) != 0) half[i][j] += Matrices<DOWN>::bt(i, k) * d[k][j];
        }
#pragma unroll
    for (int i = 0; i < 6; ++i)
#pragma unroll
        for (int j = 0; j < 6; ++j) {
            float sum = 0;
#pragma unroll
            for (int k = 0; k < 6; ++k)
                if (Matrices<DOWN>::bt(j, k) != 0) sum += half[i][k] * Matrices<DOWN>::bt(j, k);
            v[((int64)(i * 6 + j) * tiles + tile) * c + channel] = sum;
        }
}

template <int DOWN>
__global__ void __launch_bounds__(256)
winograd_out(const float* m, const float* bias, float* y, uint32* mask_out, int pooling, int rectify, float factor,
             int height, int width, int c, int first_row, int tiles) {
    const int across = (width + 3) / 4, tile = blockIdx.x * 8 + threadIdx.y, channel = blockIdx.y * 32 + threadIdx.x;
    if (tile >= tiles) return;
    const int y0 = (first_row + tile / across) * 4, x0 = tile % across * 4;
    float half[4][6] = {}, out[4][4];
#pragma unroll
    for (int k = 0; k < 6; ++k)
#pragma unroll
        for (int j = 0; j < 6; ++j) {
            const float value = m[((int64)(k * 6 + j) * tiles + tile) * c + channel];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (Matrices<DOWN>::at(i, k) != 0) half[i][j] += Matrices<DOWN>::at(i, k) * value;
        }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float sum = 0;
#pragma unroll
            for (int k = 0; k < 6; ++k)
                if (Matrices<DOWN>::at(j, k) != 0) sum += half[i][k] * Matrices<DOWN>::at(j, k);
            sum = sum * factor + (bias ? bias[channel] : 0.f);
            out[i][j] = rectify ? relu(sum) : sum;
        }
#pragma unroll
    for (int window = 0; window < 4; ++window) {
        const int i0 = window / 2 * 2, j0 = window % 2 * 2;
        float pooled_out = 0;
        int winner = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if (pooling == AVERAGE) pooled_out += out[i0 + k / 2][j0 + k % 2] / 4;
            if (pooling == MAXIMUM) compete(out[i0 + k / 2][j0 + k % 2], k, pooled_out, winner);
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int y_at = y0 + i0 + k / 2, x_at = x0 + j0 + k % 2;
            if (y_at >= height || x_at >= width) continue;  // the same for the whole warp
            const int64 pixel = (int64)y_at * width + x_at;
            const float value = out[i0 + k / 2][j0 + k % 2];
            if (mask_out) {
                uint32 bits = __ballot_sync(~0u, value > 0 && (pooling != MAXIMUM || winner == k));
                if (threadIdx.x == 0) mask_out[pixel * (c / 32) + channel / 32] = bits;
            }
            if (pooling == PLAIN) y[pixel * c + channel] = value;
        }
        const int y_at = (y0 + i0) / 2, x_at = (x0 + j0) / 2;
        if (pooling != PLAIN && y_at < height / 2 && x_at < width / 2)
            y[((int64)y_at * (width / 2) + x_at) * c + channel] = pooled_out;
    }
}
#endif

// ---- The first convolution, of the image's 3 channels, and its derivative: too thin for tensor cores

// A thread has four pixels of a row by eight channels; weights are (27, c). Rows y0 … of the map go to the start of y.
// Outside the image are zeros, or with `replicate` its edge pixels.
template <class T>
__global__ void __launch_bounds__(256)
first(const float* x, const float* weights, const float* bias, typename T::Element* y, uint8* mask_out, int rectify,
      int replicate, int y0, int height, int width, int c) {
    __shared__ float taps[27 * 64 + 64], pixels[3][130 * 3];
    const int thread = threadIdx.x, x0 = blockIdx.x * 128, row = y0 + blockIdx.y, c0 = blockIdx.z * 64;
    for (int k = thread; k < 27 * 64; k += 256) taps[k] = weights[k / 64 * c + c0 + k % 64];
    if (thread < 64) taps[27 * 64 + thread] = bias[c0 + thread];
    for (int k = thread; k < 3 * 390; k += 256) {
        int y_at = row - 1 + k / 390, x_at = x0 - 1 + k % 390 / 3;
        if (replicate) y_at = clamped(y_at, height), x_at = clamped(x_at, width);
        const bool inside = y_at >= 0 && y_at < height && x_at >= 0 && x_at < width;
        pixels[k / 390][k % 390] = inside ? x[((int64)y_at * width + x_at) * 3 + k % 3] : 0.f;
    }
    __syncthreads();
    const int group = thread % 8 * 8, first_pixel = thread / 8 * 4;
    float sums[4][8];
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[k][e] = taps[27 * 64 + group + e];
    for (int i = 0; i < 3; ++i)
#pragma unroll
        for (int jc = 0; jc < 9; ++jc) {
            const float* w = taps + (i * 9 + jc) * 64 + group;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const float value = pixels[i][(first_pixel + k) * 3 + jc];
#pragma unroll
                for (int e = 0; e < 8; ++e) sums[k][e] += value * w[e];
            }
        }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (x0 + first_pixel + k >= width) continue;
        uint32 bits = 0;
#pragma unroll
        for (int e = 0; e < 8; ++e) bits |= (sums[k][e] > 0) << e, sums[k][e] = rectify ? relu(sums[k][e]) : sums[k][e];
        const int64 pixel = (int64)blockIdx.y * width + x0 + first_pixel + k;
        store_eight<T>(y + pixel * c + c0 + group, sums[k]);
        if (mask_out) mask_out[(pixel * c + c0 + group) / 8] = bits;
    }
}

// Each of 32 × 8 features gives its share to the nine pixels around it; 30 × 6 pixels in the middle add up what they get.
template <class D>
__global__ void __launch_bounds__(256)
first_backward(const typename D::Element* d, const uint8* mask, const float* weights, float* d_x, int replicate,
               int height, int width, int c) {
    __shared__ float memory[256 * 27], taps[16 * 28];
    const int thread = threadIdx.x, x0 = blockIdx.x * 30 - 1, y0 = blockIdx.y * 6 - 1;
    float gifts[27] = {};
    for (int c0 = 0; c0 < c; c0 += 16) {
        __syncthreads();
        for (int k = thread; k < 256 * 16; k += 256) {
            const int y_at = y0 + k / 512, x_at = x0 + k / 16 % 32, channel = c0 + k % 16;
            const int64 at = ((int64)y_at * width + x_at) * c + channel;
            bool open = y_at >= 0 && y_at < height && x_at >= 0 && x_at < width;
            open = open && (!mask || (mask[at / 8] >> channel % 8 & 1));
            memory[k / 16 * 17 + k % 16] = open ? D::value(d[at]) : 0.f;
        }
        for (int k = thread; k < 16 * 27; k += 256) taps[k % 16 * 28 + k / 16] = weights[k / 16 * c + c0 + k % 16];
        __syncthreads();
        for (int channel = 0; channel < 16; ++channel) {
            const float value = memory[thread * 17 + channel];
#pragma unroll
            for (int k = 0; k < 27; ++k) gifts[k] += value * taps[channel * 28 + k];
        }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 27; ++k) memory[thread * 27 + k] = gifts[k];
    __syncthreads();
    const int y_in = thread / 32, x_in = thread % 32, y_at = y0 + y_in, x_at = x0 + x_in;
    if (y_in == 0 || y_in == 7 || x_in == 0 || x_in == 31 || y_at >= height || x_at >= width) return;
    for (int channel = 0; channel < 3; ++channel) {
        float sum = 0;
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)  // output (y − i + 1, x − j + 1) met this pixel with tap (i, j)
            sum += memory[((y_in - tap / 3 + 1) * 32 + x_in - tap % 3 + 1) * 27 + tap * 3 + channel];
        if (replicate && (y_at == 0 || y_at == height - 1 || x_at == 0 || x_at == width - 1))
            for (int near = 0; near < 9; ++near)  // outputs beside this pixel that met a copy of it outside the image
                for (int tap = 0; tap < 9; ++tap) {
                    const int y_out = y_at + near / 3 - 1, x_out = x_at + near % 3 - 1;
                    const int y_met = y_out + tap / 3 - 1, x_met = x_out + tap % 3 - 1;
                    const bool copy = (y_met != y_at || x_met != x_at) && clamped(y_met, height) == y_at;
                    if (copy && clamped(x_met, width) == x_at)
                        sum += memory[((y_in + near / 3 - 1) * 32 + x_in + near % 3 - 1) * 27 + tap * 3 + channel];
                }
        d_x[((int64)y_at * width + x_at) * 3 + channel] = sum;
    }
}

// ---- Pooling alone, where its features or those before it are tapped: one thread per number written

template <class T>
__device__ __forceinline__ float squares_of_window(const typename T::Element* x, int row, int column, int channel, int width,
                                                   int c) {
    float sum = 0;
    for (int k = 0; k < 4; ++k) {
        const float v = T::value(x[((int64)(row * 2 + k / 2) * width + column * 2 + k % 2) * c + channel]);
        sum += v * v;
    }
    return sum;
}

template <class T>
__global__ void pool(const typename T::Element* x, typename T::Element* y, uint8* winners, int pooling, float scale,
                     int height, int width, int c) {
    const int64 at = (int64)blockIdx.x * 256 + threadIdx.x;
    const int across = width / 2;
    if (at >= (int64)(height / 2) * across * c) return;
    const int channel = at % c, column = at / c % across, row = at / c / across;
    float sum = 0, best = 0;
    int winner = 0;
    for (int k = 0; k < 4; ++k) {
        const float v = T::value(x[((int64)(row * 2 + k / 2) * width + column * 2 + k % 2) * c + channel]);
        sum += v / 4;
        compete(v, k, best, winner);
    }
    if (pooling == L2) sum = sqrtf(squares_of_window<T>(x, row, column, channel, width, c));
    y[at] = T::stored(pooling == MAXIMUM ? best : scale * sum);
    if (pooling == MAXIMUM) winners[at] = winner;
}

template <class D, class T>
__global__ void pool_backward(const typename D::Element* d, const uint8* winners, const typename T::Element* x,
                              typename D::Element* d_x, int pooling, float scale, int height, int width, int c) {
    const int64 at = (int64)blockIdx.x * 256 + threadIdx.x;
    if (at >= (int64)height * width * c) return;
    const int channel = at % c, column = at / c % width, row = at / c / width;
    const int64 from = ((int64)(row / 2) * (width / 2) + column / 2) * c + channel;
    float v = 0;
    if (row / 2 < height / 2 && column / 2 < width / 2) {
        if (pooling == AVERAGE) v = scale * D::value(d[from]) / 4;
        if (pooling == MAXIMUM && winners[from] == row % 2 * 2 + column % 2) v = D::value(d[from]);
        if (pooling == L2 && T::value(x[at]) != 0)
            v = scale * D::value(d[from]) * T::value(x[at]) /
                sqrtf(squares_of_window<T>(x, row / 2, column / 2, channel, width, c));
    }
    d_x[at] = D::stored(v);
}

// ---- Losses: sums in float64 and in the same order in every run

// Each warp multiplies its own `slab` pixels' features with themselves, 64 channels by 64, into partials[unit] (c, c), on
// and above the diagonal of blocks. A fragment's row is a channel, a word one pixel or two; with 16-bit numbers, the two
// channels of a word become rows g and g + 8.
template <class T>
__global__ void __launch_bounds__(128)
gram(const typename T::Element* features, float* partials, int64 pixels, int c, int slab) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, blocks = c / 64;
    int row_block = 0, column_block = blockIdx.y;
    while (column_block >= blocks - row_block) column_block -= blocks - row_block++;
    column_block += row_block;
    const int64 unit = (int64)blockIdx.x * 4 + threadIdx.x / 32, begin = unit * slab;
    if (begin >= pixels) return;
    const int64 end = begin + slab < pixels ? begin + slab : pixels;
    float sums[4][8][4] = {};
    auto fragment = [&](int64 p, int c0, uint32(&w)[4]) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int64 pixel = p + (t + 4 * h) * T::PER_WORD;
            if (T::PER_WORD == 1) {
                const uint32* from = (const uint32*)features + pixel * c + c0 + g;
                w[2 * h] = pixel < end ? from[0] : 0;
                w[2 * h + 1] = pixel < end ? from[8] : 0;
            } else {
                const uint32* from = (const uint32*)features + (pixel * c + c0) / 2 + g;
                const uint32 one = pixel < end ? from[0] : 0, two = pixel + 1 < end ? from[c / 2] : 0;
                w[2 * h] = (one & 0xffffu) | two << 16;
                w[2 * h + 1] = one >> 16 | (two & 0xffff0000u);
            }
        }
    };
    for (int64 p = begin; p < end; p += 8 * T::PER_WORD) {
        uint32 a[4][4], b[4][4];
#pragma unroll
        for (int f = 0; f < 4; ++f) fragment(p, row_block * 64 + f * 16, a[f]);
#pragma unroll
        for (int f = 0; f < 4; ++f) fragment(p, column_block * 64 + f * 16, b[f]);
#pragma unroll
        for (int f = 0; f < 4; ++f)
#pragma unroll
            for (int n = 0; n < 8; ++n) T::multiply(sums[f][n], a[f], b[n / 2][n % 2], b[n / 2][n % 2 + 2]);
    }
    auto channel = [](int group, int row) {
        return group * 16 + (T::PER_WORD == 1 ? row : row % 8 * 2 + row / 8);
    };
    float* out = partials + (unit * c + row_block * 64) * c + column_block * 64;
#pragma unroll
    for (int f = 0; f < 4; ++f)
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int k = 0; k < 4; ++k)
                out[(int64)channel(f, g + k / 2 * 8) * c + channel(n / 2, n % 2 * 8 + 2 * t + k % 2)] = sums[f][n][k];
}

// second = Σ partials / pixels; a block of 32 × 8 threads has 32 entries of a row. Below the diagonal: as above it.
__global__ void gram_sum(const float* partials, double* second, int units, double pixels, int c) {
    __shared__ double sums[8][32];
    int row = blockIdx.y, column = blockIdx.x * 32 + threadIdx.x;
    const int64 at = (int64)row * c + column;
    const int64 from = row / 64 > column / 64 ? (int64)column * c + row : at;
    double sum = 0;
    for (int unit = threadIdx.y; unit < units; unit += 8) sum += partials[(int64)unit * c * c + from];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y) return;
    for (int k = 1; k < 8; ++k) sum += sums[k][threadIdx.x];
    second[at] = sum / pixels;
}

// sums[slab] = Σ weights · features over a slab of pixels; a block of 32 × 8 threads has 32 channels.
template <class T>
__global__ void channel_sums(const typename T::Element* features, const float* weights, double* sums, int64 pixels, int c,
                             int slab) {
    __shared__ float parts[8][32];
    const int channel = blockIdx.y * 32 + threadIdx.x;
    const int64 begin = (int64)blockIdx.x * slab, end = begin + slab < pixels ? begin + slab : pixels;
    float sum = 0;
    for (int64 p = begin + threadIdx.y; p < end; p += 8)
        sum += T::value(features[p * c + channel]) * (weights ? weights[p] : 1.f);
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y) return;
    double total = 0;
    for (int k = 0; k < 8; ++k) total += parts[k][threadIdx.x];
    sums[(int64)blockIdx.x * c + channel] = total;
}

// matrix = factor · values, as gradients are stored.
template <class D>
__global__ void encode(const double* values, double factor, typename D::Element* matrix, int n) {
    const int k = blockIdx.x * 256 + threadIdx.x;
    if (k < n) matrix[k] = D::stored((float)(factor * values[k]));
}

// d = (d + shift) · weights: a shift for each channel, a weight for each pixel, either of which may be left out.
template <class D>
__global__ void pull(typename D::Element* d, const float* shift, const float* weights, int64 n, int c) {
    const int64 k = (int64)blockIdx.x * 256 + threadIdx.x;
    if (k >= n) return;
    float value = D::value(d[k]);
    if (shift) value += shift[k % c];
    if (weights) value *= weights[k / c];
    d[k] = D::stored(value);
}

// d = weight · (features − target), and each block's part of Σ (features − target)².
template <class S, class D>
__global__ void content(const typename S::Element* features, const typename S::Element* target, float weight,
                        typename D::Element* d, double* sums, int64 n) {
    double sum = 0;
    for (int64 k = (int64)blockIdx.x * 256 + threadIdx.x; k < n; k += (int64)gridDim.x * 256) {
        const float difference = S::value(features[k]) - S::value(target[k]);
        sum += (double)difference * difference;
        d[k] = D::stored(weight * difference);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void add_up(const double* values, int n, double factor, double* total) {  // one block
    double sum = 0;
    for (int k = threadIdx.x; k < n; k += 256) sum += values[k];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = factor * sum;
}

template <class D>
__global__ void join(typename D::Element* d, const typename D::Element* other, int64 n) {  // d += other
    const int64 k = (int64)blockIdx.x * 256 + threadIdx.x;
    if (k < n) d[k] = D::stored(D::value(d[k]) + D::value(other[k]));
}

// scaled = features · weights, a number for each pixel.
template <class T>
__global__ void scale(const typename T::Element* features, const float* weights, typename T::Element* scaled, int64 n,
                      int c) {
    const int64 k = (int64)blockIdx.x * 256 + threadIdx.x;
    if (k < n) scaled[k] = T::stored(T::value(features[k]) * weights[k / c]);
}

// ---- Gaussian transport's map (transport.py): small matrices of n × n numbers, by rows

// out = factor · a b + diagonal · I, or with TURNED aᵀ in place of a. A block has 64 × 64 results, a thread 4 × 4.
template <class F, int TURNED>
__global__ void __launch_bounds__(256)
matrix_product(const F* a, const F* b, F* out, F factor, F diagonal, int n) {
    __shared__ F left[16][68], right[16][68];
    const int thread = threadIdx.x, row0 = blockIdx.y * 64, column0 = blockIdx.x * 64;
    const int row = thread / 16 * 4, column = thread % 16 * 4;
    F sums[4][4] = {}, next_left[4], next_right[4];
    auto fetch = [&](int k0) {
#pragma unroll
        for (int h = 0; h < 4; ++h) {
            const int item = thread + 256 * h;
            const int k = k0 + item / 64, side = item % 64;  // across rows of b, and of a if it is turned
            const int r = row0 + (TURNED ? side : item / 16), inner = TURNED ? k : k0 + item % 16;
            next_left[h] = r < n && inner < n ? TURNED ? a[inner * n + r] : a[r * n + inner] : 0;
            next_right[h] = k < n && column0 + side < n ? b[k * n + column0 + side] : 0;
        }
    };
    fetch(0);
    for (int k0 = 0; k0 < n; k0 += 16) {
        __syncthreads();
#pragma unroll
        for (int h = 0; h < 4; ++h) {
            const int item = thread + 256 * h;
            if (TURNED) left[item / 64][item % 64] = next_left[h];
            else left[item % 16][item / 16] = next_left[h];
            right[item / 64][item % 64] = next_right[h];
        }
        __syncthreads();
        if (k0 + 16 < n) fetch(k0 + 16);
#pragma unroll
        for (int k = 0; k < 16; ++k)
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] += left[k][row + i] * right[k][column + j];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int r = row0 + row + i, c = column0 + column + j;
            if (r < n && c < n) out[r * n + c] = factor * sums[i][j] + (r == c ? diagonal : 0);
        }
}

// L with L Lᵀ = a, and zeros above its diagonal; one block, 32 columns at a time. The squares on the diagonal are never
// smaller than a's smallest eigenvalue: what rounding has made less than `least` is raised to it.
__global__ void __launch_bounds__(512)
cholesky(const double* a, const double* least, double* lower, int n) {
    __shared__ double corner[32][33], rows[16][32];
    const int thread = threadIdx.x;
    for (int j0 = 0; j0 < n; j0 += 32) {
        const int wide = n - j0 < 32 ? n - j0 : 32;
        for (int item = thread; item < 32 * 32; item += 512) {
            const int i = item / 32, j = item % 32;
            double sum = 0;
            if (i < wide && j <= i) {
                const double *one = lower + (j0 + i) * n, *other = lower + (j0 + j) * n;
                sum = a[(j0 + i) * n + j0 + j];
                for (int k = 0; k < j0; ++k) sum -= one[k] * other[k];
            }
            corner[i][j] = sum;
        }
        for (int j = 0; j < wide; ++j) {
            __syncthreads();
            if (thread == 0) corner[j][j] = sqrt(corner[j][j] > *least ? corner[j][j] : *least);
            __syncthreads();
            if (thread > j && thread < wide) corner[thread][j] /= corner[j][j];
            __syncthreads();
            for (int item = thread; item < 32 * 32; item += 512) {
                const int i = item / 32, m = item % 32;
                if (m > j && m <= i && i < wide) corner[i][m] -= corner[i][j] * corner[m][j];
            }
        }
        __syncthreads();
        for (int item = thread; item < wide * (n - j0); item += 512) {
            const int i = item / (n - j0), j = item % (n - j0);
            lower[(j0 + i) * n + j0 + j] = j <= i ? corner[i][j] : 0;
        }
        for (int first = j0 + 32; first < n; first += 512) {  // a thread has one of the rows below
            const int i = first + thread;
            double c[32];
#pragma unroll
            for (int j = 0; j < 32; ++j) c[j] = i < n ? a[i * n + j0 + j] : 0;
            for (int k0 = 0; k0 < j0; k0 += 16) {
                __syncthreads();
                rows[thread / 32][thread % 32] = lower[(j0 + thread % 32) * n + k0 + thread / 32];
                __syncthreads();
                if (i >= n) continue;
#pragma unroll
                for (int k = 0; k < 16; ++k) {
                    const double value = lower[i * n + k0 + k];
#pragma unroll
                    for (int j = 0; j < 32; ++j) c[j] -= value * rows[k][j];
                }
            }
            if (i >= n) continue;
#pragma unroll
            for (int j = 0; j < 32; ++j) {
#pragma unroll
                for (int m = 0; m < j; ++m) c[j] -= c[m] * corner[j][m];
                c[j] /= corner[j][j];
                lower[i * n + j0 + j] = c[j];
            }
        }
        __syncthreads();
    }
}

// x with Lᵀ x = right, from the last row up; a block has 8 columns.
__global__ void __launch_bounds__(256)
solve(const double* lower, const double* right, double* x, int n) {
    DYNAMIC_SHARED(double, found);  // (n, 8)
    const int own = threadIdx.x / 8, c = threadIdx.x % 8, column = blockIdx.x * 8 + c;
    for (int i0 = (n - 1) / 32 * 32; i0 >= 0; i0 -= 32) {
        const int i = i0 + own;
        const bool mine = i < n && column < n;
        double sum = mine ? right[i * n + column] : 0;
        if (mine)
            for (int k = i0 + 32; k < n; ++k) sum -= lower[k * n + i] * found[k * 8 + c];
        for (int row = (n < i0 + 32 ? n : i0 + 32) - 1; row >= i0; --row) {
            if (i == row) found[row * 8 + c] = sum = sum / lower[row * n + row];
            __syncthreads();
            if (i < row) sum -= lower[row * n + i] * found[row * 8 + c];
        }
        if (mine) x[i * n + column] = sum;
    }
}

// ---- The optimiser's passes over its vectors of n numbers (see optimise/vectors.py, which they are the peers of)

// Dot products in float64 of 2m + 3 rows – the pairs, y = g′ − g, g′, s = x′ − x – with some of them as columns: y, g′, s;
// and with bounds, before these, all y and g′, where a pixel may follow −g′, which is put into `free`. A thread has one
// row and four columns of part of a tile; partials are (block, part, rows, columns).
template <class F>
__global__ void __launch_bounds__(256)
products(const F* rows, const F* x, const F* x_new, const F* g, const F* g_new, bool* free, double* partials,
         int64 n, int m, int tile, int parts) {
    DYNAMIC_SHARED(double, cells);
    const int height = 2 * m + 3, masked = free ? m + 2 : 0, columns = masked + 3, quads = (columns + 3) / 4;
    const int pitch = tile + 1;
    double* right = cells + height * pitch;
    double* out = partials + (int64)blockIdx.x * parts * height * columns;
    bool begun = false;
    for (int64 start = (int64)blockIdx.x * tile; start < n; start += (int64)gridDim.x * tile) {
        __syncthreads();
        for (int k = threadIdx.x; k < height * tile; k += 256) {
            const int row = k / tile;
            const int64 at = start + k % tile;
            double value = 0;
            if (at < n) {
                if (row < 2 * m) value = rows[row * n + at];
                else if (row == 2 * m) value = (double)g_new[at] - g[at];
                else if (row == 2 * m + 1) value = g_new[at];
                else value = (double)x_new[at] - x[at];
            }
            cells[row * pitch + k % tile] = value;
            if (row >= m && row < m + masked) {
                const bool open = at < n && (x_new[at] > 0 || g_new[at] < 0) && (x_new[at] < 255 || g_new[at] > 0);
                right[(row - m) * pitch + k % tile] = open ? value : 0.;
                if (row == m && at < n) free[at] = open;
            }
            if (row >= 2 * m) right[(masked + row - 2 * m) * pitch + k % tile] = value;
        }
        __syncthreads();
        for (int item = threadIdx.x; item < height * quads * parts; item += 256) {
            const int row = item % height, quad = item / height % quads, part = item / height / quads;
            double sums[4] = {};
            for (int k = part; k < tile; k += parts) {
                const double value = cells[row * pitch + k];
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (quad * 4 + e < columns) sums[e] += value * right[(quad * 4 + e) * pitch + k];
            }
#pragma unroll
            for (int e = 0; e < 4; ++e)
                if (quad * 4 + e < columns) {
                    double* to = out + ((int64)part * height + row) * columns + quad * 4 + e;
                    *to = begun ? *to + sums[e] : sums[e];
                }
        }
        begun = true;
    }
}

// Each block's part of gᵀg and of ‖x′ − x‖².
template <class F>
__global__ void squares(const F* g, const F* x, const F* x_new, double* sums, int64 n) {
    double square = 0, moved = 0;
    for (int64 k = (int64)blockIdx.x * 256 + threadIdx.x; k < n; k += (int64)gridDim.x * 256) {
        const double step = (double)x_new[k] - x[k];
        square += (double)g[k] * g[k], moved += step * step;
    }
    square = block_sum(square);
    __syncthreads();
    moved = block_sum(moved);
    if (threadIdx.x == 0) sums[2 * blockIdx.x] = square, sums[2 * blockIdx.x + 1] = moved;
}

// total[k] = Σ partials[:, k]
__global__ void add_partials(const double* partials, int count, int size, double* total) {
    const int k = blockIdx.x;
    double sum = 0;
    for (int part = threadIdx.x; part < count; part += 256) sum += partials[(int64)part * size + k];
    sum = block_sum(sum);
    if (threadIdx.x == 0) total[k] = sum;
}

// The direction: Σ weights · (rows, then g), 0 where not free, and with an image no farther than 0 … 255 from it.
template <class F>
__global__ void combine(const F* rows, const F* g, const double* weights, const bool* free, const F* image, F* direction,
                        int64 n, int count) {
    const int64 k = (int64)blockIdx.x * 256 + threadIdx.x;
    if (k >= n) return;
    F sum = (F)weights[count] * g[k];
    for (int row = 0; row < count; ++row) sum += (F)weights[row] * rows[row * n + k];
    if (free && !free[k]) sum = 0;
    if (image) {
        F end = image[k] + sum;
        end = end < 0 ? 0 : end > 255 ? 255 : end;
        sum = end - image[k];
    }
    direction[k] = sum;
}
