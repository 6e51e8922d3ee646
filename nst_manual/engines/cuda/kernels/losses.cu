// Losses: sums in float64 and in the same order in every run

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
