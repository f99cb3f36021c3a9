"""Many callers, faults and long runs: `python -m tools.stress`.

callers     threads, models, process pools and pre-forked workers, all at once
reloads     a model that is loaded anew again and again while it is called
faults      Ctrl-C, a kill, a full disk or no home in the middle of a command
soak        a long run at full load
promise     what every check raises that finds a promise broken
"""
