"""Experiments with training: the public data sets, what each part contributes, minutes on a GPU. See README.md.

bitvit.train, which `bitvit train` uses too, has the network, the loop and all that they need.

__main__.py     the command line: a public data set by settings that were chosen by hand
sets.py         public labelled image sets as their files hold them
images.py       writes them as image files, for `bitvit evaluate` and `bitvit train`
photographs.py  draws a set of photographs
ablation.py     what each part of the network and the training contributes
gpu.py          the command line for minutes on a GPU: teacher and network, all by the clock
timed.py        that training
probe.py        how fast each network trains there
parts.py        the images, as small files to carry there
compact.py      the network, as a small file to bring back
"""
