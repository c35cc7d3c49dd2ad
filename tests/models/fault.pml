/*
 * A page that two vCPUs touch: fault reader, an urgent and a background placer, messages repeated by signals, and
 * another mapping of the same memory that may fill the page behind everybody's back (hazards H2, H6, H28).
 *
 * Reader: FaultReader.Serve, ServeMissing and Settle. Placers: PostcopyPlacer.PlaceStep, AlreadyPresent and Commit.
 * Stalls: BlocktimeTracker.Begin, Confirm, Cancel and End, of which tracker.pml has the inside; here the stall is
 * published without a fence, so that only the bitmaps' fences hold.
 */
#define READER 0
#define URGENT 1
#define BACKGROUND 2
#define THREADS 3

#define REQUESTED 0
#define RECEIVED 1
#define STALL 2 /* and 3: of each vCPU */
#define VARIABLES 4

#include "weak.h"

#define NONE 0
#define OPEN 1
#define CONFIRMED 2

/* The kernel. */
bool present;
bool waits[2];
bool queued[2];
byte signals = 1;

chan link = [2] of { bit };

/* What happened. */
bool finished[2];
byte blocked, asked;

inline wake()
{
    d_step { waits[0] = false; waits[1] = false; queued[0] = false; queued[1] = false }
}

/* BlocktimeTracker.Close: the compare-and-swap lets exactly one party end a stall. */
inline end_stall(who, vcpu)
{
    do
    :: seen = LOAD(who, STALL + vcpu);
        if
        :: seen == NONE -> break
        :: else ->
#ifdef NO_CLOSING_SWAP
            RELEASE(who, STALL + vcpu, NONE);
            won = true;
#else
            compare_exchange(who, STALL + vcpu, seen, NONE, won);
#endif
            if
            :: won -> assert(blocked > 0); blocked--; break
            :: else
            fi
        fi
    od
}

/* PostcopyPlacer.Commit */
inline commit(placer)
{
#ifdef NO_FENCE_RECEIVED
    unfenced_exchange(placer, RECEIVED, 1, old);
#else
    exchange(placer, RECEIVED, 1, old);
#endif
    if
    :: LOAD(placer, REQUESTED) == 1 -> end_stall(placer, 0); end_stall(placer, 1)
    :: else
    fi
}

/* PostcopyPlacer.PlaceStep: COPY makes the page present, then wakes; "already present" wakes nobody. */
inline place(by)
{
    if
    :: LOAD(by, RECEIVED) == 1
    :: else ->
        atomic { copied = !present; present = true }
        if
        :: copied -> wake()
        :: else ->
#ifndef NO_WAKE_AFTER_EEXIST
            wake()
#else
            skip
#endif
        fi;
        commit(by)
    fi
}

inline cancel()
{
    if
    :: mine ->
        compare_exchange(READER, STALL + v, OPEN, NONE, won);
        if
        :: won -> assert(blocked > 0); blocked--
        :: else
        fi
    :: else
    fi
}

active proctype Reader()
{
    byte v, seen;
    bit old;
    bool won, mine;

end:
    do
    :: atomic { queued[0] -> queued[0] = false; v = 0 }
        goto serve
    :: atomic { queued[1] -> queued[1] = false; v = 1 }
        goto serve
    od;

serve:
    if
    :: LOAD(READER, RECEIVED) == 1 -> goto received
    :: else
    fi;

    /* BlocktimeTracker.Begin: a duplicate of an open stall opens none. */
    mine = LOAD(READER, STALL + v) == NONE;
    if
    :: mine -> blocked++; RELEASE(READER, STALL + v, OPEN)
    :: else
    fi;
#ifdef NO_FENCE_REQUESTED
    unfenced_exchange(READER, REQUESTED, 1, old);
#else
    exchange(READER, REQUESTED, 1, old);
#endif
#ifndef NO_RECHECK_RECEIVED
    if
    :: LOAD(READER, RECEIVED) == 1 -> cancel(); goto received
    :: else
    fi;
#endif
    if
    :: mine -> compare_exchange(READER, STALL + v, OPEN, CONFIRMED, won)
    :: else
    fi;
#ifdef NO_LOOK_AT_REQUESTED
    old = 0;
#endif
    if
    :: old == 0 -> asked++; assert(asked == 1); link!0
    :: old == 0 && LOAD(READER, RECEIVED) == 1
        /* Its channel placed it while the reader looked for it there; or the reader does not look again. */
    :: else
    fi;
    goto next;

received:
    /* FaultReader.Settle, PostcopyPlacer.ResolveReceived: it is there, so whoever waits looks again. */
    mine = LOAD(READER, STALL + v) == NONE;
    if
    :: mine -> blocked++; RELEASE(READER, STALL + v, OPEN)
    :: else
    fi;
    wake();
    cancel();
    end_stall(READER, 0);
    end_stall(READER, 1);

next:
    mine = false;
    old = 0;
    won = false;
    seen = 0;
    goto end
}

active proctype Urgent()
{
    byte seen;
    bit old;
    bool won, copied;

end:
    link?0;
    place(URGENT)
}

active proctype Background()
{
    byte seen;
    bit old;
    bool won, copied;

    if
    :: place(BACKGROUND)
    :: skip
    fi
}

active proctype Alias()
{
    if
    :: present = true
    :: skip
    fi
}

active [2] proctype Vcpu()
{
    byte v = _pid % 2;

touch:
    if
    :: atomic { present -> finished[v] = true }
    :: atomic { !present -> waits[v] = true; queued[v] = true }
        do
        :: !waits[v] -> goto touch
        :: atomic { waits[v] && !queued[v] && signals > 0 -> signals--; queued[v] = true }
        od
    fi
}

active proctype Everybody()
{
    timeout ->
    assert(finished[0] && finished[1]);
    assert(memory[STALL] == NONE && memory[STALL + 1] == NONE);
    assert(blocked == 0)
}
