/* The protocol of a team of threads, for the model checker spin: see README.md beside this file.
 *
 * What is modelled is bitvit/kernels/schedule.py, bitvit/runtime/runner.py and bitvit/runtime/team.py. A statement that
 * reads or writes what threads share is one step, as is every atomic instruction of the code; what stands in one
 * `atomic` or `d_step` with it touches a process's own variables, or the ghosts, which the code does not have. Waiting in
 * a loop is a statement that blocks, so waiting for ever is a deadlock, which spin reports. A comment `# name` says which
 * function the steps below it are.
 *
 * Sizes:    HELPERS CALLERS CALLS (of each caller) STEPS PIECES (of each step) RANGES BATCHES (0 or 1)
 * Events:   RAISES (exceptions, each between any two lines of Python), DIES (helpers end), FORK,
 *           BUNDLE (the team of bitvit/bundle/c/bitvit_model.c instead: no exceptions, one slot for a helper's work)
 * Faults:   FAULT_…, each of which the checker must find: tools/threads/faults.py
 */
#ifndef HELPERS
#define HELPERS 1
#endif
#ifndef CALLERS
#define CALLERS 1
#endif
#ifndef CALLS
#define CALLS 2
#endif
#ifndef STEPS
#define STEPS 2
#endif
#ifndef PIECES
#define PIECES 2
#endif
#ifndef RANGES
#define RANGES 1
#endif
#ifndef BATCHES
#define BATCHES 0
#endif
#ifndef RAISES
#define RAISES 0
#endif
#ifdef FORK
#define DESKS (2 * HELPERS) /* those of the child behind those of the parent */
/* init, then the parent's helpers and callers, fork, then the child's: a process runs on its side of the fork alone. */
#define IN_ONE_PROCESS provided (forked == (_pid > HELPERS + CALLERS + 1))
#else
#define DESKS HELPERS
#define IN_ONE_PROCESS
#endif

#define OPEN 1
#define INSIDE 2
#define FIRST(r) (PIECES * (r) / RANGES)
#define END(r) (PIECES * ((r) + 1) / RANGES)
#define HELP_IMAGE 0 /* a call; other numbers are help_batch, each with the cells of its batch */
#define MOST_BATCHES (CALLERS * CALLS + 1)
#define IMAGES_OF_BATCH 2
#if defined(FAULT_BATCH_CELLS_STAY) || defined(BUNDLE)
#define CELLS(batch) 0
#else
#define CELLS(batch) (batch)
#endif

/* ------------------------------------------------------------------------------------------- what threads share */
byte gate, epoch, done, stalled, claims[STEPS * RANGES], lingers[DESKS];
byte batch_gate[MOST_BATCHES], batch_done[MOST_BATCHES];
chan calls[DESKS] = [2] of { byte };
bool idle[DESKS] = true; /* FAULT_FLAG alone: the code asks whether the queue is empty */
byte leases = 1;
bool clean = true;       /* Runner._clean; for whoever has the lease, as the next two */
byte batches;            /* so many have begun */
bool made = true;        /* whether this process has made its cells */

/* --------------------------------------------------------------------------------------------------------- ghosts */
byte image;              /* the image in the leader's state, counted */
byte pixels;             /* the image whose pixels somebody holds, so that they are not freed */
byte working;            /* helpers who have passed the open gate of the image and not left */
byte opened;             /* images for which the gate has been opened */
byte tried[DESKS];       /* `opened` when a helper last went through the gate */
byte counted[DESKS];     /* the last image for which the leader did not wake a helper, as it would come by itself */
byte begun[STEPS * PIECES], ended[STEPS];
byte leaders, raised, ended_callers;
byte job;                /* the batch that the leader computes, 0 if none; its arrays are freed behind it */
bool forked, child_ended;
#define LIVE(n) ((n) + (forked -> HELPERS : 0))

/* Piece p of step s: everything before it must have been computed, of the same image, once, while its memory is there. */
inline begin_piece(s, p, own)
{
    d_step {
        assert(own == image);                       /* no helper touches a new image */
        assert(begun[(s) * PIECES + (p)] == 0);     /* nobody else computes this piece */
        assert((s) == 0 || ended[(s) - 1] == PIECES);
        assert((s) != 0 || pixels == image);        /* the stem reads the caller's pixels */
        begun[(s) * PIECES + (p)] = 1;
    }
}

inline end_piece(s, own)
{
    d_step {
        assert(own == image);
        ended[s]++;
        piece = 0;
        found = false;
        mine++
    }
}

