// Runs engines/cuda/kernels on a CPU: each thread of a block is a fiber, blocks run one after the other. What stands in
// PTX there has its plain peers here; barriers and the tensor cores' products wait for all that take part, as on a GPU,
// and copies that nobody waits for arrive at the last moment allowed. device_stand_in.py puts it before the kernels.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <deque>
#include <utility>
#include <vector>

#define ON_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static
#define DYNAMIC_SHARED(type, name) type* name = (type*)host::memory

struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
static uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct Index { int x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {
const int MOST = 512, STACK = 96 << 10;
static char* memory;

struct Copy { void* to; const void* from; };
struct Fiber {
    jmp_buf here;
    ucontext_t start;
    char* stack = nullptr;
    Index index;
    int warp;
    bool started, done;
    std::deque<std::vector<Copy>> groups;
    std::vector<Copy> open;
};
struct Meeting { int arrived = 0, expected = 0, round = 0; void* parts[32]; };

static Fiber fibers[MOST];
static Meeting block, warps[MOST / 32];
static Fiber* me;
static jmp_buf scheduler;
static long events, arrivals;
static void (*body)(void**);
static void** body_arguments;

static void yield() {
    Fiber* mine = me;
    if (_setjmp(mine->here) == 0) _longjmp(scheduler, 1);
    me = mine;
    threadIdx = mine->index;
}

template <class Action>
static void meet(Meeting& meeting, Action action) {
    const int round = meeting.round;
    ++arrivals;
    if (++meeting.arrived == meeting.expected) {
        action();
        meeting.arrived = 0, ++meeting.round, ++events;
    } else {
        while (meeting.round == round) yield();
    }
}

static void run() {  // a fiber, for one block after the other
    for (;;) {
        body(body_arguments);
        me->done = true, ++events;
        if (--block.expected == block.arrived && block.arrived) block.arrived = 0, ++block.round;
        --warps[me->warp].expected;
        if (_setjmp(me->here) == 0) _longjmp(scheduler, 1);
    }
}

// 0, or 1 if the threads wait for each other for ever.
static int run_block(int threads, bool backward) {
    block = Meeting(), block.expected = threads;
    for (int k = 0; k < threads; ++k) {
        Fiber& fiber = fibers[k];
        if (k % 32 == 0) warps[k / 32] = Meeting();
        ++warps[k / 32].expected;
        fiber.index = {k % blockDim.x, k / blockDim.x % blockDim.y, k / blockDim.x / blockDim.y};
        fiber.warp = k / 32, fiber.done = false;
        fiber.groups.clear(), fiber.open.clear();
        fiber.started = fiber.stack != nullptr;
        if (fiber.started) continue;
        fiber.stack = (char*)malloc(STACK);
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack, fiber.start.uc_stack.ss_size = STACK, fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, run, 0);
    }
    static volatile int left, k;
    for (left = threads; left;) {
        const long before = events;
        for (k = 0; k < threads; k = k + 1) {
            Fiber& fiber = fibers[backward ? threads - 1 - k : k];
            if (fiber.done) continue;
            me = &fiber, threadIdx = fiber.index;
            if (_setjmp(scheduler) == 0) {
                if (fiber.started) _longjmp(fiber.here, 1);
                fiber.started = true;
                setcontext(&fiber.start);
            }
            if (me->done) left = left - 1;
        }
        if (events == before && !arrivals) return 1;
        arrivals = 0;
    }
    return 0;
}
}  // namespace host

static void __syncthreads() { host::meet(host::block, [] {}); }

struct Vote { bool mine; uint32_t all; };
static uint32_t __ballot_sync(uint32_t, bool mine) {
    host::Meeting& warp = host::warps[host::me->warp];
    Vote vote = {mine, 0};
    warp.parts[threadIdx.x % 32] = &vote;
    host::meet(warp, [&] {
        uint32_t all = 0;
        for (int k = 0; k < 32; ++k) all |= (uint32_t)((Vote*)warp.parts[k])->mine << k;
        for (int k = 0; k < 32; ++k) ((Vote*)warp.parts[k])->all = all;
    });
    return vote.all;
}

static float __uint_as_float(uint32_t bits) { float v; memcpy(&v, &bits, 4); return v; }
static uint32_t __float_as_uint(float v) { uint32_t bits; memcpy(&bits, &v, 4); return bits; }
static uint16_t half_bits(float v) { _Float16 h = (_Float16)v; uint16_t bits; memcpy(&bits, &h, 2); return bits; }
static float half_value(uint16_t bits) { _Float16 h; memcpy(&h, &bits, 2); return (float)h; }
static float bfloat_value(uint16_t bits) { return __uint_as_float((uint32_t)bits << 16); }
static float tf32_value(uint32_t bits) { return __uint_as_float(bits & ~0x1fffu); }  // tensor cores do not see the rest

