/* What callers hand to a bundle's library and to its example program, found by libFuzzer: a file that begins with P is an
 * image for the example; of anything else the bytes are floats, then pixels that lie in memory in some order. After
 * each, an image that was computed before must have the same bits: what is not a number must not stay behind. */
#define main example_main
#include "example.c"
#undef main

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { IMAGES = 2 };

static const size_t plane_size = 3 * BITVIT_IMAGE_SIZE * BITVIT_IMAGE_SIZE;
static const size_t byte_size = 4 * BITVIT_CROP_SIZE * BITVIT_CROP_SIZE;
static bitvit_model *model;
static float *planes, before[BITVIT_OUTPUTS], logits[IMAGES * BITVIT_OUTPUTS];
static uint8_t *bytes;
static int file;
static char path[40];

static void first_image(float *found)
{
    memset(planes, 0, IMAGES * plane_size * sizeof *planes);
    bitvit_logits(model, planes, 1, found);
}

static void start(void)
{
    const bitvit_options options = {.threads = 2};
    model = bitvit_create(&options);
    planes = malloc(IMAGES * plane_size * sizeof *planes);
    bytes = malloc(byte_size);
    file = memfd_create("image", 0);
    if (model == NULL || planes == NULL || bytes == NULL || file < 0)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    first_image(before);
}

static void as_file(const uint8_t *data, size_t size)
{
    if (ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) != (ssize_t)size)
        abort();
    if (read_image(path) == NULL)
        bitvit_logits_rgb(model, pixels, 1, logits);
}

static size_t smaller(size_t one, size_t other)
{
    return one < other ? one : other;
}

static void as_images(const uint8_t *data, size_t size)
{
    const int from_below = size > 0 && data[0] % 2, pixel = size > 0 && data[0] % 4 < 2 ? 3 : 4;
    const ptrdiff_t row = (ptrdiff_t)pixel * BITVIT_CROP_SIZE;
    bitvit_image image = {bytes, row, pixel};
    memset(planes, 0, IMAGES * plane_size * sizeof *planes);
    memcpy(planes, data, smaller(size, IMAGES * plane_size * sizeof *planes));
    bitvit_logits(model, planes, IMAGES, logits);
    memset(bytes, 0, byte_size);
    memcpy(bytes, data, smaller(size, byte_size));
    if (from_below) {
        image.pixels = bytes + row * (BITVIT_CROP_SIZE - 1);
        image.row_bytes = -row;
    }
    bitvit_run(model, &image, 1, size % 2, logits);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    float after[BITVIT_OUTPUTS];
    if (model == NULL)
        start();
    if (size > 0 && data[0] == 'P')
        as_file(data, size);
    else
        as_images(data, size);
    first_image(after);
    if (memcmp(before, after, sizeof before) != 0)
        abort();
    return 0;
}
