/* Stands in for CUDA's driver: what the triton extension calls of it. A launch goes to the listener, if there is one. */
#include <stddef.h>

typedef struct { unsigned grid[3], block[3], shared; void *function, *stream, **parameters; } Launch;

int (*listener)(const Launch*);
int current = -1, retained; /* device of the context, of which there is none at first; contexts retained */

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y, unsigned block_z,
                   unsigned shared, void* stream, void** parameters, void** extra) {
    const Launch launch = {{x, y, z}, {block_x, block_y, block_z}, shared, function, stream, parameters};
    if (extra) return 1;
    return listener ? listener(&launch) : 0;
}

int cuCtxGetDevice(int* device) {
    *device = current;
    return current < 0 ? 201 : 0;
}

int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return 0;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    static int contexts[8];
    contexts[device] = device;
    *context = &contexts[device];
    retained++;
    return 0;
}

int cuCtxSetCurrent(void* context) {
    current = *(int*)context;
    return 0;
}

int cuGetErrorName(int error, const char** name) {
    *name = error == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : NULL;
    return *name ? 0 : 1;
}
