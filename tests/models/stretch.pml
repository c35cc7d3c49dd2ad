/*
 * Whole stretches (two pages here): gathered in staging in sight of the fault thread, moved under an exclusive claim,
 * and staging used again for the next stretch. Pages 0 and 1 are the first stretch, 2 and 3 the second. The channel
 * either fills the first and waits with its second page until the vCPU got the first one, or goes on to the second
 * stretch after page 0 alone; the source may send page 1 on the urgent channel too when it is asked for it.
 *
 * Channel: FillingStretch.Add, Show, Complete, End, Clear, TryBegin; PostcopyPlacer.MoveStretch and MoveClaimed.
 * Reader: FaultReader.ServeMissing, FillingStretch.TryPlaceNow, PlaceVisited, PostcopyPlacer.TryPlaceStaged.
 * Urgent: PostcopyPlacer.ClaimedStep, PlaceStep, Commit.
 */
#define CHANNEL 0
#define READER 1
#define URGENT 2
#define THREADS 3

#define REQUESTED 0 /* of pages 0 to 3 */
#define RECEIVED 4
#define HERE 8      /* _here: of index 0 and 1 */
#define FREE 10     /* _free */
#define BYTES 12    /* staging: whose content */
#define BLOCK 14
#define FIRST 15
#define VISITORS 16
#define CLAIM 17    /* of the first stretch, the only one that is contended */
#define VARIABLES 18

#include "weak.h"

#define EXCLUSIVE 255

bool present[4];
bool waits, queued, got;
byte touched, asked;
bool unasked[4];
byte refusals = 1;
chan urgent = [1] of { bit };

inline copy(by, page, source)
{
    if
    :: LOAD(by, RECEIVED + page) == 1
    :: else ->
        skip;
        atomic {
            assert(source == page);
            present[page] = true;
            if
            :: touched == page -> waits = false; queued = false
            :: else
            fi
        }
        exchange(by, RECEIVED + page, 1, old)
    fi
}

/* PostcopyPlacer.Run waits for the claim. */
inline share(holder)
{
    atomic { FENCE(holder) && memory[CLAIM] != EXCLUSIVE -> memory[CLAIM] = memory[CLAIM] + 1 }
}

inline unshare(holder)
{
    add(holder, CLAIM, 255)
}

inline place_staged()
{
    share(CHANNEL);
    copy(CHANNEL, p, memory[BYTES + i]);
    unshare(CHANNEL);
    exchange(CHANNEL, HERE + i, 0, old)
}

active proctype Channel()
{
    byte first, i, p;
    bit old;
    bool won, moved, again;

begin:
    STORE(CHANNEL, HERE, 0);
    STORE(CHANNEL, HERE + 1, 0);
    STORE(CHANNEL, FREE, 0);
    STORE(CHANNEL, FREE + 1, 0);
    RELEASE(CHANNEL, FIRST, first);
    RELEASE(CHANNEL, BLOCK, 1);

    /* Add, Show */
    i = 0;
add_page:
    p = first + i;
    if
    :: LOAD(CHANNEL, REQUESTED + p) == 1 -> copy(CHANNEL, p, p)
    :: else ->
        STORE(CHANNEL, BYTES + i, p);
#ifdef NO_FENCE_HERE
        RELEASE(CHANNEL, HERE + i, 1);
        RELEASE(CHANNEL, FREE + i, 1);
#else
        exchange(CHANNEL, HERE + i, 1, old);
        exchange(CHANNEL, FREE + i, 1, old);
#endif
#ifndef NO_SECOND_LOOK_AT_REQUESTED
        if
        :: LOAD(CHANNEL, REQUESTED + p) == 1 ->
            exchange(CHANNEL, FREE + i, 0, old);
            if
            :: old == 1 -> place_staged()
            :: else
            fi
        :: else -> unasked[p] = true
        fi
#endif
    fi;
    if
    :: i == 0 && first == 2 -> i = 1; goto add_page
    :: i == 0 && first == 0 ->
        if
        :: true -> goto finish
        :: true -> i = 1; goto add_page
        /* The source sends on only when the vCPU goes on. */
        :: true ->
            got -> i = 1; goto add_page
        fi
    :: i == 1
    fi;

    /* Complete; TryTakeAll takes one word. */
    atomic {
        FENCE(CHANNEL) ->
        won = memory[FREE] == 1 && memory[FREE + 1] == 1;
        if
        :: won -> memory[FREE] = 0; memory[FREE + 1] = 0
        :: else
        fi
    }
    if
    :: !won -> goto finish
    :: else
    fi;

    /* MoveStretch */
#ifndef NO_CLAIM
    compare_exchange(CHANNEL, CLAIM, 0, EXCLUSIVE, won);
#endif
    if
    :: won ->
#ifndef NO_SECOND_LOOK_AT_RECEIVED
        won = LOAD(CHANNEL, RECEIVED + first) == 0 && LOAD(CHANNEL, RECEIVED + first + 1) == 0;
#endif
        if
        :: won ->
            /* DONTNEED, then MOVE: what was there is gone, with what the guest wrote into it. */
            atomic { assert(!present[first] && !present[first + 1]); present[first] = false; present[first + 1] = false }
            atomic {
                assert(memory[BYTES] == first && memory[BYTES + 1] == first + 1);
                moved = !present[first] && !present[first + 1];
                if
                :: moved ->
                    present[first] = true;
                    present[first + 1] = true;
                    if
                    :: first == 0 -> waits = false; queued = false
                    :: else
                    fi
                :: else
                fi
            }
            if
            :: moved -> exchange(CHANNEL, RECEIVED + first, 1, old); exchange(CHANNEL, RECEIVED + first + 1, 1, old)
            :: else
            fi
        :: else
        fi;
#ifndef NO_CLAIM
        RELEASE(CHANNEL, CLAIM, 0)
#endif
    :: else
    fi;
    if
    :: moved -> goto clear
    :: else -> exchange(CHANNEL, FREE, 1, old); exchange(CHANNEL, FREE + 1, 1, old)
    fi;

finish:
    /* End: PlaceFree, twice */
    i = 0;
place_free:
    p = first + i;
    exchange(CHANNEL, FREE + i, 0, old);
    if
    :: old == 1 -> place_staged()
    :: else
    fi;
    if
    :: i == 0 -> i = 1; goto place_free
    :: else
    fi;
    if
    :: again -> goto ended
    :: else
    fi;

clear:
    RELEASE(CHANNEL, BLOCK, 0);
#ifndef NO_FENCE_CLEAR
    FENCE(CHANNEL);
#endif
#ifndef NO_WAIT_FOR_VISITORS
    LOAD(CHANNEL, VISITORS) == 0;
#endif
#ifndef NO_SECOND_PASS
    if
    :: !moved -> again = true; goto finish
    :: else
    fi;
#endif

ended:
    again = false;
    moved = false;
    if
    :: first == 0 -> first = 2; goto begin
    :: else
    fi
}

