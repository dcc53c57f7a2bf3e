/*
 * kernels.cu for the CPU: each kernel as a function of the grid, the block and its arguments' places.
 *
 *     gcc -O2 -ffp-contract=off -shared -fPIC -I bisenetv2_ros/backends -o kernels.so kernels_on_host.c -lm
 *
 * Threads run one after another. -ffp-contract=off is what --fmad=false is for NVRTC.
 */
#include <math.h>
#include <stddef.h>

#define KERNEL static
static __thread struct { unsigned x, y, z; } blockIdx, blockDim, threadIdx;

#include "kernels.cu"

#define EACH_THREAD(call)                                                                         \
    do {                                                                                          \
        blockDim.x = block[0], blockDim.y = block[1], blockDim.z = block[2];                      \
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)                                  \
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++)                              \
                for (threadIdx.y = 0; threadIdx.y < block[1]; threadIdx.y++)                      \
                    for (threadIdx.x = 0; threadIdx.x < block[0]; threadIdx.x++)                  \
                        call;                                                                     \
    } while (0)
#define AS(type, i) (*(type *)arguments[i])

void launch_resample(const unsigned *grid, const unsigned *block, void **arguments)
{
    EACH_THREAD(resample(
        AS(const unsigned char *, 0), AS(int, 1), AS(int, 2), AS(int, 3), AS(int, 4),
        AS(unsigned char *, 5), AS(int, 6), AS(int, 7),
        AS(const int *, 8), AS(const float *, 9), AS(int, 10),
        AS(const int *, 11), AS(const float *, 12), AS(int, 13), AS(int, 14)));
}
