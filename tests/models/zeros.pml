/*
 * Runs of zero pages that are received and not placed yet: channel and fault thread both place pages of a run while it is in
 * sight, so nobody takes it; the entry is used again for another run. Page 1 is no page of zeros and in no run, but lies
 * between the start of the second run and the length of the first. Run 1 has pages 2 and 3, run 2 has page 0. Once the
 * channel has shown a run and seen that nobody asked for its page, nobody does.
 *
 * Channel: StagingWindow.AddZeros, PlaceZeroRuns. Reader: FaultReader.ServeMissing, StagingWindow.TryPlaceZeroNow.
 */
#define CHANNEL 0
#define READER 1
#define THREADS 2

#define FIRST 0    /* _zeros[0] */
#define PAGES 1
#define COUNT 2    /* _zeroCount */
#define VISITORS 3 /* _zeroVisitors */
#define RECEIVED 4 /* of pages 0 to 2 */
#define REQUESTED 7
#define VARIABLES 10

#include "weak.h"

#define NOBODY 3

bool present[3];
bool waits, queued;
byte touched = NOBODY;
bool unasked[3];
byte refusals = 1;
byte touches;

/* ZEROPAGE wakes whoever waits; a page that is there is left as it is. */
inline zero(by, what)
{
    if
    :: LOAD(by, RECEIVED + what) == 1
    :: else ->
        atomic {
            assert(what != 1);
            present[what] = true;
            if
            :: touched == what -> waits = false; queued = false
            :: else
            fi
        }
        exchange(by, RECEIVED + what, 1, old)
    fi
}

inline add_run(first, pages)
{
    STORE(CHANNEL, FIRST, first);
    STORE(CHANNEL, PAGES, pages);
#ifdef NO_RELEASE_COUNT
    STORE(CHANNEL, COUNT, 1);
#else
    RELEASE(CHANNEL, COUNT, 1);
#endif
#ifndef NO_FENCE_STAGED
    FENCE(CHANNEL);
#endif
    if
    :: LOAD(CHANNEL, REQUESTED + first) == 0 -> unasked[first] = true
    :: else -> zero(CHANNEL, first)
    fi
}

inline flush(page)
{
    zero(CHANNEL, page);
    RELEASE(CHANNEL, COUNT, 0);
#ifndef NO_FENCE_HIDDEN
    FENCE(CHANNEL);
#endif
#ifndef NO_WAIT_FOR_VISITORS
    LOAD(CHANNEL, VISITORS) == 0
#endif
}

active proctype Channel()
{
    bit old;

    add_run(2, 2);
    flush(2);
    add_run(0, 1);
    flush(0);
    /* Its own content, by any other way, once somebody asked or the stream gets there. */
    atomic {
        present[1] = true;
        if
        :: touched == 1 -> waits = false; queued = false
        :: else
        fi
    }
    exchange(CHANNEL, RECEIVED + 1, 1, old)
}

active proctype Reader()
{
    byte p;
    bit old;
    bool found;

end:
    do
    :: atomic { queued -> queued = false; p = touched }
        found = false;
        exchange(READER, REQUESTED + p, 1, old);
        if
        :: LOAD(READER, RECEIVED + p) == 1 -> goto next
        :: else
        fi;
        if
        :: LOAD(READER, COUNT) == 0 -> goto looked
        :: else
        fi;
#ifdef NO_FENCE_ANNOUNCED
        RELEASE(READER, VISITORS, 1);
#else
        add(READER, VISITORS, 1);
#endif
        if
        :: LOAD(READER, COUNT) == 1 ->
            old = p >= LOAD(READER, FIRST);
            if
            :: old && p - LOAD(READER, FIRST) < LOAD(READER, PAGES) ->
                found = true;
                /* The kernel may refuse for once: the channel places it. */
                if
                :: refusals > 0 -> refusals--
                :: zero(READER, p)
                fi
            :: else
            fi
        :: else
        fi;
#ifdef NO_FENCE_ANNOUNCED
        RELEASE(READER, VISITORS, 0);
#else
        add(READER, VISITORS, -1);
#endif
looked:
        if
        :: !found ->
#ifndef NO_THIRD_LOOK_AT_RECEIVED
            if
            :: LOAD(READER, RECEIVED + p) == 1 -> goto next
            :: else
            fi;
#endif
            assert(!unasked[p])
        :: else
        fi;
next:
        old = 0
    od
}

active proctype Vcpu()
{
    byte p;

    do
    :: touches == 2 -> break
    :: else ->
        touches++;
        select(p : 0 .. 2);
        if
        :: atomic { present[p] -> skip }
        :: atomic { !present[p] -> touched = p; waits = true; queued = true }
            !waits;
            touched = NOBODY
        fi
    od
}

active proctype Everybody()
{
    timeout ->
    assert(!waits && touches == 2);
    assert(memory[RECEIVED] == 1 && memory[RECEIVED + 1] == 1 && memory[RECEIVED + 2] == 1);
    assert(memory[VISITORS] == 0)
}