active proctype Reader()
{
    bit old;
    bool won, placed, found, asks, again;
    byte first, block;

end:
    if
    :: atomic { queued -> queued = false }
#ifndef NO_RETRY_OF_STAGED
    :: atomic { again -> again = false } goto look
#endif
    fi;
    if
    :: LOAD(READER, RECEIVED + touched) == 1 -> goto end
    :: else
    fi;
    exchange(READER, REQUESTED + touched, 1, old);
    asks = !old;
    if
    :: LOAD(READER, RECEIVED + touched) == 1 -> goto end
    :: else
    fi;
look:
    if
    :: LOAD(READER, BLOCK) == 0 -> goto looked
    :: else
    fi;
    add(READER, VISITORS, 1);
#ifdef FIRST_BEFORE_BLOCK
    first = LOAD(READER, FIRST);
    block = LOAD(READER, BLOCK);
#else
#ifdef NO_SECOND_LOOK_AT_BLOCK
    block = 1;
#else
    block = LOAD(READER, BLOCK);
#endif
    first = LOAD(READER, FIRST);
#endif
    if
    :: block == 1 && first == 0 && LOAD(READER, HERE + touched) == 1 ->
        found = true;
        exchange(READER, FREE + touched, 0, old);
        if
        :: old == 0
        :: else ->
            /* TryAcquireShared; and the kernel may refuse for once. */
            atomic {
                FENCE(READER) ->
                won = memory[CLAIM] != EXCLUSIVE;
                if
                :: won -> memory[CLAIM] = memory[CLAIM] + 1
                :: else
                fi
            }
            if
            :: !won
            :: won && refusals > 0 -> refusals--; unshare(READER)
            :: won ->
                copy(READER, touched, memory[BYTES + touched]);
                unshare(READER);
                exchange(READER, HERE + touched, 0, old);
                placed = true
            fi;
#ifndef NO_GIVING_BACK
            if
            :: !placed -> exchange(READER, FREE + touched, 1, old); again = true
            :: else
            fi
#endif
        fi
    :: else
    fi;
    add(READER, VISITORS, 255);
looked:
    if
    :: !found && asks ->
#ifndef NO_THIRD_LOOK_AT_RECEIVED
        if
        :: LOAD(READER, RECEIVED + touched) == 1 -> goto end
        :: else
        fi;
#endif
        assert(!unasked[touched]);
        asked++;
        urgent!0
    :: else
    fi;
    asks = false;
    placed = false;
    found = false;
    won = false;
    first = 0;
    block = 0;
    goto end
}

/* What was sent already is not sent again; page 1 may cross its own background copy, above all when the host asked for it ahead. */
active proctype Urgent()
{
    bit old;

    if
    :: true ->
        exchange(URGENT, REQUESTED + 1, 1, old);
        if
        :: !old ->
            share(URGENT);
            copy(URGENT, 1, 1);
            unshare(URGENT)
        :: else
        fi
    :: true
    fi;

end:
    urgent?0;
    if
    :: touched == 1 ->
        share(URGENT);
        copy(URGENT, 1, 1);
        unshare(URGENT)
    :: else
    fi
}

active proctype Vcpu()
{
    if
    :: touched = 0
    :: touched = 1
    fi;
touch:
    if
    :: atomic { present[touched] -> got = true }
    :: atomic { !present[touched] -> waits = true; queued = true }
        !waits;
        goto touch
    fi
}

active proctype Everybody()
{
    timeout ->
    assert(got);
    assert(present[0] && present[2] && present[3]);
    assert(memory[RECEIVED] == 1 && memory[RECEIVED + 2] == 1 && memory[RECEIVED + 3] == 1);
    assert(memory[RECEIVED + 1] == present[1])
}
