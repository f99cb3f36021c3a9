/* The policy of rest by itself: reads what happened, a line each, and says what is left of a rest. */
#include "bitvit_model.c"

#include <stdio.h>

int main(void)
{
    rest_policy policy = {0};
    double took;
    int disturbed;
    /* disturbed: 0 or 1 for an image that was shared, -1 for one that was computed alone */
    while (scanf("%lf %d", &took, &disturbed) == 2) {
        if (disturbed < 0)
            note_alone(&policy, took);
        else
            note_shared(&policy, took, disturbed);
        printf("%d\n", policy.left);
        if (policy.left > 0)
            is_resting(&policy);
    }
    return 0;
}
