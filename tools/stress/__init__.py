"""Many callers, faults and long runs: `python -m tools.stress`.

callers     threads, models, process pools and pre-forked workers, all at once
reloads     a model that is loaded anew again and again while it is called
soak        a long run at full load
commands    commands that take a second or so, and what an undisturbed run of them writes
faults      Ctrl-C, a full disk or no home in the middle of a command
kills       kill -9 at random moments
disks       errors of a disk at each call, short reads and writes
clocks      a clock that jumps
memory      ever more memory, from too little on
zygote      a process that forks one for each command
shim        a library in front of the C library, which makes disks and clocks fail
promise     what every check raises that finds a promise broken
"""