/* # _run_image; `own` is the image that this member believes to compute, known to the model alone. */
inline run_image(home, leads, own)
{
    s = 0;
    do
    :: s < STEPS ->
        do
        :: atomic { leads || stalled == 0 -> k = 0; found = false };
            /* # _claim */
            do
            :: k < RANGES && !found ->
                if
                :: atomic { FIRST((home + k) % RANGES) + claims[s * RANGES + (home + k) % RANGES] < END((home + k) % RANGES) ->
                        r = (home + k) % RANGES };
#ifdef FAULT_CLAIM_IN_TWO_STEPS
                    piece = claims[s * RANGES + r];
                    d_step {
                        claims[s * RANGES + r] = piece + 1;
#else
                    d_step {
                        piece = claims[s * RANGES + r];
                        claims[s * RANGES + r]++;
#endif
                        piece = piece + FIRST(r);
                        found = (piece < END(r));
                        piece = (found -> piece : 0);
                        r = 0;
                        k++
                    }
                :: atomic { else -> k++ }
                fi
            :: else -> break
            od;
            if
            :: atomic { found -> k = 0; begin_piece(s, piece, own) };
                end_piece(s, own)
            :: else -> break
            fi
        :: atomic { else -> break }
        od;
        k = 0;
        if
#ifdef FAULT_LEAVES_WITHOUT_COUNT
        :: atomic { !leads && stalled != 0 -> s = STEPS + 1 }
        :: d_step { else -> done = done + mine; mine = 0 }
        fi;
        if
        :: s > STEPS
#else
        :: d_step { mine > 0 -> done = done + mine; mine = 0 }
        :: else
        fi;
        if
        :: atomic { !leads && stalled != 0 -> s = STEPS + 1 } /* return */
#endif
        :: else ->
#ifndef FAULT_NO_BARRIER
            do
            :: atomic { done >= (s + 1) * PIECES -> break }
            :: leads && stalled == 0 -> stalled = 1 /* so many polls went by */
            od;
#endif
            s++
        fi
    :: else -> break
    od
}

/* # _serve */
proctype helper(byte me) IN_ONE_PROCESS
{
    byte call, seen, own, s, k, r, piece, mine;
    bool found;
end_asleep:
    do
    :: calls[me]?call -> /* desk.calls.get() */
#ifdef FAULT_FLAG
        idle[me] = true;
#endif
        if
        :: call == HELP_IMAGE ->
            /* # help_image */
            do
            ::
#ifndef FAULT_EPOCH_READ_LATE
                seen = epoch;
#endif
                if
#ifdef FAULT_NO_GATE
                :: d_step { gate = gate + INSIDE; tried[me] = opened; own = image; working++ };
#else
                :: d_step { (gate & OPEN) != 0 -> gate = gate + INSIDE; tried[me] = opened; own = image; working++ };
#endif
                    run_image(((me % HELPERS + 1) * RANGES / (HELPERS + 1)), false, own);
                    atomic { gate = gate - INSIDE; working--; own = 0; s = 0; mine = 0 }
#ifndef FAULT_NO_GATE
                :: d_step { (gate & OPEN) == 0 -> gate = gate + INSIDE; tried[me] = opened };
                    gate = gate - INSIDE
#endif
                fi;
                lingers[me]++;
#ifdef FAULT_EPOCH_READ_LATE
                seen = epoch;
#endif
                if /* lingers until an image has begun, or for so many polls */
                :: epoch != seen
                :: true
                fi;
#ifdef FAULT_HELPER_LOOKS_FIRST
                if
                :: epoch == seen -> lingers[me]--; break
                :: epoch != seen -> lingers[me]--
                fi
#else
                lingers[me]--;
                if
#ifdef FAULT_NO_SECOND_LOOK
                :: true -> break
#endif
                :: atomic { epoch == seen -> break }
                :: atomic { epoch != seen -> skip }
                fi
#endif
            od;
            atomic { seen = 0; assert(counted[me] <= tried[me]) } /* nobody waits for one who sleeps */
        :: else ->
            /* # help_batch */
            if
            :: d_step { (batch_gate[CELLS(call)] & OPEN) != 0 -> batch_gate[CELLS(call)] = batch_gate[CELLS(call)] + INSIDE };
                do
                :: atomic { piece = batch_done[CELLS(call)]; batch_done[CELLS(call)]++ };
                    if
                    :: piece < IMAGES_OF_BATCH ->
#ifdef BUNDLE
                        assert(job != 0)
#else
                        assert(job == call) /* the arrays of its batch */
#endif
                    :: else -> break
                    fi
                od;
                atomic { batch_gate[CELLS(call)] = batch_gate[CELLS(call)] - INSIDE; piece = 0 }
            :: d_step { (batch_gate[CELLS(call)] & OPEN) == 0 -> batch_gate[CELLS(call)] = batch_gate[CELLS(call)] + INSIDE };
                batch_gate[CELLS(call)] = batch_gate[CELLS(call)] - INSIDE
            fi
        fi;
        call = 0
#ifdef DIES
    :: break
#endif
    od
}

/* An exception may come here; only whoever has Python's lock between two lines. */
#define MAY_RAISE(to) :: d_step { raised < RAISES -> raised++ }; goto to

/* # Helper.post */
#ifdef BUNDLE
inline post(desk, what)
{
    atomic { /* under the lock */
        if
        :: nempty(calls[desk]) -> calls[desk]?_
        :: empty(calls[desk])
        fi;
        calls[desk]!what
    }
}
#else
#ifdef FAULT_FLAG
inline post(desk, what)
{
    if
    :: idle[desk] ->
        idle[desk] = false;
        if
        :: full(calls[desk])
        :: nfull(calls[desk]) -> calls[desk]!what
        MAY_RAISE(caught)
        fi
    :: !idle[desk]
    fi
}
#else
inline post(desk, what)
{
    if
    :: empty(calls[desk]) ->
        if
        :: calls[desk]!what
        MAY_RAISE(caught)
        fi
    :: nempty(calls[desk])
    fi
}
#endif
#endif

/* Runner.run, and what it calls. */
proctype caller(byte me) IN_ONE_PROCESS
{
    byte count, s, k, r, piece, mine, to, back, base;
    bool found, ready;
    base = (me == CALLERS -> HELPERS : 0);
    do
    :: count < CALLS ->
        count++;
        /* # Team.lease */
        if
        :: d_step { leases > 0 -> leases--; leaders++; assert(leaders == 1) }
        :: atomic { leases == 0 -> goto next } /* works alone */
        fi;
        /* # Runner._run_together */
#ifdef FORK
        if
        :: d_step { !made -> made = true;
#ifndef FAULT_FORK_KEEPS_CELLS
            gate = 0; epoch = 0; done = 0; stalled = 0; opened = 0
#endif
            }
        :: else
        fi;
#endif
#ifndef FAULT_NOT_TIDIED
        if
        :: !clean -> back = 0; goto close_gate
        :: clean
        fi;
#endif
tidied:
        atomic { assert(working == 0); clean = false }; /* the members' memory is cleared, if need be */
#if BATCHES
        if
        :: goto batch
        :: true
        MAY_RAISE(finally)
        fi;
#endif
        /* # Runner._share_image */
        if
        :: d_step { assert(working == 0); pixels = image + 1 } /* the last image's may be freed */
        MAY_RAISE(finally)
        fi;
        if
        :: d_step { assert(working == 0); image++; k = 0;
                do
                :: k < STEPS * PIECES -> begun[k] = 0; k++
                :: else -> break
                od;
                k = 0;
                do
                :: k < STEPS -> ended[k] = 0; k++
                :: else -> break
                od;
                k = 0 } /* the image stands in the state */
        MAY_RAISE(finally)
        fi;
        if
        :: true
        MAY_RAISE(finally)
        fi;
        /* # open_image */
#ifdef FAULT_GATE_FIRST
        atomic { gate = gate + OPEN; opened++ };
#endif
        done = 0;
        stalled = 0;
        do
        :: k < STEPS * RANGES -> d_step { claims[k] = 0; k++ }
        :: else -> k = 0; break
        od;
#ifdef FAULT_EPOCH_BEFORE_GATE
        epoch++;
        atomic { gate = gate + OPEN; opened++ };
#else
#ifndef FAULT_GATE_FIRST
        atomic { gate = gate + OPEN; opened++ };
#endif
#ifndef FAULT_LEADER_LOOKS_FIRST
        epoch++;
#endif
#endif
        /* # _Crew.run */
        to = 0;
        do
        :: to < HELPERS ->
            if
            :: atomic { lingers[base + to] != 0 -> counted[base + to] = opened }
            :: atomic { lingers[base + to] == 0 -> skip };
#ifdef BUNDLE
                post(base + to, HELP_IMAGE)
#else
                post(base + to, HELP_IMAGE)
#endif
#ifdef ABSENT
            :: true /* there is no such helper: no thread could be started */
#endif
            MAY_RAISE(finally)
            fi;
            to++
        :: else -> to = 0; break
        od;
#ifdef FAULT_LEADER_LOOKS_FIRST
        epoch++;
#endif
        if
        :: true
        MAY_RAISE(finally)
        fi;
        back = 1;
        goto lead;
shared:
        if
        :: d_step { assert(ended[STEPS - 1] == PIECES); assert(working == 0) } /* its logits are read */
        MAY_RAISE(finally)
        fi;
        goto whole;
#if BATCHES
batch: /* # Runner._compute_images_apart */
        atomic { batches++; job = batches };
        to = 0;
        do
        :: to < HELPERS ->
            if
            :: true ->
#ifdef BUNDLE
                post(base + to, batches)
#else
                post(base + to, batches)
#endif
            :: true
            MAY_RAISE(finally)
            fi;
            to++
        :: else -> to = 0; break
        od;
        /* # lead_batch */
        batch_done[CELLS(batches)] = 0;
        batch_gate[CELLS(batches)] = batch_gate[CELLS(batches)] + OPEN;
        do
        :: atomic { piece = batch_done[CELLS(batches)]; batch_done[CELLS(batches)]++ };
            if
            :: piece < IMAGES_OF_BATCH
            :: else -> break
            fi
        od;
        piece = 0;
        batch_gate[CELLS(batches)] = batch_gate[CELLS(batches)] - OPEN;
        batch_gate[CELLS(batches)] == 0;
        job = 0;
#endif
whole:
        if
        :: d_step { clean = true; pixels = 0 }
        MAY_RAISE(finally)
        fi;
        goto finally;
#ifndef BUNDLE
caught: /* of Helper.post */
#ifdef FAULT_FLAG
        if
        :: idle[base + to] = true
        MAY_RAISE(finally)
        fi;
#endif
        goto finally;
#endif
finally:
        to = 0;
        job = 0;
        if
        :: true -> back = 2; goto close_gate
        MAY_RAISE(released)
        fi;
close_gate: /* # Runner._close_gate */
        if
        :: atomic { (gate & OPEN) == 0 -> goto closed }
        :: (gate & OPEN) != 0
        fi;
        if
        :: true
        MAY_RAISE(released)
        fi;
lead:   /* # lead_image */
        run_image(0, true, image);
        /* # _close */
        atomic { gate = gate - OPEN; s = 0 };
#ifndef FAULT_CLOSE_WITHOUT_WAITING
        gate == 0;
#endif
        if
        :: back == 1 -> goto shared
        :: else
        fi;
closed:
        if
        :: back == 0 -> goto tidied
        :: else
        fi;
released:
        atomic { back = 0; to = 0; leaders--; leases++ }; /* # Lease.__del__ */
next:
        skip
    :: else -> break
    od;
    atomic {
        if
        :: me == CALLERS -> child_ended = true
        :: else -> ended_callers++
        fi;
#ifdef FAULT_PIXELS_OF_RUNNER
        if
        :: ended_callers == CALLERS -> pixels = 0 /* nobody knows the model any more */
        :: else
        fi
#endif
    }
}

#ifdef FORK
/* The child is a copy of what the parent shares at any moment; all threads but a new caller are gone. */
proctype fork()
{
    byte n;
    d_step {
        forked = true;
        working = 0;
        leaders = 0;
        leases = 1;
        made = false
#ifdef FAULT_FORK_KEEPS_LEASE
        ; leases = 0
#endif
    };
    run caller(CALLERS);
    do
    :: n < HELPERS -> run helper(HELPERS + n); n++
    :: else -> break
    od
}
#endif

init {
    byte n;
    atomic {
        do
        :: n < HELPERS -> run helper(n); n++
        :: else -> n = 0; break
        od;
        do
        :: n < CALLERS -> run caller(n); n++
        :: else -> break
        od
#ifdef FORK
        ; run fork()
#endif
    };
    timeout -> /* when nobody can go on: no caller waits, and no helper is inside, or lost to the calls to come */
    atomic {
        assert(ended_callers == CALLERS || (forked && child_ended));
        assert(working == 0 && (gate & ~OPEN) == 0 && leases == 1);
        n = 0;
        do
        :: n < HELPERS ->
#ifndef DIES
            assert(empty(calls[LIVE(n)]));
#endif
            assert(lingers[LIVE(n)] == 0);
#ifdef FAULT_FLAG
            assert(idle[LIVE(n)]);
#endif
            n++
        :: else -> break
        od
    }
}
