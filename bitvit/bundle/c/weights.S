/* weights.bin as read-only data, on a boundary of a page. */
        .section .rodata
        .balign 4096
        .globl bitvit_weights
        .hidden bitvit_weights
        .type bitvit_weights, %object
bitvit_weights:
        .incbin "weights.bin"
        .size bitvit_weights, . - bitvit_weights
        .section .note.GNU-stack, "", %progbits
