"""Training BHViT: from images to a checkpoint that `bitvit convert` packs. See README.md beside this file.

__main__.py     the command line
settings.py     what a run is: network, data, schedule; read from a JSON file
sets.py         labelled image sets as their files hold them
images.py       writes them as image files, for `bitvit evaluate`
data.py         a set at the size of the network's input
augment.py      random shifts, flips, rotations and blanked squares, drawn ahead for a whole epoch; mixup
estimators.py   signs and levels with straight-through gradients
network.py      BHViT in PyTorch
operators.py    what it does between its products: by PyTorch's operators, or on a CPU by fused.py
fused.py        whole chains of them, each in one or two passes over memory
passes.py       the loops of fused.py
teacher.py      a small float network to distil from
losses.py       task, distillation, oscillation regulariser
oscillation.py  counts the weights whose signs flip
schedule.py     learning rate and regulariser by step
optimizers.py   AdamW or SGD, and the running average of the parameters
loop.py         the training itself, resumable after any step
checkpoint.py   its state on disk
export.py       state dict -> checkpoint for bitvit, model card
report.py       log, curves
gpu.py          the command line for minutes on a GPU: teacher and network, all by the clock
timed.py        that training
probe.py        how fast each network trains there
parts.py        the images, as small files to carry there
compact.py      the network, as a small file to bring back
"""
