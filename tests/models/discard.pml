/*
 * Pages thrown away again, by ourselves (RamBlock.Discard) and by a balloon (REMOVE): the page is received and absent at
 * first, a zero page of its first life, or received and present. Whoever touches it get it in the end: nobody may
 * sleep for ever, and no page may count as received that is not there (hazards H5, H45).
 *
 * Reader: FaultReader.ServeMissing, Settle, RetryParked; PostcopyPlacer.ResolveReceived; FaultReader.Removed.
 * Placer: PostcopyPlacer.ClaimedStep, PlaceStep. Discarder: RamBlock.DiscardPieceLocked, PageBitmap.ClearRangeInto.
 */
#define READER 0
#define PLACER 1
#define DISCARDER 2
#define THREADS 3

#define REQUESTED 0
#define RECEIVED 1
#define CLAIM 2
#define UNSENT 3
#define VARIABLES 4

#include "weak.h"

#define EXCLUSIVE 255

bool present, source;
bool waits[2];
bool queued[2];
bool finished[2];
bool removal = true;
chan link = [4] of { bit };

inline wake()
{
    d_step { waits[0] = false; waits[1] = false; queued[0] = false; queued[1] = false }
}

init
{
    /* The first life: a request was answered. */
    d_step {
        memory[REQUESTED] = 1;
        memory[RECEIVED] = 1
    }
    if
    :: atomic { present = true; source = true }
    :: skip
    fi;
    atomic {
        run Reader();
        run Placer();
        run Discarder();
        run Vcpu(0);
        run Vcpu(1);
        run Everybody()
    }
}

proctype Reader()
{
    byte v;
    bit old;
    bool parked, busy;

end:
    do
    :: atomic { queued[0] -> queued[0] = false; v = 0 }
        goto serve
    :: atomic { queued[1] -> queued[1] = false; v = 1 }
        goto serve
    /* Tried again after a pause, by when the discard is over, or later still. */
    :: parked && memory[CLAIM] != EXCLUSIVE -> parked = false; goto received
    /* A balloon's event: received from now on, reads as zeros; never while a discard is given back. */
    :: atomic { removal && !present -> removal = false }
        exchange(READER, RECEIVED, 1, old);
        wake()
    od;

serve:
    if
    :: LOAD(READER, RECEIVED) == 1 -> goto received
    :: else
    fi;
    exchange(READER, REQUESTED, 1, old);
    if
    :: LOAD(READER, RECEIVED) == 1 ->
#ifndef NO_OWED_REQUEST
        /* Requested by us, and nobody asked: owed to the page's next life. */
        if
        :: old == 0 -> exchange(READER, UNSENT, 1, old)
        :: else
        fi;
#endif
        goto received
    :: else
    fi;
    if
    :: old == 1 && LOAD(READER, UNSENT) == 0
    :: old == 0 && LOAD(READER, RECEIVED) == 1
        /* Its channel placed it while the reader looked for it there; or the reader does not look again. */
    :: else -> exchange(READER, UNSENT, 0, old); link!0
    fi;
    goto end;

received:
    atomic {
        FENCE(READER) ->
        busy = memory[CLAIM] == EXCLUSIVE;
        if
        :: busy -> parked = true
        :: else -> memory[CLAIM] = memory[CLAIM] + 1
        fi
    }
    if
    :: busy -> busy = false; goto end
    :: else
    fi;
    if
    :: LOAD(READER, RECEIVED) == 0 -> wake()
    :: else ->
        /* ZEROPAGE places and wakes; "already present" is followed by a wake. */
        atomic {
            if
            :: !present -> present = true; source = false
            :: else
            fi
        }
        wake();
        exchange(READER, RECEIVED, 1, old)
    fi;
    add(READER, CLAIM, 255);
    goto end
}

proctype Placer()
{
    bit old;

end:
    link?0;
#ifndef NO_SHARED_CLAIM
    atomic { FENCE(PLACER) && memory[CLAIM] != EXCLUSIVE -> memory[CLAIM] = memory[CLAIM] + 1 }
#endif
    if
    :: LOAD(PLACER, RECEIVED) == 1
    :: else ->
        atomic {
            if
            :: !present -> present = true; source = true
            :: else
            fi
        }
        wake();
        exchange(PLACER, RECEIVED, 1, old)
    fi;
#ifndef NO_SHARED_CLAIM
    add(PLACER, CLAIM, 255);
#endif
    goto end
}

proctype Discarder()
{
    bit old, seen;
    byte times = 2;

    do
    :: times == 0 -> break
    :: else ->
        times--;
#ifndef NO_EXCLUSIVE_CLAIM
        atomic { FENCE(DISCARDER) && memory[CLAIM] == 0 -> memory[CLAIM] = EXCLUSIVE }
#endif
        /* ClearRangeInto */
        seen = LOAD(DISCARDER, RECEIVED);
        if
        :: seen == 1 -> exchange(DISCARDER, REQUESTED, 0, old)
        :: else
        fi;
        exchange(DISCARDER, RECEIVED, 0, old);
        if
        :: old == 1 && seen == 0 -> exchange(DISCARDER, REQUESTED, 0, old)
        :: else
        fi;
        atomic { present = false; source = false }
        wake();
        RELEASE(DISCARDER, CLAIM, 0);
        FENCE(DISCARDER)
    od
}

proctype Vcpu(byte v)
{
touch:
    if
    :: atomic { present -> finished[v] = true }
    :: atomic { !present -> waits[v] = true; queued[v] = true }
        !waits[v];
        goto touch
    fi
}

proctype Everybody()
{
    timeout ->
    assert(finished[0] && finished[1]);
    /* A page that is marked received is there, or was taken by the balloon. */
    assert(memory[RECEIVED] == 0 || present || !removal);
    assert(memory[RECEIVED] == 1 || !present);
    assert(memory[CLAIM] == 0)
}