// Where PTX's manual says that the 32 lanes have the parts of a, b and c. `values` are the numbers of a word.
struct Product { float* c; const uint32_t* a; uint32_t b[2]; };
template <class Values>
static void multiply(float* c, const uint32_t* a, uint32_t b0, uint32_t b1, Values values) {
    host::Meeting& warp = host::warps[host::me->warp];
    Product product = {c, a, {b0, b1}};
    warp.parts[threadIdx.x % 32] = &product;
    host::meet(warp, [&] {
        float rows[16][16], columns[8][16];
        for (int lane = 0; lane < 32; ++lane) {
            const Product& part = *(Product*)warp.parts[lane];
            for (int half = 0; half < 2; ++half) {
                const int word = lane % 4 + half * 4;
                for (int k = 0; k < 2; ++k) values(part.a[half * 2 + k], &rows[lane / 4 + k * 8][word * 2]);
                values(part.b[half], &columns[lane / 4][word * 2]);
            }
        }
        for (int row = 0; row < 16; ++row)
            for (int column = 0; column < 8; ++column) {
                float sum = 0;
                for (int k = 0; k < 16; ++k) sum += rows[row][k] * columns[column][k];
                ((Product*)warp.parts[row % 8 * 4 + column / 2])->c[row / 8 * 2 + column % 2] += sum;
            }
    });
}
static void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply(c, a, b0, b1, [](uint32_t word, float* v) { v[0] = tf32_value(word), v[1] = 0; });
}
static void multiply_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply(c, a, b0, b1, [](uint32_t word, float* v) { v[0] = half_value(word), v[1] = half_value(word >> 16); });
}
static void multiply_bfloat(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply(c, a, b0, b1, [](uint32_t word, float* v) { v[0] = bfloat_value(word), v[1] = bfloat_value(word >> 16); });
}

struct Rows { uint32_t* w; const uint32_t* row; };
static void load_matrices(uint32_t (&w)[4], const uint32_t* row) {
    host::Meeting& warp = host::warps[host::me->warp];
    Rows rows = {w, row};
    if ((uintptr_t)row % 16) abort();
    warp.parts[threadIdx.x % 32] = &rows;
    host::meet(warp, [&] {
        for (int lane = 0; lane < 32; ++lane)
            for (int matrix = 0; matrix < 4; ++matrix)
                ((Rows*)warp.parts[lane])->w[matrix] = ((Rows*)warp.parts[matrix * 8 + lane / 4])->row[lane % 4];
    });
}

static void copy_later(uint32_t* to, const uint32_t* from) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) abort();
    host::me->open.push_back({to, from});
}
static void end_group() { host::me->groups.push_back(std::move(host::me->open)), host::me->open.clear(); }
template <int N>
static void wait_for_all_but() {
    while ((int)host::me->groups.size() > N) {
        for (host::Copy copy : host::me->groups.front()) memcpy(copy.to, copy.from, 16);
        host::me->groups.pop_front();
    }
}

// ---- Launching: kernels by number, arguments as pointers to their values

template <class... A>
constexpr int count(void (*)(A...)) { return sizeof...(A); }
template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) { kernel(*(A*)arguments[I]...); }
template <class... A>
static void sizes_of(void (*)(A...), int* sizes) {
    int all[] = {(int)sizeof(A)..., 0};
    memcpy(sizes, all, sizeof(all));
}
template <auto Kernel>
static void body_of(void** arguments) { call(Kernel, arguments, std::make_index_sequence<count(Kernel)>()); }

struct Entry { const char* name; void (*body)(void**); void (*sizes)(int*); };
template <auto Kernel>
static Entry entry(const char* name) { return {name, body_of<Kernel>, [](int* sizes) { sizes_of(Kernel, sizes); }}; }
extern const Entry entries[];

extern "C" void kernel_sizes(int kernel, int* sizes) { entries[kernel].sizes(sizes); }
extern "C" int launch(int kernel, const int* grid, const int* threads, long shared, void** arguments, int backward) {
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads[0], threads[1], threads[2]};
    host::body = entries[kernel].body, host::body_arguments = arguments;
    host::memory = (char*)aligned_alloc(16, shared / 16 * 16 + 16);
    int failed = 0;
    for (int z = 0; z < grid[2]; ++z)
        for (int y = 0; y < grid[1]; ++y)
            for (int x = 0; x < grid[0] && !failed; ++x) {
                blockIdx = {x, y, z};
                memset(host::memory, 0xff, shared);  // NaN, should anybody read what nobody wrote
                failed = host::run_block(threads[0] * threads[1] * threads[2], backward);
            }
    free(host::memory);
    return failed;
}
