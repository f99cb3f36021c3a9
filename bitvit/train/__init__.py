"""Training BHViT: from images to a packed model. Needs PyTorch (the extra `train`); the engine imports none of it.

    from bitvit.train.preparing import Request, prepare
    from bitvit.train.training import train

    train(prepare(Request(folder=Path("flowers"), output=Path("flowers.safetensors"))))

training     a folder of images -> packed model, page of results, card; `bitvit train`
preparing    what is asked for, and what is chosen for the rest
plan         what is going to be done, kept in the folder of the run
choosing     size, width, epochs and teacher from the images, the minutes and the machine's speed
speed        which is measured here

imagefolder  a folder with a folder for each class; the split
source       labelled images before they are read
data         a set at the size of the network's input
augment      random shifts, flips, rotations and blanked squares, drawn ahead for a whole epoch; mixup

settings     what a run is: network, data, schedule; read from a JSON file
loop         the training itself, resumable after any step
start        weights to begin with: of a checkpoint, or of a packed model
unpack       a packed model's parameters
teacher      a small float network to distil from
losses       task, distillation, oscillation regulariser
oscillation  counts the weights whose signs flip
schedule     learning rate and regulariser by step
optimizers   AdamW or SGD, and the running average of the parameters
machine      threads, while other programs come and go, and memory
checkpoint   the state of a run on the disk

network      BHViT in PyTorch
layers       its layers
estimators   signs and levels with straight-through gradients
operators    what it does between its products: by PyTorch's operators, or on a CPU by fused
fused        whole chains of them, each in one or two passes over memory
passes, attention_passes, vectors    the loops of fused

export       state dict -> checkpoint, packed model, what is measured of them
report       log, curves
results      the page of results
card         the model's card
"""

__all__: list[str] = []
