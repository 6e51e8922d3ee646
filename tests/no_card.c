// What CUDA's runtime, driver and cuBLAS must do for CuPy to work without a card (cupy_without_card.py): hand out the
// host's memory, and say yes to everything else. No kernel runs.
#include <stdlib.h>
#include <string.h>

long live = 0;  // allocations of the device

int does_nothing(void) { return 0; }
static int gives(void** handle) { *handle = malloc(8); return 0; }
static int number(int* to, int value) { *to = value; return 0; }

int no_cudaMalloc(void** to, size_t size) {
    *to = aligned_alloc(512, (size + 511) / 512 * 512);
    memset(*to, 0, size);
    ++live;
    return 0;
}
int no_cudaFree(void* memory) { free(memory); --live; return 0; }
int no_cudaMallocAsync(void** to, size_t size, void* stream) { return no_cudaMalloc(to, size); }
int no_cudaFreeAsync(void* memory, void* stream) { return no_cudaFree(memory); }
int no_cudaHostAlloc(void** to, size_t size, unsigned flags) { *to = malloc(size); return 0; }
int no_cudaFreeHost(void* memory) { free(memory); return 0; }
int no_cudaMemcpy(void* to, const void* from, size_t size, int kind) { memmove(to, from, size); return 0; }
int no_cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void* stream) { memmove(to, from, size); return 0; }
int no_cudaMemset(void* to, int value, size_t size) { memset(to, value, size); return 0; }
int no_cudaMemsetAsync(void* to, int value, size_t size, void* stream) { memset(to, value, size); return 0; }
int no_cudaMemGetInfo(size_t* free, size_t* total) { *free = 6ull << 30, *total = 8ull << 30; return 0; }
int no_cudaPointerGetAttributes(int* about, const void* memory) { memset(about, 0, 32), *about = 2; return 0; }
int no_cudaGetDevice(int* device) { return number(device, 0); }
int no_cudaGetDeviceCount(int* count) { return number(count, 1); }
int no_cudaDriverGetVersion(int* version) { return number(version, 12090); }
int no_cudaRuntimeGetVersion(int* version) { return number(version, 12090); }
int no_cudaDeviceGetAttribute(int* value, int attribute, int device) {
    return number(value, attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 97 ? 232448 : 1024);  // capability 9.0
}
static int capturing = 0;
int no_cudaStreamCreate(void** stream) { return gives(stream); }
int no_cudaStreamCreateWithFlags(void** stream, unsigned flags) { return gives(stream); }
int no_cudaStreamBeginCapture(void* stream, int mode) { return number(&capturing, 1); }
int no_cudaStreamEndCapture(void* stream, void** graph) { capturing = 0; return gives(graph); }
int no_cudaStreamIsCapturing(void* stream, int* status) { return number(status, capturing); }
int no_cudaGraphInstantiate(void** graph) { return gives(graph); }
int no_cudaEventCreate(void** event) { return gives(event); }
int no_cudaEventCreateWithFlags(void** event, unsigned flags) { return gives(event); }
int no_cudaGetDeviceProperties_v2(char* about, int device) { memset(about, 0, 700), strcpy(about, "no card"); return 0; }
int no_cudaGetDeviceProperties(char* about, int device) { return no_cudaGetDeviceProperties_v2(about, device); }

int cuModuleLoadData(void** module, const void* code) { return gives(module); }
int cuModuleGetFunction(void** function, void* module, const char* name) { return gives(function); }
int cuFuncGetAttribute(int* value, int attribute, void* function) { return number(value, attribute ? 0 : 1024); }
int cuCtxGetCurrent(void** context) { *context = (void*)8; return 0; }
int cublasCreate_v2(void** handle) { return gives(handle); }
int cublasGetVersion_v2(void* handle, int* version) { return number(version, 120900); }
