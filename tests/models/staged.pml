/*
 * Received and not placed yet: a channel's staging window against the fault thread. The source sends page 1 only after
 * the vCPU got page 0, or at any time; it never sends a page twice, so what stays staged and awaited is lost. The
 * channel receives page 1 into the buffer that page 0 was in, and into the same entry of the window. Once the channel has
 * staged a page and seen that nobody asked for it, nobody does.
 *
 * Channel: StagingWindow.AddUnstaged, PlaceAwaited, FlushPages, PlaceTaken; ChannelPlacer.FlushPages before a read that may block.
 * Reader: FaultReader.ServeMissing, StagingWindow.TryPlaceNow, PostcopyPlacer.TryPlaceStaged.
 */
#define CHANNEL 0
#define READER 1
#define THREADS 2

#define REQUESTED 0 /* and 1: of each page */
#define RECEIVED 2
#define PAGE 4      /* _pages[0] */
#define BYTES 5     /* the receive buffer: whose content is in it */
#define STATE 6     /* _states[0] */
#define COUNT 7     /* _count */
#define VARIABLES 8

#include "weak.h"

#define FREE 0
#define STAGED 1
#define TAKEN 2
#define DONE 3

bool present[2];
bool waits, queued;
byte touched = 2;
byte refusals = 1;
byte asked[2];
bool got[2];
bool unasked[2];

/* COPY and the received bit; the copy reads the buffer when it gets to it. */
inline place(by, what)
{
    if
    :: LOAD(by, RECEIVED + what) == 1
    :: else ->
        skip;
        atomic {
            assert(memory[BYTES] == what);
            present[what] = true;
            if
            :: touched == what -> waits = false; queued = false
            :: else
            fi
        }
        exchange(by, RECEIVED + what, 1, old)
    fi
}

inline take(taker)
{
#ifdef NO_TAKING_SWAP
    won = LOAD(taker, STATE) == STAGED;
    if
    :: won -> RELEASE(taker, STATE, TAKEN)
    :: else
    fi
#else
    compare_exchange(taker, STATE, STAGED, TAKEN, won)
#endif
}

inline add_page(next)
{
    STORE(CHANNEL, BYTES, next);
    STORE(CHANNEL, PAGE, next);
#ifdef NO_RELEASE_STAGED
    STORE(CHANNEL, STATE, STAGED);
#else
    RELEASE(CHANNEL, STATE, STAGED);
#endif
    RELEASE(CHANNEL, COUNT, 1);
#ifndef NO_FENCE_STAGED
    FENCE(CHANNEL);
#endif
    if
    :: LOAD(CHANNEL, REQUESTED + next) == 0 -> unasked[next] = true
    :: else ->
        take(CHANNEL);
        if
        :: won -> place(CHANNEL, next); RELEASE(CHANNEL, STATE, DONE)
        :: else
        fi
    fi
}

inline flush(last)
{
    take(CHANNEL);
    if
    :: won -> place(CHANNEL, last); RELEASE(CHANNEL, STATE, DONE)
    :: else
    fi;
#ifndef NO_WAIT_FOR_THE_FAULT_THREAD
    do
    :: LOAD(CHANNEL, STATE) == DONE -> break
    :: LOAD(CHANNEL, STATE) == STAGED ->
        take(CHANNEL);
        if
        :: won -> place(CHANNEL, last); RELEASE(CHANNEL, STATE, DONE)
        :: else
        fi
    od;
#endif
    STORE(CHANNEL, STATE, FREE);
    RELEASE(CHANNEL, COUNT, 0)
}

active proctype Channel()
{
    bool won;
    bit old;
    bool flushed;

    add_page(0);
#ifndef NO_FLUSH_BEFORE_READ
    flush(0);
    flushed = true;
#endif
    /* The socket is empty until the source goes on. */
    if
    :: true -> got[0]
    :: true
    fi;
    if
    :: !flushed -> flush(0)
    :: else
    fi;
    add_page(1);
    flush(1)
}

active proctype Reader()
{
    byte p;
    bit old;
    bool won, mine, placed, found, asks;

end:
    do
    :: atomic { queued -> queued = false; p = touched }
        if
        :: LOAD(READER, RECEIVED + p) == 1 -> goto next
        :: else
        fi;
        exchange(READER, REQUESTED + p, 1, old);
        asks = old == 0;
        if
        :: LOAD(READER, RECEIVED + p) == 1 -> goto next
        :: else
        fi;
        found = false;
        placed = false;
        if
        :: LOAD(READER, COUNT) == 0 -> goto looked
        :: else
        fi;
        if
        :: LOAD(READER, PAGE) != p -> goto looked
        :: else
        fi;
        take(READER);
        if
        :: won ->
#ifdef NO_SECOND_LOOK
            mine = true;
#else
            mine = LOAD(READER, PAGE) == p;
#endif
            if
            :: mine && refusals > 0 -> refusals--
            :: mine -> place(READER, p); placed = true
            :: !mine
            fi;
            found = mine;
#ifdef NO_GIVING_BACK
            placed = true;
#endif
            RELEASE(READER, STATE, (placed -> DONE : STAGED))
        :: else ->
            /* In the channel's hand. */
            found = LOAD(READER, STATE) == TAKEN && LOAD(READER, PAGE) == p
        fi;
looked:
        if
        :: asks && !found ->
#ifndef NO_THIRD_LOOK_AT_RECEIVED
            if
            :: LOAD(READER, RECEIVED + p) == 1 -> goto next
            :: else
            fi;
#endif
            asked[p]++;
            assert(asked[p] == 1 && !unasked[p])
        :: else
        fi;
next:
        found = false;
        placed = false;
        won = false;
        mine = false;
        asks = false;
        old = 0
    od
}

active proctype Vcpu()
{
    byte p;

    do
    :: p == 2 -> break
    :: else ->
        if
        :: atomic { present[p] -> got[p] = true; touched = 2; p++ }
        :: atomic { !present[p] -> touched = p; waits = true; queued = true }
            !waits
        fi
    od
}

active proctype Everybody()
{
    timeout ->
    assert(got[0] && got[1]);
    assert(memory[RECEIVED] == 1 && memory[RECEIVED + 1] == 1)
}
