/* Classifies an image: ./example IMAGE.ppm [THREADS]
 * The image is a binary PPM (P6) of 8 bits a channel and exactly BITVIT_CROP_SIZE pixels a side. */
#include "bitvit_model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t pixels[3 * BITVIT_CROP_SIZE * BITVIT_CROP_SIZE];

/* A number of the header, before which there may be comments; -1 if there is none. */
static int number(FILE *file)
{
    int value, letter;
    while (fscanf(file, " %d", &value) != 1) {
        if (fgetc(file) != '#')
            return -1;
        do
            letter = fgetc(file);
        while (letter != '\n' && letter != EOF);
    }
    return value;
}

/* Returns what is wrong with the image, or NULL. */
static const char *read_image(const char *path)
{
    static char text[100];
    FILE *file = fopen(path, "rb");
    char kind[3] = "";
    int width, height, most;
    if (file == NULL)
        return strerror(errno);
    if (fscanf(file, "%2s", kind) != 1 || strcmp(kind, "P6") != 0) {
        fclose(file);
        return "is not a binary PPM (P6)";
    }
    width = number(file);
    height = number(file);
    most = number(file);
    fgetc(file);
    if (width != BITVIT_CROP_SIZE || height != BITVIT_CROP_SIZE || most != 255) {
        snprintf(text, sizeof text, "has %d x %d pixels up to %d, expected %d x %d up to 255", width, height, most,
                 BITVIT_CROP_SIZE, BITVIT_CROP_SIZE);
        fclose(file);
        return text;
    }
    if (fread(pixels, 1, sizeof pixels, file) != sizeof pixels) {
        fclose(file);
        return "is truncated";
    }
    fclose(file);
    return NULL;
}

int main(int count, char **arguments)
{
    static float logits[BITVIT_OUTPUTS];
    bitvit_options options = {0};
    bitvit_model *model;
    const char *fault;
    if (count < 2 || count > 3) {
        fprintf(stderr, "usage: %s IMAGE.ppm [THREADS]\n", arguments[0]);
        return 2;
    }
    if (count == 3)
        options.threads = atoi(arguments[2]);
    options.level = getenv("BITVIT_LEVEL");
    fault = read_image(arguments[1]);
    if (fault != NULL) {
        fprintf(stderr, "%s: %s\n", arguments[1], fault);
        return 1;
    }
    model = bitvit_create(&options);
    if (model == NULL) {
        fprintf(stderr, "cannot create the model: %s\n", strerror(errno));
        return 1;
    }
    bitvit_logits_rgb(model, pixels, 1, logits);
    for (int i = 0; i < BITVIT_OUTPUTS; i++)
        printf("%-24s %a\n", bitvit_label(i) != NULL ? bitvit_label(i) : "", (double)logits[i]);
    printf("best: %s (%s, %d threads)\n", bitvit_label(bitvit_best(logits)) != NULL ? bitvit_label(bitvit_best(logits)) : "-",
           bitvit_level(model), bitvit_threads(model));
    bitvit_destroy(model);
    return 0;
}
