/*
 * A balloon's REMOVE while its page is on the way: the kernel refuses placements while the event is queued, and lets
 * the madvise thread go on as soon as it is read. The page must read as zeros afterwards, and who waited for it must not
 * sleep for ever (hazards H3, H4, H5). Between "read" and "applied" the layout gate keeps placements out.
 *
 * Reader: FaultReader.ReadAll, ApplyEvents, Removed; Settle, RetryParked. Placer: PostcopyPlacer.ClaimedStep.
 * Gate: LayoutGate.EnterShared, ExitShared, EnterExclusive, ExitExclusive.
 */
#define READER 0
#define PLACER 1
#define THREADS 2

#define RECEIVED 0
#define WRITER 1  /* the gate's word: its top bit, */
#define SHARED 2  /* and its count */
#define VARIABLES 3

#include "weak.h"

/* The kernel. */
bool present, source, waits, queued, finished;
byte changing, event, removed;

inline wake()
{
    d_step { waits = false; queued = false }
}

inline enter_shared()
{
#ifndef NO_SHARED_GATE
    do
    ::
#ifdef NO_FENCE_SHARED
        RELEASE(PLACER, SHARED, 1);
        old = LOAD(PLACER, WRITER);
#else
        atomic { FENCE(PLACER) -> memory[SHARED] = 1; old = memory[WRITER] }
#endif
        if
        :: old == 0 -> break
        :: else -> exchange(PLACER, SHARED, 0, old); LOAD(PLACER, WRITER) == 0
        fi
    od
#else
    skip
#endif
}

inline exit_shared()
{
#ifndef NO_SHARED_GATE
    exchange(PLACER, SHARED, 0, old)
#else
    skip
#endif
}

active proctype Reader()
{
    bit old;
    bool parked, read_event, read_fault;

end:
    do
    :: event == 1 || queued || (parked && changing == 0) ->
#ifndef NO_EXCLUSIVE_GATE
#ifdef NO_FENCE_EXCLUSIVE
        RELEASE(READER, WRITER, 1);
#else
        exchange(READER, WRITER, 1, old);
#endif
        LOAD(READER, SHARED) == 0;
#endif
        /* One batch: faults are read before older events, and events applied before faults are served. */
        atomic {
            read_fault = queued;
            queued = false;
            read_event = event == 1;
            if
            :: event == 1 -> event = 2
            :: else
            fi
        }
        if
        :: read_event ->
            exchange(READER, RECEIVED, 1, old);
#ifndef NO_WAKE_OF_REMOVED
            wake()
#endif
        :: else
        fi;
#ifndef NO_EXCLUSIVE_GATE
        exchange(READER, WRITER, 0, old);
#endif
        if
        :: (read_fault || parked) && LOAD(READER, RECEIVED) == 1 ->
            /* Zeros, or parked while the address space is changing. */
            parked = false;
            if
            :: atomic { changing == 0 -> present = true; waits = false; queued = false }
            :: changing != 0 ->
#ifdef NO_RETRY_OF_PARKED
                skip
#else
                parked = true
#endif
            fi
        :: else
        fi;
        read_event = false;
        read_fault = false
    od
}

/* The source was asked long ago; its page comes now. */
active proctype Placer()
{
    bit old;

again:
    enter_shared();
#ifdef NO_LOOK_AT_RECEIVED
    if
    :: false
#else
    if
    :: LOAD(PLACER, RECEIVED) == 1 -> exit_shared()
#endif
    :: else ->
        if
        :: atomic { changing == 0 && !present -> present = true; source = true }
            wake();
            exchange(PLACER, RECEIVED, 1, old);
            exit_shared()
        :: changing == 0 && present -> wake(); exchange(PLACER, RECEIVED, 1, old); exit_shared()
        :: changing != 0 -> exit_shared(); changing == 0; goto again
        fi
    fi
}

active proctype Balloon()
{
    if
    :: atomic { true -> changing++; event = 1 }
        /* It runs on when its event was read: the flag falls, and then the pages go. */
        event == 2;
        changing--;
        atomic { present = false; source = false; removed = 1 }
    :: skip
    fi
}

active proctype Vcpu()
{
touch:
    if
    :: atomic { present -> finished = true }
    :: atomic { !present -> waits = true; queued = true }
        !waits;
        goto touch
    fi
}

active proctype Everybody()
{
    timeout ->
    assert(finished);
    assert(removed == 0 || !source);
    assert(memory[RECEIVED] == 1 && memory[WRITER] == 0 && memory[SHARED] == 0)
}
