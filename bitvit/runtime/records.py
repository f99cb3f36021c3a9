"""Records of int64 that the functions of kernels/schedule.py read by address.

They belong to the catalog, beside the records of the kernels' arguments.
"""

from bitvit.kernels.catalog import fields

STEP = fields("address arguments pieces")  # of the kernel's code, of its record; how many pieces it splits into

# images float32 [count][image_bytes], out float32 [count][outputs]: addresses; output_offset: of the logits in `state`
JOB = fields("images image_bytes count output_offset out outputs")
