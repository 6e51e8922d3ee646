// Gaussian transport's map (transport.py): small matrices of n × n numbers, by rows

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
