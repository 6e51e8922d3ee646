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
