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
