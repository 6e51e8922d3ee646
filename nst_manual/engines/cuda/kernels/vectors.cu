// The optimiser's passes over its vectors of n numbers (see optimise/vectors.py, which they are the peers of)

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
