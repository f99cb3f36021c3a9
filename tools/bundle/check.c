/* Holds a bundle's library against itself: every way to call it must give the same bits.
 *
 *     check PLANES BYTES COUNT LOGITS [LEVEL]
 *
 * PLANES: float32 [COUNT][3][S][S]; BYTES: the same images, uint8 [COUNT][crop][crop][3]. Writes float32
 * [COUNT][BITVIT_OUTPUTS] to LOGITS. Exit code 1, with a line on stderr, if any two ways differ; 3 if there is no model,
 * as on a processor that cannot run the level. */
#include "bitvit_model.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLERS = 2, WAITING = 4, REPEATS = 2 };

static size_t count;
static float *planes, *expected;
static uint8_t *bytes;
static bitvit_model *model;

static const size_t plane_size = 3 * BITVIT_IMAGE_SIZE * BITVIT_IMAGE_SIZE;
static const size_t byte_size = 3 * BITVIT_CROP_SIZE * BITVIT_CROP_SIZE;

static void *read_all(const char *path, size_t size)
{
    void *data = malloc(size);
    FILE *file = fopen(path, "rb");
    if (data == NULL || file == NULL || fread(data, 1, size, file) != size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    fclose(file);
    return data;
}

static void same(const char *what, const float *found, const float *wanted, size_t images)
{
    if (memcmp(found, wanted, images * BITVIT_OUTPUTS * sizeof *found) != 0) {
        fprintf(stderr, "%s: other bits\n", what);
        exit(1);
    }
}

static void expect(const char *what, int holds)
{
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

/* Calls of every kind, once. */
static void call_all_ways(void)
{
    float *found = malloc(count * BITVIT_OUTPUTS * sizeof *found);
    bitvit_image *images = calloc(count, sizeof *images);
    uint8_t *spread = malloc(byte_size / 3 * 4);
    bitvit_logits(model, planes, count, found);
    same("planes", found, expected, count);
    bitvit_logits_rgb(model, bytes, count, found);
    same("bytes", found, expected, count);
    for (size_t i = 0; i < count; i++) {
        bitvit_logits_rgb(model, bytes + i * byte_size, 1, found);
        same("bytes, one by one", found, expected + i * BITVIT_OUTPUTS, 1);
        images[i].pixels = planes + i * plane_size;
    }
    bitvit_run(model, images, count, 1, found);
    same("alone", found, expected, count);
    /* Four bytes a pixel, and rows that are one behind the other from below. */
    for (int y = 0; y < BITVIT_CROP_SIZE; y++)
        for (int x = 0; x < BITVIT_CROP_SIZE; x++)
            memcpy(spread + 4 * ((BITVIT_CROP_SIZE - 1 - y) * BITVIT_CROP_SIZE + x),
                   bytes + 3 * (y * BITVIT_CROP_SIZE + x), 3);
    images[0].pixels = spread + 4 * (BITVIT_CROP_SIZE - 1) * BITVIT_CROP_SIZE;
    images[0].row_bytes = -4 * BITVIT_CROP_SIZE;
    images[0].pixel_bytes = 4;
    bitvit_run(model, images, 1, 0, found);
    same("other strides", found, expected, 1);
    free(spread);
    free(images);
    free(found);
}

static void *call(void *unused)
{
    (void)unused;
    for (int i = 0; i < REPEATS; i++)
        call_all_ways();
    return NULL;
}

static void call_at_once(void)
{
    pthread_t threads[WAITING];
    for (int i = 0; i < WAITING; i++)
        if (pthread_create(&threads[i], NULL, call, NULL) != 0)
            exit(2);
    for (int i = 0; i < WAITING; i++)
        pthread_join(threads[i], NULL);
}

/* A model that has seen NaN is as it was. */
static void forget_nan(void)
{
    float *broken = malloc(plane_size * sizeof *broken), found[BITVIT_OUTPUTS];
    for (size_t i = 0; i < plane_size; i++)
        broken[i] = NAN;
    for (int i = 0; i < REPEATS; i++)
        bitvit_logits(model, broken, 1, found);
    free(broken);
}

static void refuse_options(void)
{
    const bitvit_options negative = {.threads = -1}, many = {.callers = 100000}, level = {.level = "none"};
    const bitvit_options empty = {.weights = planes, .weights_bytes = 1};
    expect("a negative number of threads", bitvit_create(&negative) == NULL && errno == EINVAL);
    expect("too many callers", bitvit_create(&many) == NULL && errno == EINVAL);
    expect("no such level", bitvit_create(&level) == NULL && errno == ENOTSUP);
    expect("weights of another size", bitvit_create(&empty) == NULL && errno == EINVAL);
    expect("labels", bitvit_label(-1) == NULL && bitvit_label(1 << 30) == NULL);
    bitvit_destroy(NULL);
}

int main(int arguments, char **argument)
{
    FILE *out;
    if (arguments < 5)
        return 2;
    count = (size_t)atol(argument[3]);
    planes = read_all(argument[1], count * plane_size * sizeof *planes);
    bytes = read_all(argument[2], count * byte_size);
    expected = malloc(count * BITVIT_OUTPUTS * sizeof *expected);
    refuse_options();
    for (int threads = 1; threads <= 3; threads++) {
        const bitvit_options options = {threads, CALLERS, arguments > 5 ? argument[5] : NULL, NULL, 0};
        model = bitvit_create(&options);
        if (model == NULL) {
            perror("bitvit_create");
            return 3;
        }
        expect("another level", arguments <= 5 || strcmp(bitvit_level(model), argument[5]) == 0);
        expect("fewer threads", bitvit_threads(model) == threads);
        if (threads == 1)
            bitvit_logits(model, planes, count, expected);
        call_all_ways();
        forget_nan();
        call_all_ways();
        call_at_once();
        bitvit_destroy(model);
    }
    out = fopen(argument[4], "wb");
    if (out == NULL || fwrite(expected, sizeof *expected, count * BITVIT_OUTPUTS, out) != count * BITVIT_OUTPUTS)
        return 2;
    fclose(out);
    free(expected);
    free(bytes);
    free(planes);
    puts(bitvit_version());
    return 0;
}
